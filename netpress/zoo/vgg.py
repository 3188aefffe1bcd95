"""VGG-16, and VGG-16 with batch norm for CIFAR: stages of 3×3 convolutions, a pool after each.

Layers are named as in the paper's model files: conv1_1, conv1_2, ... conv5_3, fc6, fc7, fc8. Convolutions start from
He et al.'s weights: from PyTorch's usual ones VGG-16 without batch norm does not learn.
"""

from collections import OrderedDict

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_choice, check_counts, check_image
from netpress.zoo.convolutions import he_initial
from netpress.zoo.variant import Variant

_SIXTEEN = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

VARIANTS = {
    "vgg16": Variant(
        settings={"stages": _SIXTEEN, "hidden": (4096, 4096), "norm": "none", "size": 224},
        shape=(3, 224, 224),
        num_classes=1000,
        params=138_357_544,
        macs=15_470_264_320,
        source="Simonyan and Zisserman 2015, table 1, column D (138M)",
        status="EXACT",
    ),
    "cifar-vgg16-bn": Variant(
        settings={"stages": _SIXTEEN, "hidden": (512,), "norm": "batch", "size": 32, "num_classes": 10, "dropout": 0.0},
        shape=(3, 32, 32),
        num_classes=10,
        params=14_991_946,
        macs=313_463_808,
        source="Li et al. 2017, Pruning Filters for Efficient ConvNets, section 4.1 (1.5e7 parameters, 3.13e8 FLOP)",
        status="EXACT",
        note="One hidden linear layer of 512; batch norm after every convolution and after the hidden layer.",
    ),
}

_CONVS = tuple(f"conv{stage}_{number}" for stage, each in enumerate(_SIXTEEN, 1) for number in range(1, len(each) + 1))
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of torchvision's convolutions in `features`
TORCHVISION = (
    *((rf"^features\.{place}\.", f"{conv}.") for place, conv in zip(_PLACES, _CONVS, strict=True)),
    (r"^classifier\.0\.", "fc6."),
    (r"^classifier\.3\.", "fc7."),
    (r"^classifier\.6\.", "fc8."),
)


def build(
    *,
    stages: tuple[tuple[int, ...], ...],
    hidden: tuple[int, ...],
    norm: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    size: int = 224,
    dropout: float = 0.5,
) -> nn.Sequential:
    """Build `conv1_1 [norm1_1] relu1_1 ... pool1 conv2_1 ... pool5 flatten fc6 [norm6] relu6 drop6 ... fc8`.

    Args:
        stages: for each stage the filters of its 3×3 convolutions; a 2×2 max pool ends each.
        hidden: widths of the hidden linear layers.
        norm: "batch" (after each convolution and hidden layer) or "none".
        num_classes: outputs.
        in_channels: channels of the image.
        size: height and width of the image, pixels; the first linear layer takes all that the last pool leaves.
        dropout: probability of zeroing after each hidden layer.

    Returns:
        The network: (n, in_channels, size, size) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range, or the image is too small; says the smallest size.

    >>> build(stages=((8,), (16, 16)), hidden=(32,), norm="batch", size=32).fc3.in_features
    1024
    """
    check_image(num_classes=num_classes, in_channels=in_channels, size=size, dropout=dropout)
    check_choice("norm", norm, ("none", "batch"))
    table = _table(stages)
    side = size >> len(table)
    if side < 1:
        raise ModelError(f"zoo: an image of size {size} is too small for vgg; the smallest is {1 << len(table)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = in_channels
    for stage, filters in enumerate(table, start=1):
        for number, outputs in enumerate(filters, start=1):
            layers[f"conv{stage}_{number}"] = nn.Conv2d(width, outputs, 3, padding=1)
            if norm == "batch":
                layers[f"norm{stage}_{number}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{stage}_{number}"] = nn.ReLU()
            width = outputs
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten(1)
    features = width * side * side
    for number, units in enumerate(check_counts("hidden", hidden), start=len(table) + 1):
        layers[f"fc{number}"] = nn.Linear(features, units)
        if norm == "batch":
            layers[f"norm{number}"] = nn.BatchNorm1d(units)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"drop{number}"] = nn.Dropout(dropout)
        features = units
    layers[f"fc{len(table) + 1 + len(hidden)}"] = nn.Linear(features, num_classes)
    net = nn.Sequential(layers)
    he_initial(net)
    return net


def _table(stages: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    if not isinstance(stages, list | tuple) or not 1 <= len(stages) <= 12 or not all(stages):
        raise ModelError(f"zoo: setting stages must be 1 to 12 lists of filters, none empty, got {stages!r}")
    return tuple(check_counts("stages", filters) for filters in stages)
