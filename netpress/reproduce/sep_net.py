"""Our numbers for the slides "Compressing Neural Networks Structures" (Li 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from netpress.measure.effective import effective
from netpress.measure.metrics import FLOAT_BYTES
from netpress.reproduce import han
from netpress.reproduce.counting import Answer, Counted, Counter
from netpress.reproduce.papers import Claim
from netpress.zoo.convolutions import group_conv

PATTERNS = {
    "googlenet": r"inception\w+\.conv3x3\..*",
    "c-inception": r"stage\d\..*",
    "sepnet-r-small": r"sep\w+\..*",
}
"""Convolutions whose k×k filters the slides binarize: those inside the networks' modules (3×3 ones of GoogLeNet)."""

_SEARCHED = "the slides print totals and no layer table; ours was searched to fit them, so agreement is by construction"
_ALEXNET = {f"conv{i}": f"conv{i}" for i in range(1, 6)} | {f"fc{i}": f"fc{i}" for i in range(6, 9)}
_VGG = {
    "conv1": "conv1_1",
    "conv2": "conv1_2",
    "conv3": "conv2_1",
    "conv4": "conv2_2",
    "conv5": "conv3_1",
    "conv13": "conv5_3",
    "fc14": "fc6",
    "fc15": "fc7",
    "fc16": "fc8",
}
_VGG_REASONS = {
    "fc14": "a misprint: ours prints as 102.76M, with biases too",
    "conv": "14.4M is 138M − 123.6M, both rounded",
    "conv-share": "10.4% is 14.4M / 138M, see there",
    "fc-share": "89.6% is 123.6M / 138M, both rounded",
    "size": "ours follows the slides' own rule, 4 bytes per parameter; 450MB is unexplained",
}


def answers(_claims: Sequence[Claim], counter: Counter) -> dict[str, Answer]:
    """Return our number for each key of the slides."""
    alexnet, vgg16 = counter.of("alexnet-227"), counter.of("vgg16")
    found = {"alexnet/first": Answer(alexnet.params("conv1"), "parameters")}
    found |= {f"alexnet/{key}": Answer(alexnet.params(path), "parameters") for key, path in _ALEXNET.items()}
    weights = {layer.path: layer.weights for layer in vgg16.layers}
    found |= {f"vgg/{key}": Answer(weights[path], "weights") for key, path in _VGG.items()}
    found |= {f"alexnet/{key}": answer for key, answer in _totals(alexnet)}
    found |= {f"vgg/{key}": answer for key, answer in _totals(vgg16)}
    for key, reason in _VGG_REASONS.items():
        found[f"vgg/{key}"] = _because(found[f"vgg/{key}"], reason)
    aux = counter.of("googlenet", aux="train")
    reason = f"with the auxiliary heads of training; without them {counter.of('googlenet').bytes / 1e6:.1f} MB"
    found["googlenet/size"] = Answer(aux.bytes, "bytes", reason)
    for part in (_groups(), _pruning(counter), _filter(), _binarized(counter), _mobile(counter), _sepnet(counter)):
        found |= dict(part)
    return {f"sep-net/{key}": answer for key, answer in found.items()}


def _because(answer: Answer, reason: str) -> Answer:
    return Answer(answer.ours, answer.unit, reason, answer.runnable)


def _reconstructed(ours: int, unit: str, more: str = "") -> Answer:
    return Answer(ours, unit, f"{_SEARCHED}; {more}" if more else _SEARCHED, label="reconstruction")


def _totals(net: Counted) -> Iterator[tuple[str, Answer]]:
    """Convolutions, linear layers, their shares, and all."""
    parts: Mapping[bool, int] = {
        linear: sum(net.params(layer.path) for layer in net.layers if layer.linear is linear)
        for linear in (False, True)
    }
    yield "total", Answer(net.params(), "parameters")
    for linear, key in ((False, "conv"), (True, "fc")):
        yield key, Answer(parts[linear], "parameters")
        yield f"{key}-share", Answer(parts[linear] / net.params(), "share")
    yield "size", Answer(net.bytes, "bytes")


def _groups() -> Iterator[tuple[str, Answer]]:
    """The example of group convolution."""
    with torch.device("meta"):
        dense, grouped = (group_conv(16, 32, 3, padding=1, groups=groups).weight.numel() for groups in (1, 4))
    reason = "the slide states a 3×3 filter and then counts 11×11; ours is 3×3"
    yield "group/dense", Answer(dense, "weights", reason)
    yield "group/grouped", Answer(grouped, "weights", reason)
    yield "group/ratio", Answer(dense / grouped, "times")


def _pruning(counter: Counter) -> Iterator[tuple[str, Answer]]:
    """The table of Han et al. 2015: our networks, and the fractions kept that they print."""
    for name, ours in han.NETWORKS.items():
        net, key = counter.of(ours), f"pruning/{name.lower()}"
        layers = han.kept(name, net)
        yield f"{key}/ref", Answer(net.params(), "parameters")
        yield f"{key}/pruned", Answer(round(sum(rest for _, rest in layers)), "weights", han.KEPT)
        yield f"{key}/ratio", Answer(han.reduction(layers), "times", han.KEPT)


def _filter() -> Iterator[tuple[str, Answer]]:
    """One 3×3 filter before and after binarization."""
    with torch.device("meta"):
        one = effective(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, bias=False)), "0")
    yield "filter/before", Answer(FLOAT_BYTES * one.params, "bytes")
    yield "filter/after", Answer(one.binary, "bits", "without a scale; the slides' GoogLeNet count has one each")


def _binarized(counter: Counter) -> Iterator[tuple[str, Answer]]:
    net = counter.of("googlenet")
    small = net.binarized(PATTERNS["googlenet"])
    yield "googlenet/params", Answer(net.weights, "weights", f"without biases; {net.params():,} with them")
    reason = (
        "3×3 filters of the inception modules in one bit each and one float32 scale per filter, without biases; "
        f"{small.params_with_scales:,} with them; {small.params_without_scales:,} without scales, which does not fit"
    )
    yield "googlenet/binarized", Answer(small.params_with_scales - small.biases, "parameters", reason)
    net = counter.of("c-inception")
    small = net.binarized(PATTERNS["c-inception"])
    yield "c-inception/params", _reconstructed(net.params(), "parameters")
    yield (
        "c-inception/binarized",
        _reconstructed(small.params_with_scales, "parameters", "one float32 scale per filter"),
    )


def _mobile(counter: Counter) -> Iterator[tuple[str, Answer]]:
    """MobileNet and SqueezeNet beside SEP-Net."""
    for printed, width in (("1.3", 0.5), ("2.6", 0.75)):
        net = counter.of("mobilenet-v1", width=width)
        reason = f"what is printed is the rounded {printed}M × 4 bytes"
        yield f"mobilenet-{printed}m/params", Answer(net.params(), "parameters", f"MobileNet-v1, width {width}")
        yield f"mobilenet-{printed}m/size", Answer(net.bytes, "bytes", reason)
    net = counter.of("squeezenet", bypass="simple")
    note = "SqueezeNet 1.0 with simple bypass, whose accuracy the slide prints; a bypass has no parameters"
    yield "squeezenet/params", Answer(net.params(), "parameters", note)
    mib = f"{net.bytes / 2**20:.2f}"
    reason = f"what is printed is the rounded 1.2M × 4 bytes, or MiB (2^20 bytes, of which ours has {mib})"
    yield "squeezenet/size", Answer(net.bytes, "bytes", reason)


def _sepnet(counter: Counter) -> Iterator[tuple[str, Answer]]:
    for size in ("small", "large"):
        net = counter.of(f"sepnet-r-{size}")
        yield f"sep-net-r-{size}/params", _reconstructed(net.params(), "parameters")
        yield f"sep-net-r-{size}/size", _reconstructed(net.bytes, "bytes")
    small = counter.of("sepnet-r-small").binarized(PATTERNS["sepnet-r-small"])
    bits = "3×3 filters of the modules in one bit each, no scales"
    for form in ("b", "bq"):
        yield f"sep-net-{form}-small/params", _reconstructed(small.params_without_scales, "parameters", bits)
    yield "sep-net-b-small/size", _reconstructed(FLOAT_BYTES * small.params_without_scales, "bytes", bits)
    packed = (
        "ours packs binary weights in bits and the others in bytes; one byte for every weight, binary ones too, gives "
        f"{small.bytes_unpacked / 1e6:.3f} MB, which prints as 1.3"
    )
    yield "sep-net-bq-small/size", _reconstructed(small.bytes_quantized, "bytes", packed)
