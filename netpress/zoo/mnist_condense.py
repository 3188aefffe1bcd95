"""The four condensed networks of Gulati's report "CondenseNet: Reducing Parameters of CNN" (2017), tables 5 to 8.

A condense module squeezes the channels by a 1×1 convolution without activation and expands them again by parallel 1×1
and 3×3 convolutions. The report starts from truncated normal weights (deviation 0.1) and biases of 0.1; here the
layers keep PyTorch's own initial weights. The report's dropout (keep 0.9 after FC-1) is the default.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.blocks import Expand
from netpress.zoo.checks import check_count, check_image
from netpress.zoo.variant import Variant


def _variant(pool: int, fc: int, *, params: int, macs: int, activation_floats: int, table: int) -> Variant:
    return Variant(
        settings={"pool": pool, "fc": fc},
        shape=(1, 28, 28),
        num_classes=10,
        params=params,
        macs=macs,
        activation_floats=activation_floats,
        source=f"Gulati 2017, CondenseNet: Reducing Parameters of CNN, table {table}",
        status="EXACT",
    )


VARIANTS = {
    "condensenet-mnist-vanilla": _variant(4, 256, params=535_066, macs=2_383_360, activation_floats=94_042, table=5),
    "condensenet-mnist-1": _variant(7, 256, params=141_850, macs=1_990_144, activation_floats=92_506, table=6),
    "condensenet-mnist-2": _variant(7, 128, params=74_906, macs=1_923_328, activation_floats=92_378, table=7),
    "condensenet-mnist-3": _variant(4, 64, params=139_738, macs=1_988_224, activation_floats=93_850, table=8),
}


def build(
    *, pool: int, fc: int, num_classes: int = 10, in_channels: int = 1, size: int = 28, dropout: float = 0.1
) -> nn.Sequential:
    """Build conv 3×3 (64) - pool 2 - condense (16) - expand (96 + 32) - pool - FC - FC.

    The second pool is a "same" pool: ceil(side / pool) outputs per side. Its padding is symmetric (rounded up), which
    is exact for the report's 28×28 images; a one-sided pad would differ by one pixel at some other sizes.

    Args:
        pool: window and stride of the second pool, at least 2.
        fc: width of the hidden linear layer.
        num_classes: outputs.
        in_channels: channels of the image.
        size: height and width of the image, pixels, at least 2.
        dropout: probability of zeroing after the hidden layer.

    Returns:
        The network: (n, in_channels, size, size) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range.

    >>> build(pool=4, fc=256).fc1.in_features
    2048
    """
    check_image(num_classes=num_classes, in_channels=in_channels, size=size, dropout=dropout)
    check_count("pool", pool, most=64)
    check_count("fc", fc)
    if pool < 2 or size < 2:
        raise ModelError(f"zoo: pool and size must be at least 2, got pool {pool}, size {size}")
    side = size // 2
    out = -(-side // pool)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 64, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            condense=nn.Conv2d(64, 16, 1),
            expand=Expand(16, 96, 32),
            pool2=nn.MaxPool2d(pool, stride=pool, padding=(out * pool - side + 1) // 2),
            flatten=nn.Flatten(1),
            fc1=nn.Linear(128 * out * out, fc),
            relu2=nn.ReLU(),
            drop1=nn.Dropout(dropout),
            fc2=nn.Linear(fc, num_classes),
        )
    )
