"""The three plain networks of Gulati's report "CondenseNet: Reducing Parameters of CNN" (2017), tables 1 to 3.

The report starts from truncated normal weights (deviation 0.1) and biases of 0.1; here the layers keep PyTorch's own
initial weights. The report's dropout (keep 0.9 after FC-1) is the default.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_count, check_image
from netpress.zoo.variant import Variant


def _variant(kernel: int, *, params: int, macs: int, table: int) -> Variant:
    return Variant(
        settings={"kernel": kernel, "fc": 512},
        shape=(1, 28, 28),
        num_classes=10,
        params=params,
        macs=macs,
        activation_floats=95_386,
        source=f"Gulati 2017, CondenseNet: Reducing Parameters of CNN, table {table}",
        status="EXACT",
    )


VARIANTS = {
    "mnist-initial": _variant(5, params=3_423_498, macs=44_611_584, table=1),
    "mnist-modification-1": _variant(3, params=3_291_402, macs=18_118_656, table=2),
    "mnist-modification-2": _variant(1, params=3_225_354, macs=4_872_192, table=3),
}


def build(
    *, kernel: int, fc: int, num_classes: int = 10, in_channels: int = 1, size: int = 28, dropout: float = 0.1
) -> nn.Sequential:
    """Build conv k×k (64) - pool - conv k×k (128) - pool - FC - FC, ReLU after all but the last.

    Args:
        kernel: height and width of both convolutions' filters, odd ("same" padding).
        fc: width of the hidden linear layer.
        num_classes: outputs.
        in_channels: channels of the image.
        size: height and width of the image, pixels, at least 4.
        dropout: probability of zeroing after the hidden layer.

    Returns:
        The network: (n, in_channels, size, size) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range.

    >>> build(kernel=3, fc=512).fc1.in_features
    6272
    """
    check_image(num_classes=num_classes, in_channels=in_channels, size=size, dropout=dropout)
    check_count("kernel", kernel, most=31)
    check_count("fc", fc)
    if kernel % 2 == 0 or size < 4:
        raise ModelError(f"zoo: kernel must be odd and size at least 4, got kernel {kernel}, size {size}")
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 64, kernel, padding=kernel // 2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(64, 128, kernel, padding=kernel // 2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(1),
            fc1=nn.Linear(128 * (size // 2 // 2) ** 2, fc),
            relu3=nn.ReLU(),
            drop1=nn.Dropout(dropout),
            fc2=nn.Linear(fc, num_classes),
        )
    )
