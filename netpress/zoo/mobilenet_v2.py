"""MobileNet-v2: inverted residual blocks, at any width.

Source: Sandler et al. 2018, MobileNetV2, table 2. Widths are rounded to multiples of 8 as in the published networks.
"""

from collections import OrderedDict

from torch import Tensor, nn

from netpress.space import Choice
from netpress.zoo.checks import check_choice, check_image, check_number
from netpress.zoo.convolutions import conv_norm
from netpress.zoo.variant import Variant

STEM, HEAD = 32, 1280
STAGES = (  # (expansion, outputs, blocks, stride of the first)
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

SPACE = {"width": Choice((0.35, 0.5, 0.75, 1.0, 1.3, 1.4))}

VARIANTS = {
    "mobilenet-v2": Variant(
        settings={"width": 1.0},
        shape=(3, 224, 224),
        num_classes=1000,
        params=3_504_872,
        macs=300_774_272,
        source="Sandler et al. 2018, MobileNetV2, tables 2 and 4 (3.4M, 300M multiply-adds)",
        status="NEAR",
        note="The paper prints 3.4M parameters; this table, and torchvision's network, have 3.50M with the classifier.",
    )
}

TORCHVISION = (
    (r"^features\.0\.0\.", "stem.conv."),
    (r"^features\.0\.1\.", "stem.norm."),
    (r"^features\.18\.0\.", "head.conv."),
    (r"^features\.18\.1\.", "head.norm."),
    # the first block has no expansion: its parts stand one place earlier
    (r"^features\.1\.conv\.0\.0\.", "block1.depthwise.conv."),
    (r"^features\.1\.conv\.0\.1\.", "block1.depthwise.norm."),
    (r"^features\.1\.conv\.1\.", "block1.project.conv."),
    (r"^features\.1\.conv\.2\.", "block1.project.norm."),
    (r"^features\.(\d+)\.conv\.0\.0\.", r"block\1.expand.conv."),
    (r"^features\.(\d+)\.conv\.0\.1\.", r"block\1.expand.norm."),
    (r"^features\.(\d+)\.conv\.1\.0\.", r"block\1.depthwise.conv."),
    (r"^features\.(\d+)\.conv\.1\.1\.", r"block\1.depthwise.norm."),
    (r"^features\.(\d+)\.conv\.2\.", r"block\1.project.conv."),
    (r"^features\.(\d+)\.conv\.3\.", r"block\1.project.norm."),
    (r"^classifier\.1\.", "fc."),
)


class InvertedResidual(nn.Module):
    """1×1 to more channels, depthwise 3×3, 1×1 to few channels; x is added where the shape is kept.

    Args:
        inputs, outputs: channels.
        expansion: hidden channels over inputs; 1 leaves the first convolution out.
        stride: of the depthwise convolution.

    Source: Sandler et al. 2018, figure 3b and table 1. ReLU6 follows the first two convolutions only.

    >>> import torch
    >>> InvertedResidual(8, 8, expansion=6, stride=1)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    """

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_norm(inputs, hidden, 1, activation=nn.ReLU6()) if expansion > 1 else nn.Identity()
        self.depthwise = conv_norm(hidden, hidden, 3, stride=stride, groups=hidden, activation=nn.ReLU6())
        self.project = conv_norm(hidden, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of x's size over the stride."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


def build(
    *, width: float, stem_stride: int = 2, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2
) -> nn.Sequential:
    """Build `stem block1 ... block17 head pool flatten drop fc`.

    Args:
        width: multiplier of every layer's channels; the head is never narrower than 1280.
        stem_stride: of the first convolution; 1 suits small images.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier.

    Returns:
        The network: (n, in_channels, any height, any width) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range.

    >>> build(width=0.5).block17.project.conv.out_channels
    160
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_number("width", width, low=0.01, high=8)
    check_choice("stem_stride", stem_stride, (1, 2))
    inputs = _eights(STEM * width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=conv_norm(in_channels, inputs, 3, stride=stem_stride, activation=nn.ReLU6())
    )
    number = 1
    for expansion, channels, blocks, first in STAGES:
        outputs = _eights(channels * width)
        for stride in (first, *[1] * (blocks - 1)):
            layers[f"block{number}"] = InvertedResidual(inputs, outputs, expansion=expansion, stride=stride)
            inputs, number = outputs, number + 1
    head = _eights(HEAD * max(1.0, width))
    layers["head"] = conv_norm(inputs, head, 1, activation=nn.ReLU6())
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["drop"] = nn.Dropout(dropout)
    layers["fc"] = nn.Linear(head, num_classes)
    return nn.Sequential(layers)


def _eights(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and not more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
