"""ResNet-8 for CIFAR-10, of the MLPerf Tiny benchmark.

Made in Keras, whose ways it keeps: see `convolutions.keras_conv`. The shortcut where a stage halves the size is a 1×1
convolution without batch norm.

Source: Banbury et al. 2021, MLPerf Tiny Benchmark; reference implementation in `mlcommons/tiny`.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_counts, check_image
from netpress.zoo.convolutions import keras_conv
from netpress.zoo.variant import Variant

VARIANTS = {
    "mlperf-tiny-resnet8": Variant(
        settings={"widths": (16, 32, 64)},
        shape=(3, 32, 32),
        num_classes=10,
        params=78_186,
        macs=12_501_632,
        source="Banbury et al. 2021, MLPerf Tiny Benchmark, image classification; its published weights",
        status="EXACT",
        note="The published weights hold 78,666 numbers: 78,186 parameters and 480 statistics of batch norm.",
    )
}

KERAS = (
    (r"^conv2d\.", "stem.conv."),
    (r"^conv2d_1\.", "block1.first.conv."),
    (r"^conv2d_2\.", "block1.second.conv."),
    (r"^conv2d_3\.", "block2.first.conv."),
    (r"^conv2d_4\.", "block2.second.conv."),
    (r"^conv2d_5\.", "block2.shortcut."),
    (r"^conv2d_6\.", "block3.first.conv."),
    (r"^conv2d_7\.", "block3.second.conv."),
    (r"^conv2d_8\.", "block3.shortcut."),
    (r"^batch_normalization\.", "stem.norm."),
    (r"^batch_normalization_1\.", "block1.first.norm."),
    (r"^batch_normalization_2\.", "block1.second.norm."),
    (r"^batch_normalization_3\.", "block2.first.norm."),
    (r"^batch_normalization_4\.", "block2.second.norm."),
    (r"^batch_normalization_5\.", "block3.first.norm."),
    (r"^batch_normalization_6\.", "block3.second.norm."),
    (r"^dense\.", "fc."),
)
"""Names in the published weights -> ours."""


class KerasBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, by a 1×1 convolution where the size halves.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution, and of the shortcut.

    >>> KerasBlock(4, 8, stride=2)(torch.zeros(1, 4, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = keras_conv(inputs, outputs, 3, stride=stride, activation=nn.ReLU())
        self.second = keras_conv(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of x's size over the stride, rounded up."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def build(
    *, widths: tuple[int, ...] = (16, 32, 64), num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> nn.Sequential:
    """Build `stem block1 block2 block3 pool flatten drop fc`.

    Args:
        widths: channels of each block; the first block keeps the size, each other halves it.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier.

    Returns:
        The network: (n, in_channels, any height, any width) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range.

    >>> sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in build().modules())  # two of them in shortcuts
    10
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    if not check_counts("widths", widths):
        raise ModelError("zoo: setting widths must be a list of at least one integer, got none")
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=keras_conv(in_channels, widths[0], 3, activation=nn.ReLU()))
    inputs = widths[0]
    for number, width in enumerate(widths, start=1):
        layers[f"block{number}"] = KerasBlock(inputs, width, stride=1 if number == 1 else 2)
        inputs = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["drop"] = nn.Dropout(dropout)
    layers["fc"] = nn.Linear(inputs, num_classes)
    return nn.Sequential(layers)
