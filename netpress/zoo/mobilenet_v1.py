"""MobileNet-v1: a 3×3 convolution, then thirteen depthwise separable ones, at any width.

Source: Howard et al. 2017, MobileNets, table 1. Every width is int(channels * width), as in the published networks.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.space import Choice
from netpress.zoo.checks import check_choice, check_image, check_number
from netpress.zoo.convolutions import conv_norm, mobile_separable
from netpress.zoo.variant import Variant

STEM = 32
BLOCKS = (  # (outputs, stride) of each separable convolution
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)

SPACE = {"width": Choice((0.25, 0.5, 0.75, 1.0))}

VARIANTS = {
    "mobilenet-v1": Variant(
        settings={"width": 1.0},
        shape=(3, 224, 224),
        num_classes=1000,
        params=4_231_976,
        macs=568_740_352,
        source="Howard et al. 2017, MobileNets, table 1 (4.2M, 569M multiply-adds)",
        status="EXACT",
    )
}


def build(
    *, width: float, stem_stride: int = 2, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0
) -> nn.Sequential:
    """Build `stem block1 ... block13 pool flatten drop fc`.

    Args:
        width: multiplier of every layer's channels, rounded down.
        stem_stride: of the first convolution; 1 suits small images.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier.

    Returns:
        The network: (n, in_channels, any height, any width) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range, or a layer would have no filters.

    >>> build(width=0.25).fc.in_features
    256
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_number("width", width, low=0, high=8)
    check_choice("stem_stride", stem_stride, (1, 2))
    inputs = int(STEM * width)
    if inputs < 1:
        raise ModelError(f"zoo: width {width} leaves stem with 0 filters; at least {1 / STEM} gives it one")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=conv_norm(in_channels, inputs, 3, stride=stem_stride, activation=nn.ReLU())
    )
    for number, (channels, stride) in enumerate(BLOCKS, start=1):
        outputs = int(channels * width)
        layers[f"block{number}"] = mobile_separable(inputs, outputs, stride=stride)
        inputs = outputs
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["drop"] = nn.Dropout(dropout)
    layers["fc"] = nn.Linear(inputs, num_classes)
    return nn.Sequential(layers)
