"""Numbers as people read them, and the sentences of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SPACE = "\u00a0"
_MINUS = "\u2212"
DENSE = (
    "Pruning single weights and sharing values make the file smaller, not the arithmetic: the runtime multiplies dense "
    "tensors, zeros included. Time falls only where whole filters, channels or layers go, or where the arithmetic "
    "itself gets narrower."
)

LEVELS = (
    "Activations are integers: where a rounding error meets the middle between two levels, an integer kernel may give "
    "the one and PyTorch the other, so a logit may differ by a level of its grid or a few; classes are what must agree."
)


def count(value: float) -> str:
    """A whole number with separators.

    >>> count(1724320)
    '1,724,320'
    """
    return f"{value:,.0f}"


def percent(share: float, digits: int = 2) -> str:
    """A fraction as per cent.

    >>> percent(0.9877).replace("\\u00a0", " ")
    '98.77 %'
    """
    return f"{100 * share:.{digits}f}{_SPACE}%"


def points(difference: float) -> str:
    """A difference of fractions, in points, with its sign.

    >>> points(0.0009).replace("\\u00a0", " ")
    '+0.09 points'
    """
    value = round(100 * difference, 2)
    sign = "+" if value > 0 else _MINUS if value < 0 else "±"
    return f"{sign}{abs(value):.2f}{_SPACE}points"


def times(ratio: float) -> str:
    """A ratio, e.g. 47.9x; small ones with one digit more.

    >>> times(47.93), times(1.234)
    ('47.9x', '1.23x')
    """
    return f"{ratio:,.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def milliseconds(value: float) -> str:
    """Three significant digits.

    >>> milliseconds(0.065529).replace("\\u00a0", " ")
    '0.0655 ms'
    """
    return f"{value:#.3g}{_SPACE}ms".replace(f".{_SPACE}", _SPACE) if value < 1000 else f"{value:,.0f}{_SPACE}ms"


def seconds(value: float) -> str:
    """Seconds below two minutes, else minutes, else hours and minutes.

    >>> [seconds(s).replace("\\u00a0", " ") for s in (9.9, 600, 7500)]
    ['9.9 s', '10 min', '2 h 05 min']
    """
    if value < 120:
        return f"{value:.1f}{_SPACE}s"
    minutes = round(value / 60)
    if minutes < 120:
        return f"{minutes}{_SPACE}min"
    return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"


def plain(value: Any) -> str:
    """A setting's value in words: tables as `key value` pairs, truth as yes or no.

    >>> plain({"conv": 8, "linear": [0.5, 0.9]}), plain(False)
    ('conv 8, linear 0.5 / 0.9', 'no')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return " / ".join(plain(inner) for inner in value)
    return str(value)


def settings(values: Mapping[str, Any]) -> str:
    """The settings of a method that are set.

    >>> settings({"bits": 5, "init": "linear", "threshold_std": None})
    'bits: 5; init: linear'
    """
    return "; ".join(
        f"{name.replace('_', ' ')}: {plain(value)}"
        for name, value in values.items()
        if value is not None and value not in ({}, [])
    )


def retraining(train: Mapping[str, Any]) -> str:
    """The training of a stage in one phrase.

    >>> retraining({"epochs": 1, "lr": 1e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 128})
    '1 epoch, adamw, lr 0.001 (cosine), batch 128'
    """
    epochs = train.get("epochs", 0)
    if not epochs:
        return "no retraining"
    parts = [f"{epochs} epoch{'s' if epochs != 1 else ''}"]
    if "optimizer" in train:
        parts.append(str(train["optimizer"]))
    if "lr" in train:
        schedule = f" ({train['schedule']})" if train.get("schedule") else ""
        parts.append(f"lr {train['lr']:g}{schedule}")
    if "batch" in train:
        parts.append(f"batch {train['batch']}")
    if train.get("distill"):
        parts.append(f"{train['distill']:g} of the loss from the baseline as teacher")
    if train.get("distill_layers"):
        parts.append(f"{train['distill_layers']:g} x the distance of the layers' outputs from the baseline's")
    return ", ".join(parts)


def smaller(ratio: float) -> str:
    """A ratio of sizes in words.

    >>> smaller(40.06), smaller(0.5)
    ('40.1x smaller', '2.00x larger')
    """
    return f"{times(ratio)} smaller" if ratio >= 1 else f"{times(1 / ratio)} larger"


UNTRAINED = "the baseline is the untrained network"


def verdict(metrics: Mapping[str, Any], *, untrained: bool = False) -> str:
    """The run in one sentence: ratio, bytes, accuracy before and after, and on which split.

    An untrained baseline's accuracy is chance: it is named, and nothing is compared with it.
    """
    baseline, final = metrics["baseline"], metrics["final"]
    sizes = f"{smaller(metrics['ratio'])}: {count(4 * baseline['params'])} → {count(final['file_bytes'])} bytes"
    split = final.get("split", "test")
    if untrained:
        return f"{sizes}; top-1 {percent(final['top1'])} on {split} ({UNTRAINED})"
    before = f"baseline {percent(baseline['top1'])}, {points(final['top1'] - baseline['top1'])}"
    return f"{sizes}; top-1 {percent(final['top1'])} ({before}) on {split}"


def speed(
    speedup: Mapping[str, Any], baseline: Mapping[str, Any], final: Mapping[str, Any], *, integers: bool = False
) -> str:
    """What the timing says, and why where it says nothing; integers: whether the result computes with them.

    Faster or slower only if the quartiles agree and the median differs from 1 by 2 % or more.
    """
    median, low, high = speedup["median"], speedup["q1"], speedup["q3"]
    spread = f"median {median:.2f}x, quartiles {low:.2f}x to {high:.2f}x"
    if low > 1 and median >= 1.02:
        return f"Faster: {spread} of the baseline's speed."
    word = "Slower" if high < 1 and median <= 0.98 else "No speed-up"
    fewer = final["macs"] < baseline["macs"]
    if not fewer and not integers:
        return f"{word}: {spread} of the baseline's speed. {DENSE}"
    why = [f"has {times(baseline['macs'] / final['macs'])} fewer multiply-adds"] if fewer else []
    why += ["computes with integers"] if integers else []
    return (
        f"{word}: {spread} of the baseline's speed, although it {' and '.join(why)}: at this size, on this machine, "
        "multiply-adds are not what the time goes into."
    )


def parity(found: Mapping[str, Any]) -> str:
    """How the runtime without PyTorch compares with PyTorch."""
    said = (
        f"On {count(found['images'])} real images the file, run by netpress.runtime without PyTorch, gave the same "
        f"top-1 class as PyTorch for {percent(found['same_top1'])} of them; the largest difference of a logit was "
        f"{found['largest']:.2g}, where logits reach {found['scale']:.3g}."
    )
    return f"{said} {LEVELS}" if found.get("integers") else said


def changed(found: Mapping[str, Any]) -> str:
    """How many images changed class, and to whose good."""
    total = sum(map(sum, found["confusion"]))
    neither = found["images"] - found["lost"] - found["won"]
    return (
        f"{count(found['images'])} of {count(total)} test images changed class: {count(found['won'])} newly right, "
        f"{count(found['lost'])} newly wrong, {count(neither)} from one wrong class to another."
    )


def filters(before: int, after: int, *, pinned: int, frozen: int) -> str:
    """How many filters went, in one sentence.

    >>> filters(90, 60, pinned=10, frozen=0)
    '30 of 90 filters went, those of tied layers counted once; 10 cannot go.'
    """
    held = [f"{count(number)} {why}" for number, why in ((pinned, "cannot go"), (frozen, "are frozen")) if number]
    tail = f"; {' and '.join(held)}" if held else ""
    return f"{count(before - after)} of {count(before)} filters went, those of tied layers counted once{tail}."


def criterion(kind: str, *, relative: bool) -> str:
    """A score of filters as the title of an axis; names that are not known stay as they are.

    >>> criterion("l1", relative=True)
    'sum of |w| of the filter, over the mean of its layer'
    """
    return _CRITERIA.get(kind, kind) + (", over the mean of its layer" if relative else "")


_CRITERIA = {
    "l1": "sum of |w| of the filter",
    "l2": "root of the sum of w² of the filter",
    "bn_scale": "|scale| of the batch norm behind the filter",
    "taylor": "change of the loss without the filter, squared, to first order",
    "geometric_median": "sum of the distances to the layer's other filters",
    "activation": "mean |output| of the filter",
    "random": "a random number",
}


def cut(stay: int, go: int, *, drawn: bool) -> str:
    """What a histogram of scores shows, in words.

    >>> cut(12, 3, drawn=True)
    '3 of 15 went: those below the line.'
    """
    if not go:
        return f"All {count(stay)} stayed."
    where = "those below the line" if drawn else "not by these numbers alone, so no line parts the two"
    return f"{count(go)} of {count(stay + go)} went: {where}."


def structure(operation: str, numbers: Sequence[int]) -> str:
    """What stands in a layer's place, as a short name with its ranks; names that are not known stay as they are.

    >>> structure("tucker2", (8, 12)), structure("separable", (1,)), structure("fire", (16, 32, 1))
    ('Tucker-2, ranks 8, 12', 'separable', 'fire, 16 condensed, 32 by 1 × 1')
    """
    if operation not in _STRUCTURES:
        return ", ".join([operation.replace("_", " "), *map(str, numbers)])
    text = _STRUCTURES[operation]
    if operation == "separable" and numbers[0] > 1:
        text += ", {} kernels per input"
    return text.format(*numbers)


_STRUCTURES = {
    "svd": "SVD, rank {}",
    "spatial_svd": "spatial SVD, rank {}",
    "cp": "CP, rank {}",
    "tucker2": "Tucker-2, ranks {}, {}",
    "stacked": "two 3 × 3, {} between",
    "grouped": "{} groups",
    "shuffled": "{} groups, channels sorted",
    "separable": "separable",
    "fire": "fire, {} condensed, {} by 1 × 1",
}


def error(share: float) -> str:
    """A relative error as per cent; what is near zero is said to be.

    >>> [error(e).replace("\\u00a0", " ") for e in (0.1234, 0.0004, 3e-7)]
    ['12.3 %', '0.04 %', '< 0.01 %']
    """
    return percent(share, 1 if share >= 0.01 else 2) if share >= 1e-4 else f"< 0.01{_SPACE}%"


def replaced(done: int, total: int, *, macs: tuple[int, int], params: tuple[int, int]) -> str:
    """How many layers were replaced, and what they cost before and after, in one sentence.

    >>> replaced(1, 2, macs=(100, 60), params=(50, 40))
    '1 of 2 layers was replaced: 100 → 60 multiply-adds, 50 → 40 parameters.'
    """
    verb = "was" if done == 1 else "were"
    costs = f"{count(macs[0])} → {count(macs[1])} multiply-adds, {count(params[0])} → {count(params[1])} parameters"
    return f"{count(done)} of {count(total)} layers {verb} replaced: {costs}."


def short(value: float) -> str:
    """A number with four significant digits, its sign a real minus.

    >>> short(-0.0123456), short(12)
    ('\u22120.01235', '12')
    """
    return f"{value:.4g}".replace("-", _MINUS)


def megabytes(size: float) -> str:
    """Bytes in millions: three places behind the point, below a million three digits.

    >>> megabytes(4_325_504), megabytes(43_255)
    ('4.326', '0.0433')
    """
    return f"{size / 1e6:,.3f}" if size >= 1e6 else f"{size / 1e6:.3g}"


def integers(layers: int, bits: Sequence[int], *, values: int | None, kept: int, floats: int) -> str:
    """What became integers, in one or two sentences.

    Args:
        layers: with integer weights.
        bits: of each of them that has a grid.
        values: of the pass that are rounded; None: activations stay floats.
        kept: layers that stay float.
        floats: other operations that compute in floats.

    >>> integers(3, [7, 7, 4], values=5, kept=1, floats=0)
    'Weights of 3 layers are integers of 4 to 7 bits, activations are UINT8 in 5 places; 1 layer stays float.'
    >>> integers(1, [8], values=None, kept=0, floats=0)
    'Weights of 1 layer are integers of 8 bits, activations are floats: the file is smaller, the time is not.'
    """
    span = f"{min(bits)} to {max(bits)}" if len(set(bits)) > 1 else f"{bits[0]}" if bits else "no"
    where = "floats: the file is smaller, the time is not" if values is None else f"UINT8 in {many(values, 'place')}"
    rest = [f"{many(kept, 'layer')} {'stays' if kept == 1 else 'stay'} float"] if kept else []
    rest += (
        [f"{many(floats, 'other operation')} {'computes' if floats == 1 else 'compute'} in floats"] if floats else []
    )
    text = f"Weights of {many(layers, 'layer')} are integers of {span} bits, activations are {where}"
    return f"{'; '.join([text, *rest])}."


def patterns(layers: int, weights: int, kernels: int, *, branches: int) -> str:
    """How many weights became signs, in one sentence.

    >>> patterns(2, 144, 16, branches=1)
    '144 weights of 2 layers are signs, in 16 filters; 1 layer has a 1 × 1 convolution beside it.'
    """
    beside = f"; {many(branches, 'layer')} {'has' if branches == 1 else 'have'} a 1 × 1 convolution beside "
    tail = f"{beside}{'it' if branches == 1 else 'them'}" if branches else ""
    return f"{many(weights, 'weight')} of {many(layers, 'layer')} are signs, in {many(kernels, 'filter')}{tail}."


def many(number: int, noun: str) -> str:
    """A count with its noun.

    >>> many(1, "layer"), many(1200, "layer")
    ('1 layer', '1,200 layers')
    """
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def unspeeded(metrics: Mapping[str, Any]) -> str:
    """A warning where a tenth of the multiply-adds or more has gone, and hardly a millisecond with them; else "".

    Timed on ONNX Runtime; hardly: the median below 1.05 times the baseline's speed, or quartiles on both sides of 1.
    """
    baseline, final, speedup = metrics["baseline"], metrics["final"], metrics.get("speedup") or {}
    if not speedup or final["macs"] > 0.9 * baseline["macs"]:
        return ""
    median, low, high = speedup["median"], speedup["q1"], speedup["q3"]
    if median >= 1.05 and not low <= 1 <= high:
        return ""
    word = "hardly" if low > 1 else "no"
    went = percent(1 - final["macs"] / max(baseline["macs"], 1), 0)
    return (
        f"Fewer multiply-adds, {word} fewer milliseconds: {went} of the multiply-adds are gone, but on ONNX Runtime "
        f"the result runs at {median:.2f}x the baseline's speed (quartiles {low:.2f}x to {high:.2f}x)."
    )
