"""MobileNet-v1 0.25 for images of 96×96 with or without a person, of the MLPerf Tiny benchmark.

Made in Keras, whose ways it keeps (see `convolutions.keras_conv`); otherwise `mobilenet_v1` at a width of 0.25.

Source: Banbury et al. 2021, MLPerf Tiny Benchmark; reference implementation in `mlcommons/tiny`.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.space import Choice
from netpress.zoo.checks import check_image, check_number
from netpress.zoo.convolutions import keras_conv
from netpress.zoo.mobilenet_v1 import BLOCKS, STEM
from netpress.zoo.variant import Variant

SPACE = {"width": Choice((0.25, 0.5, 0.75, 1.0))}

VARIANTS = {
    "mlperf-tiny-mobilenet": Variant(
        settings={"width": 0.25},
        shape=(3, 96, 96),
        num_classes=2,
        params=216_322,
        macs=7_489_664,
        source="Banbury et al. 2021, MLPerf Tiny Benchmark, visual wake words; its published weights",
        status="EXACT",
        note="The published weights hold 221,794 numbers: 216,322 parameters and 5,472 statistics of batch norm.",
    )
}


def _number(index: int) -> str:
    """Keras's ending of the index-th layer of a kind, counted from 0: nothing for the first, then _1, _2, ..."""
    return f"_{index}" if index else ""


KERAS = (
    (r"^conv2d\.", "stem.conv."),
    (r"^batch_normalization\.", "stem.norm."),
    *((rf"^depthwise_conv2d{_number(i)}\.", f"block{i + 1}.depthwise.conv.") for i in range(len(BLOCKS))),
    *((rf"^batch_normalization_{2 * i + 1}\.", f"block{i + 1}.depthwise.norm.") for i in range(len(BLOCKS))),
    *((rf"^conv2d_{i + 1}\.", f"block{i + 1}.pointwise.conv.") for i in range(len(BLOCKS))),
    *((rf"^batch_normalization_{2 * i + 2}\.", f"block{i + 1}.pointwise.norm.") for i in range(len(BLOCKS))),
    (r"^dense\.", "fc."),
)
"""Names in the published weights -> ours."""


def build(*, width: float = 0.25, num_classes: int = 2, in_channels: int = 3, dropout: float = 0.0) -> nn.Sequential:
    """Build `stem block1 ... block13 pool flatten drop fc`.

    Args:
        width: multiplier of every layer's channels, rounded down.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier.

    Returns:
        The network: (n, in_channels, any height, any width) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range, or a layer would have no filters.

    >>> build().fc.in_features
    256
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_number("width", width, low=0, high=8)
    inputs = int(STEM * width)
    if inputs < 1:
        raise ModelError(f"zoo: width {width} leaves stem with 0 filters; at least {1 / STEM} gives it one")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=keras_conv(in_channels, inputs, 3, stride=2, activation=nn.ReLU())
    )
    for number, (channels, stride) in enumerate(BLOCKS, start=1):
        outputs = int(channels * width)
        depthwise = keras_conv(inputs, inputs, 3, stride=stride, groups=inputs, activation=nn.ReLU())
        pointwise = keras_conv(inputs, outputs, 1, activation=nn.ReLU())
        layers[f"block{number}"] = nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))
        inputs = outputs
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["drop"] = nn.Dropout(dropout)
    layers["fc"] = nn.Linear(inputs, num_classes)
    return nn.Sequential(layers)
