"""Our numbers for the write-up on SqueezeNet's microarchitecture (Wang, Sayar, Sayegh 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from netpress.reproduce import han
from netpress.reproduce.counting import Answer, Counter
from netpress.reproduce.papers import Claim
from netpress.zoo.squeezenet import count_params

CLASSES, CLASSIFIER_INPUTS = 200, 512
_KEY = "squeezenet/"
_QUIRK = (
    f"counted as the paper does, with a classifier of {CLASSIFIER_INPUTS} inputs; the last module gives another "
    "number, so that cannot run, and the count of the network that runs stands beside it"
)


def answers(claims: Sequence[Claim], counter: Counter) -> dict[str, Answer]:
    """Return our number for each key of the write-up."""
    variants = {claim.key: claim.settings for claim in claims if claim.settings}
    found = {key: _variant(settings, counter) for key, settings in variants.items()}
    alexnet = counter.of("alexnet")
    found[f"{_KEY}alexnet"] = Answer(alexnet.params(), "parameters", "torchvision's form, 1000 classes")
    found |= {f"{_KEY}{key}": answer for key, answer in _ratios(found)}
    fifty = alexnet.params() / counter.of("squeezenet").params()
    found[f"{_KEY}50x"] = Answer(fifty, "times", "SqueezeNet 1.0 with 1000 classes: 1,248,424 parameters")
    found |= {f"{_KEY}{key}": answer for key, answer in _compressed(alexnet.bytes)}
    return found | {f"{_KEY}{key}": answer for key, answer in _pruned(counter)}


def _variant(settings: Mapping[str, object], counter: Counter) -> Answer:
    """Count by the paper's convention; where the network that runs has another count, it stands beside it."""
    ours = count_params(settings, classifier_inputs=CLASSIFIER_INPUTS, num_classes=CLASSES)
    net = counter.of("squeezenet", num_classes=CLASSES, **settings)
    runs = net.params()
    if runs == ours:
        return Answer(ours, "parameters")
    return Answer(ours, "parameters", _QUIRK, runnable=runs)


def _ratios(found: Mapping[str, Answer]) -> Iterator[tuple[str, Answer]]:
    """Ratios of the text, of the counts that the paper prints; those of the networks that run are in the reason."""
    for key, above, below in (
        ("1.4", "squeezenet", "pct_3x3=25.0"),
        ("1.415", "squeezenet", "pct_3x3=25.0"),
        ("1.85", "sr=0.25", "squeezenet"),
        ("half", "incr_e=64", "squeezenet"),
        ("1.5", "incr_e=256", "base_e=256"),
        ("1.63", "squeezenet", "freq=3"),
    ):
        a, b = found[f"{_KEY}{above}"], found[f"{_KEY}{below}"]
        assert a.ours is not None
        assert b.ours is not None
        ratio, runs = a.ours / b.ours, (a.runnable or a.ours) / (b.runnable or b.ours)
        reason = "" if runs == ratio else f"of the paper's counts; of the networks that run: {runs:.3f}"
        yield key, Answer(ratio, "times", reason)
    mixed = "a network of 1000 classes over one of 200, as the paper has it"
    alexnet, squeezenet = found[f"{_KEY}alexnet"].ours, found[f"{_KEY}squeezenet"].ours
    assert alexnet is not None
    assert squeezenet is not None
    yield "72.9", Answer(alexnet / squeezenet, "times", mixed)


def _compressed(alexnet_bytes: int) -> Iterator[tuple[str, Answer]]:
    """Two numbers quoted from SqueezeNet's own paper, each from the other and AlexNet's size."""
    quoted = "quoted from SqueezeNet's paper, not a network of this one: "
    small, factor = 500_000, 510
    reason = f"{quoted}0.5 is rounded; {alexnet_bytes / 1e6:.1f} MB / {factor} = {alexnet_bytes / factor / 1e6:.3f} MB"
    yield "510x", Answer(alexnet_bytes / small, "times", reason)
    yield "0.5Mb", Answer(alexnet_bytes / factor, "bytes", f"{quoted}AlexNet's bytes / {factor}; Mb stands for MB")


def _pruned(counter: Counter) -> Iterator[tuple[str, Answer]]:
    """AlexNet pruned by Han et al., from the fractions kept that they print."""
    net = counter.of(han.NETWORKS["AlexNet"])
    layers = han.kept("AlexNet", net)
    after = sum(rest for _, rest in layers)
    yield "pruned", Answer(1 - after / net.weights, "share", han.KEPT)
    yield "pruned-weights", Answer(han.reduction(layers), "times", han.KEPT)
    macs = sum(layer.macs * rest / layer.weights for layer, rest in layers)
    reason = (
        f"{han.KEPT}; Han et al. count multiply-adds with zero activations as gone too, which depends on the images"
    )
    yield "pruned-macs", Answer(net.cost.macs / macs, "times", reason)
    for key, linear in (("pruned-fc", True), ("pruned-conv", False)):
        some = [(layer, rest) for layer, rest in layers if layer.linear is linear]
        yield key, Answer(han.reduction(some), "times", han.KEPT)
