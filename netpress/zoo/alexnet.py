"""AlexNet in the three forms that the papers count: torchvision's, the slides' ungrouped one, and Caffe's.

Layers are named as in Caffe's model files: conv1 to conv5, fc6 to fc8. Every form has 6×6 pixels before fc6 at its own
image size; at another `size` fc6 takes as many pixels as there are. (torchvision averages any size to 6×6, which at 224
changes nothing.)
"""

from collections import OrderedDict
from itertools import count

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.checks import check_choice, check_count, check_counts, check_image
from netpress.zoo.convolutions import group_conv
from netpress.zoo.variant import Variant

VARIANTS = {
    "alexnet": Variant(
        settings={"filters": (64, 192, 384, 256, 256), "padding": 2, "groups": 1, "norm": "none", "size": 224},
        shape=(3, 224, 224),
        num_classes=1000,
        params=61_100_840,
        macs=714_188_480,
        source="Krizhevsky 2014, One weird trick; torchvision's layer table",
        status="EXACT",
    ),
    "alexnet-227": Variant(
        settings={"filters": (96, 256, 384, 384, 256), "padding": 0, "groups": 1, "norm": "none", "size": 227},
        shape=(3, 227, 227),
        num_classes=1000,
        params=62_378_344,
        macs=1_135_256_096,
        source="Krizhevsky et al. 2012 without groups, as Compressing Neural Networks Structures counts it (62.3M)",
        status="EXACT",
        note="The slides print a 224x224 image; 11x11 filters at stride 4 without padding need 227x227.",
    ),
    "alexnet-caffe": Variant(
        settings={"filters": (96, 256, 384, 384, 256), "padding": 0, "groups": 2, "norm": "lrn", "size": 227},
        shape=(3, 227, 227),
        num_classes=1000,
        params=60_965_224,
        macs=724_406_816,
        source="Krizhevsky et al. 2012; Caffe's bvlc_alexnet; Han et al. 2015, table 5 (61M)",
        status="EXACT",
    ),
}

_CONVS = {"features.0": "conv1", "features.3": "conv2", "features.6": "conv3", "features.8": "conv4"}
_LINEARS = {"features.10": "conv5", "classifier.1": "fc6", "classifier.4": "fc7", "classifier.6": "fc8"}
TORCHVISION = tuple((rf"^{theirs}\.", f"{ours}.") for theirs, ours in {**_CONVS, **_LINEARS}.items())


def build(
    *,
    filters: tuple[int, ...],
    padding: int,
    groups: int,
    norm: str,
    hidden: tuple[int, ...] = (4096, 4096),
    num_classes: int = 1000,
    in_channels: int = 3,
    size: int = 224,
    dropout: float = 0.5,
) -> nn.Sequential:
    """Build `conv1 relu1 [norm1] pool1 conv2 relu2 [norm2] pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 ... fc8`.

    Args:
        filters: filters of the five convolutions: 11×11 at stride 4, 5×5, and three of 3×3.
        padding: of the first convolution.
        groups: parts that conv2, conv4 and conv5 cut their channels into.
        norm: "lrn" (local response normalisation over 5 channels after the first two ReLUs) or "none".
        hidden: widths of the two hidden linear layers, each behind a dropout.
        num_classes: outputs.
        in_channels: channels of the image.
        size: height and width of the image, pixels.
        dropout: probability of zeroing before each hidden layer.

    Returns:
        The network: (n, in_channels, size, size) -> logits (n, num_classes).

    Raises:
        ModelError: a value is out of range, or the image is too small; says the smallest size.

    >>> build(filters=(8, 8, 8, 8, 8), padding=2, groups=1, norm="none", hidden=(16, 16), size=224).fc6.in_features
    288
    """
    check_image(num_classes=num_classes, in_channels=in_channels, size=size, dropout=dropout)
    check_choice("padding", padding, (0, 1, 2, 3, 4, 5))
    check_count("groups", groups)
    check_choice("norm", norm, ("none", "lrn"))
    side = _side(size, padding)
    if side < 1:
        least = next(n for n in count(1) if _side(n, padding) >= 1)
        raise ModelError(f"zoo: an image of size {size} is too small for alexnet; the smallest is {least}")
    layers = _features((in_channels, *_five(filters)), padding=padding, groups=groups, norm=norm)
    layers["flatten"] = nn.Flatten(1)
    features = filters[4] * side * side
    for number, units in enumerate(check_counts("hidden", hidden), start=6):
        layers[f"drop{number}"] = nn.Dropout(dropout)
        layers[f"fc{number}"] = nn.Linear(features, units)
        layers[f"relu{number}"] = nn.ReLU()
        features = units
    layers[f"fc{6 + len(hidden)}"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)


def _five(filters: tuple[int, ...]) -> tuple[int, ...]:
    if len(check_counts("filters", filters)) != 5:
        raise ModelError(f"zoo: setting filters must be a list of 5 integers, got {filters!r}")
    return tuple(filters)


def _features(widths: tuple[int, ...], *, padding: int, groups: int, norm: str) -> OrderedDict[str, nn.Module]:
    """The five convolutions, of widths[i] inputs and widths[i + 1] outputs each."""
    convs = [
        nn.Conv2d(widths[0], widths[1], 11, stride=4, padding=padding),
        group_conv(widths[1], widths[2], 5, padding=2, groups=groups),
        group_conv(widths[2], widths[3], 3, padding=1, groups=1),
        group_conv(widths[3], widths[4], 3, padding=1, groups=groups),
        group_conv(widths[4], widths[5], 3, padding=1, groups=groups),
    ]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, conv in enumerate(convs, start=1):
        layers[f"conv{number}"] = conv
        layers[f"relu{number}"] = nn.ReLU()
        if norm == "lrn" and number <= 2:
            layers[f"norm{number}"] = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        if number in (1, 2, 5):
            layers[f"pool{number}"] = nn.MaxPool2d(3, stride=2)
    return layers


def _side(size: int, padding: int) -> int:
    """Pixels per side before the linear layers."""
    side = (size + 2 * padding - 11) // 4 + 1
    for _pool in range(3):
        side = (side - 3) // 2 + 1
    return side
