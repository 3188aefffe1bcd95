"""DenseNet-BC: every layer of a block sees all outputs before it; for ImageNet, and for CIFAR.

Source: Huang et al. 2017, Densely Connected Convolutional Networks; layer names and ImageNet form as torchvision's.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_choice, check_count, check_counts, check_image
from netpress.zoo.dense_blocks import DenseLayer
from netpress.zoo.variant import Variant

_STEMS = ("imagenet", "cifar")


def _variant(blocks: tuple[int, ...], *, params: int, macs: int) -> Variant:
    return Variant(
        settings={"blocks": blocks, "growth": 32, "bottleneck": 4, "stem": "imagenet"},
        shape=(3, 224, 224),
        num_classes=1000,
        params=params,
        macs=macs,
        source="Huang et al. 2017, DenseNet, table 1; parameters as torchvision's",
        status="EXACT",
    )


VARIANTS = {
    "densenet121": _variant((6, 12, 24, 16), params=7_978_856, macs=2_834_161_664),
    "densenet169": _variant((6, 12, 32, 32), params=14_149_480, macs=3_359_843_328),
    "densenet201": _variant((6, 12, 48, 32), params=20_013_928, macs=4_291_365_888),
    "cifar-densenet-bc-100": Variant(
        settings={"blocks": (16, 16, 16), "growth": 12, "bottleneck": 4, "stem": "cifar", "num_classes": 10},
        shape=(3, 32, 32),
        num_classes=10,
        params=769_162,
        macs=287_929_692,
        source="Huang et al. 2017, DenseNet, table 2 (DenseNet-BC, k = 12, depth 100: 0.8M)",
        status="EXACT",
    ),
}

TORCHVISION: tuple[tuple[str, str], ...] = (
    (r"^features\.", ""),
    (r"\.(norm|conv)\.([12])\.", r".\1\2."),  # as in its files, which are older than its code
    (r"^(conv|norm)0\.", r"\g<1>1."),
    (r"^denseblock(\d)\.denselayer", r"block\1.layer"),
    (r"^norm5\.", "norm."),
    (r"^classifier\.", "fc."),
)
"""torchvision's names of densenet's tensors, in ours."""


def build(
    *,
    blocks: tuple[int, ...],
    growth: int,
    bottleneck: int,
    stem: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build `conv1 [norm1 relu1 pool1] block1 transition1 ... blockN norm relu pool flatten fc`, fully convolutional.

    Between two blocks a transition halves the channels (1×1 convolution) and both sides (average pool).

    Args:
        blocks: dense layers in each block.
        growth: k, channels that each dense layer adds; conv1 has 2 k.
        bottleneck: a layer's 1×1 convolution has bottleneck * k outputs.
        stem: "imagenet": 7×7 of stride 2 and a max pool; "cifar": 3×3 of stride 1.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing behind each dense layer's 3×3 convolution.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range.

    >>> build(blocks=(2, 2), growth=12, bottleneck=4, stem="cifar").fc.in_features
    48
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_choice("stem", stem, _STEMS)
    check_count("growth", growth, most=1024)
    check_count("bottleneck", bottleneck, most=64)
    counts = check_counts("blocks", blocks)
    if not 1 <= len(counts) <= 8 or sum(counts) > 1024:
        raise ModelError(f"zoo: setting blocks must be 1 to 8 numbers of at most 1024 layers together, got {blocks!r}")
    layers = _stem(stem, in_channels, 2 * growth)
    width = 2 * growth
    for number, count in enumerate(counts, start=1):
        block: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(count):
            block[f"layer{i + 1}"] = _layer(width + i * growth, growth, bottleneck, dropout)
        layers[f"block{number}"] = nn.Sequential(block)
        width += count * growth
        if number < len(counts):
            layers[f"transition{number}"] = _transition(width)
            width //= 2
    layers |= {"norm": nn.BatchNorm2d(width), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
    layers |= {"flatten": nn.Flatten(1), "fc": nn.Linear(width, num_classes)}
    return nn.Sequential(layers)


def _stem(stem: str, in_channels: int, outputs: int) -> OrderedDict[str, nn.Module]:
    if stem == "cifar":
        return OrderedDict(conv1=nn.Conv2d(in_channels, outputs, 3, padding=1, bias=False))
    return OrderedDict(
        conv1=nn.Conv2d(in_channels, outputs, 7, stride=2, padding=3, bias=False),
        norm1=nn.BatchNorm2d(outputs),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(3, stride=2, padding=1),
    )


def _layer(inputs: int, growth: int, bottleneck: int, dropout: float) -> DenseLayer:
    middle = bottleneck * growth
    return DenseLayer(
        OrderedDict(
            norm1=nn.BatchNorm2d(inputs),
            relu1=nn.ReLU(),
            conv1=nn.Conv2d(inputs, middle, 1, bias=False),
            norm2=nn.BatchNorm2d(middle),
            relu2=nn.ReLU(),
            conv2=nn.Conv2d(middle, growth, 3, padding=1, bias=False),
            drop=nn.Dropout(dropout),
        )
    )


def _transition(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(inputs),
            relu=nn.ReLU(),
            conv=nn.Conv2d(inputs, inputs // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )
