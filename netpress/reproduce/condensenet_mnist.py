"""Our numbers for the report "CondenseNet: Reducing Parameters of CNN" (Gulati 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from netpress.measure.metrics import FLOAT_BYTES
from netpress.reproduce.counting import Answer, Counted, Counter
from netpress.reproduce.papers import Claim

NETWORKS = {
    "initial-model": "mnist-initial",
    "modification-1": "mnist-modification-1",
    "modification-2": "mnist-modification-2",
    "vanilla-condensenet": "condensenet-mnist-vanilla",
    "condensenet-1": "condensenet-mnist-1",
    "condensenet-2": "condensenet-mnist-2",
    "condensenet-3": "condensenet-mnist-3",
}
_PLAIN = ("", "conv1", "pool1", "conv2", "pool2", "fc1", "fc2")
_CONDENSED = ("", "conv1", "pool1", "condense", "expand", "pool2", "fc1", "fc2")
"""Our module of each row of the tables; the first row is the image."""

_MEMORY = (
    "ours is 4 bytes × every number of the table's last column; the report's digits come out when each row is first "
    "rounded by hand to two or three digits (50,176 as 50 thousand), which is a guess at how it counted"
)


def answers(_claims: Sequence[Claim], counter: Counter) -> dict[str, Answer]:
    """Return our number for each key of the report."""
    found: dict[str, Answer] = {}
    for key, name in NETWORKS.items():
        found |= dict(_network(f"condensenet-mnist/{key}", counter.of(name)))
    initial = counter.of("mnist-initial").params()
    for key, name in list(NETWORKS.items())[1:]:
        found[f"condensenet-mnist/{key}/reduction"] = Answer(initial / counter.of(name).params(), "times")
    fewest = min(NETWORKS.values(), key=lambda name: counter.of(name).params())
    ratio = initial / counter.of(fewest).params()
    found["condensenet-mnist/best"] = Answer(ratio, "times", f"against {fewest}: more than 45, not almost")
    expand = counter.of("condensenet-mnist-vanilla")
    wide, narrow = (math.prod(_filters(expand, f"expand.conv{k}").shape[1:]) for k in ("3x3", "1x1"))
    note = "9 weights for 1 wherever a 3×3 filter becomes a 1×1 filter; the module as a whole saves another share"
    found["condensenet-mnist/filter"] = Answer(wide / narrow, "times", note)
    return found


def _filters(net: Counted, path: str) -> Tensor:
    return net.net.get_parameter(f"{path}.weight")


def _network(key: str, net: Counted) -> Iterator[tuple[str, Answer]]:
    """Rows of one table; conv-1 is row 1, the image row 0."""
    rows = _CONDENSED if "condense" in dict(net.net.named_children()) else _PLAIN
    yield f"{key}/0/out", Answer(math.prod(net.shape), "activations")
    for number, path in enumerate(rows[1:], start=1):
        if params := net.params(path):
            yield f"{key}/{number}/params", Answer(params, "parameters")
        yield f"{key}/{number}/out", Answer(net.floats(path), "activations")
    yield f"{key}/params", Answer(net.params(), "parameters")
    yield f"{key}/memory", Answer(FLOAT_BYTES * net.cost.activation_floats, "bytes", _MEMORY)
