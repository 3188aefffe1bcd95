"""SqueezeNet 1.0 and its design space: five metaparameters, the positions of the pools, bypasses.

Eight fire modules, i = 0 to 7; module i lies in step i // freq and has e = base + incr * step outputs, of which
int(base * pct_3x3) + int(incr * pct_3x3) * step come from 3×3 filters and the others from 1×1 filters, behind a squeeze
layer of int(sr * e) filters.

Source: Iandola et al. 2016, SqueezeNet; metaparameters its section 5, bypasses its section 6. Wang et al. 2019 (a
write-up on the microarchitecture, 200 classes) measure 21 settings and 4 positions of the pools; their parameters are
counted with a classifier of 512 inputs whatever the last module gives, which cannot run where it gives another number:
`count_params` counts as they do, `build` makes the network that runs.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

from netpress.errors import ModelError
from netpress.space import Choice, Span
from netpress.zoo.blocks import Fire, he_uniform
from netpress.zoo.checks import check_choice, check_count, check_counts, check_image, check_number
from netpress.zoo.variant import Variant

_MODULES = 8
_STEM = 96
_PADS = (0, 1)
_BYPASSES = ("none", "simple", "complex")

_ORIGINAL: Mapping[str, object] = {
    "base": 128,
    "incr": 128,
    "pct_3x3": 0.5,
    "freq": 2,
    "sr": 0.125,
    "pools": (3, 7),
    "bypass": "none",
}

VARIANTS = {
    "squeezenet": Variant(
        settings=_ORIGINAL,
        shape=(3, 224, 224),
        num_classes=1000,
        params=1_248_424,
        macs=818_924_576,
        source="Iandola et al. 2016, SqueezeNet, table 1 (1,248,424); Wang et al. 2019, figure 2",
        status="EXACT",
        note=(
            "838,024 parameters of Wang et al. 2019 are num_classes=200. Their counts for other values of base, incr "
            "and freq have a classifier of 512 inputs that cannot run; here it takes what the last module gives."
        ),
    ),
    "squeezenet-caffe": Variant(
        settings={**_ORIGINAL, "classifier_pad": 1},
        shape=(3, 227, 227),
        num_classes=1000,
        params=1_248_424,
        macs=861_339_936,
        source="songhan/SqueezeNet-Deep-Compression, SqueezeNet_deploy.prototxt",
        status="EXACT",
        note=(
            "The authors' own network: zeros around the classifier's input, so that a frame of ReLU(bias) is in the "
            "mean, which changes the logits. Its weights want channels in the order blue, green, red."
        ),
    ),
}

SPACE: Mapping[str, Choice | Span] = {
    "base": Span(32, 256, step=32),
    "incr": Span(32, 256, step=32),
    "pct_3x3": Choice((0.01, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)),
    "freq": Span(1, _MODULES, step=1),
    "sr": Span(0.125, 1.0, step=0.125),
    "pools": Choice(tuple((a, b) for a in range(1, _MODULES) for b in range(a + 1, _MODULES + 1))),
    "bypass": Choice(_BYPASSES),
}
"""Values to draw from; all that Wang et al. 2019 measured lie here. Draws with a layer of zero filters are refused."""

TORCHVISION: tuple[tuple[str, str], ...] = (
    (r"^features\.0\.", "conv1."),
    (r"^features\.3\.", "fire2."),
    (r"^features\.4\.", "fire3."),
    (r"^features\.5\.", "fire4."),
    (r"^features\.7\.", "fire5."),
    (r"^features\.8\.", "fire6."),
    (r"^features\.9\.", "fire7."),
    (r"^features\.10\.", "fire8."),
    (r"^features\.12\.", "fire9."),
    (r"^classifier\.1\.", "conv10."),
    (r"\.expand(\dx\d)\.", r".expand.conv\1."),
)
"""torchvision's names of squeezenet1_0's tensors, in ours."""


def build(
    *,
    base: int,
    incr: int,
    pct_3x3: float,
    freq: int,
    sr: float,
    pools: tuple[int, int],
    bypass: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.5,
    classifier_pad: int = 0,
) -> nn.Sequential:
    """Build `conv1 relu1 pool1 fire2 ... fire9 drop conv10 relu10 pool10 flatten`, fully convolutional.

    Initial weights as torchvision's: He et al. 2015, uniform, and N(0, 0.01²) for the classifier; with PyTorch's own
    the signal fades before it reaches the classifier.

    Args:
        base: outputs of the first module.
        incr: outputs that every further step adds.
        pct_3x3: share of 3×3 filters among a module's outputs, 0 to 1.
        freq: modules per step.
        sr: squeeze layer's filters over the module's outputs, above 0 up to 1.
        pools: the modules, counted from 1, after which the second and the third pool sit; the first is behind conv1.
        bypass: "none"; "simple": every module with as many inputs as outputs adds its input to its output; "complex":
            the others do so too, through a 1×1 convolution.
        num_classes: outputs.
        in_channels: channels of the image.
        dropout: probability of zeroing before the classifier.
        classifier_pad: zeros on each side of the classifier's input, 0 or 1.

    Returns:
        The network: (n, in_channels, height, width) -> logits (n, num_classes), both sides at least 21 pixels with the
        original pools.

    Raises:
        ModelError: a value is out of range, or a module's layer would have no filter.

    >>> net = build(base=128, incr=128, pct_3x3=0.5, freq=2, sr=0.125, pools=(3, 7), bypass="none")
    >>> net.fire9.expand.conv3x3.out_channels, net.conv10.in_channels
    (256, 512)
    """
    check_image(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    check_choice("bypass", bypass, _BYPASSES)
    check_choice("classifier_pad", classifier_pad, _PADS)
    places = _check_pools(pools)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, _STEM, 7, stride=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),
    )
    width = _STEM
    for number, (squeeze, ones, threes) in enumerate(fires(base, incr, pct_3x3, freq, sr), start=1):
        kind = "none"
        if bypass != "none" and (width == ones + threes or bypass == "complex"):
            kind = "identity" if width == ones + threes else "conv"
        layers[f"fire{number + 1}"] = Fire(width, squeeze, ones, threes, bypass=kind)
        width = ones + threes
        if number in places:
            layers[f"pool{number + 1}"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    classifier = nn.Conv2d(width, num_classes, 1, padding=classifier_pad)
    layers |= {"drop": nn.Dropout(dropout), "conv10": classifier, "relu10": nn.ReLU()}
    layers |= {"pool10": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(1)}
    net = nn.Sequential(layers)
    he_uniform(net)
    nn.init.normal_(classifier.weight, std=0.01)
    return net


def fires(base: object, incr: object, pct_3x3: object, freq: object, sr: object) -> list[tuple[int, int, int]]:
    """Return the eight modules' (squeeze, 1×1, 3×3) filters.

    The number of 3×3 filters is rounded down for base and for incr apart: only so pct_3x3 = 0.01 gives the printed
    354,184 parameters.

    Raises:
        ModelError: a value is out of range, or a module's layer would have no filter.

    >>> fires(128, 128, 0.5, 2, 0.125)[::2]
    [(16, 64, 64), (32, 128, 128), (48, 192, 192), (64, 256, 256)]
    """
    check_count("base", base, most=8192)
    check_count("incr", incr, most=8192)
    check_number("pct_3x3", pct_3x3, low=0, high=1)
    check_count("freq", freq, most=_MODULES)
    check_number("sr", sr, low=0, high=1)
    assert isinstance(base, int)
    assert isinstance(incr, int)
    assert isinstance(freq, int)
    assert isinstance(pct_3x3, int | float)
    assert isinstance(sr, int | float)
    found = []
    for i in range(_MODULES):
        step = i // freq
        outputs = base + incr * step
        threes = _floor(base * pct_3x3) + _floor(incr * pct_3x3) * step
        counts = {"squeeze": _floor(sr * outputs), "1×1": outputs - threes, "3×3": threes}
        for layer, count in counts.items():
            if count == 0:
                raise ModelError(
                    f"zoo: fire{i + 2} would have no {layer} filter with base {base}, incr {incr}, pct_3x3 {pct_3x3}, "
                    f"freq {freq}, sr {sr}: sr * {outputs} and pct_3x3 * {base} must be at least 1, pct_3x3 below 1"
                )
        found.append((counts["squeeze"], outputs - threes, threes))
    return found


def count_params(settings: Mapping[str, Any], *, classifier_inputs: int = 512, num_classes: int = 200) -> int:
    """Count parameters from plain numbers, as Wang et al. 2019 print them; bypasses have none in their tables.

    conv1: 49 * 3 * 96 + 96; module: i * s + s + s * e1 + e1 + 9 * s * e3 + e3; classifier: inputs * classes + classes.

    Args:
        settings: `base`, `incr`, `pct_3x3`, `freq`, `sr`; others are ignored.
        classifier_inputs: of the last 1×1 convolution; 512 in every row of the tables.
        num_classes: of the last 1×1 convolution.

    Raises:
        ModelError: as `fires`.

    >>> count_params({"base": 128, "incr": 128, "pct_3x3": 0.5, "freq": 4, "sr": 0.125})
    359688
    """
    total, width = 49 * 3 * _STEM + _STEM, _STEM
    for s, ones, threes in fires(*(settings[key] for key in ("base", "incr", "pct_3x3", "freq", "sr"))):
        total += width * s + s + s * ones + ones + 9 * s * threes + threes
        width = ones + threes
    return total + classifier_inputs * num_classes + num_classes


def _floor(value: float) -> int:
    """Round down, but not where binary fractions fall just short: 100 * 0.29 is 29."""
    return int(value + 1e-9)


def _check_pools(pools: object) -> tuple[int, ...]:
    places = check_counts("pools", pools)
    if len(places) != 2 or not places[0] < places[1] <= _MODULES:
        raise ModelError(f"zoo: setting pools must be two ascending modules of 1 to {_MODULES}, got {pools!r}")
    return places
