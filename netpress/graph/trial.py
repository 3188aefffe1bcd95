"""A trial: prune the hollow network at random, run it on labels, and compare every operation with the original's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from netpress.errors import ModelError
from netpress.graph.call import Call, Output
from netpress.graph.choice import choose
from netpress.graph.copying import tensors
from netpress.graph.edit import shrink
from netpress.graph.labels import Axes, BoolArray, IntArray, Replay
from netpress.graph.run import run
from netpress.graph.solve import Coupling
from netpress.graph.trace import Tracer


@dataclass(frozen=True, slots=True)
class Misfit:
    """An operation that does not do to the channels what it did in the original: its number, and whose code ran."""

    index: int
    owner: str


class _Stop(Exception):  # noqa: N818
    """The running operation is a misfit."""


def trial(
    net: nn.Module,
    inputs: tuple[Any, ...],
    tracer: Tracer,
    solved: tuple[Coupling, IntArray],
    *,
    modes: tuple[bool, ...],
) -> Misfit | None:
    """The first operation that treats the channels of a pruned network unlike those of the original.

    Args:
        net: the hollow network that was traced.
        inputs: its inputs.
        tracer: after the run.
        solved: what was found, and the class of every label.
        modes: as for `run`.
    """
    coupling, classes = solved
    rng = np.random.default_rng(1)
    scores = {g.name: rng.random(len(g)) for g in coupling.free}
    mask = coupling.mask(choose(coupling, scores, keep=0.55))
    if mask.all():
        return None
    small = shrink(net, coupling, mask)
    replay = Tracer(Replay(), tracer.rules)
    expected, done = tracer.found.outputs, replay.found.outputs

    def compare(t: Tracer, _: Call, __: list[Axes]) -> None:
        if not done or done[-1].index != t.index:
            return
        want = expected[min(len(done), len(expected)) - 1]
        counted = tracer.found.amounts.get(want.index)
        if counted is not None and mask[classes[counted]].sum() != len(t.found.amounts[t.index]):
            raise _Stop
        if len(done) > len(expected) or not _same(done[-1], want, (classes, mask)):
            done.pop()
            raise _Stop

    replay.after = compare
    try:
        run(replay, small, inputs, lambda t, n: introduce_classes(t, n, coupling, mask), modes=modes)
    except (_Stop, ModelError):
        return Misfit(expected[min(len(done), len(expected) - 1)].index, replay.owner)
    return None if len(done) == len(expected) else Misfit(expected[-1].index, "")


def introduce_classes(tracer: Tracer, net: nn.Module, coupling: Coupling, mask: BoolArray) -> None:
    """Tell the tracer the classes on the axes of a network whose classes outside `mask` are gone."""
    axes = {(n, a): c[mask[c]] for n, a, c in zip(*_rows(coupling), strict=True)}
    for name, x in tensors(net):
        tracer.introduce(name, x, [axes.get((name, d)) for d in range(x.dim())])


def _rows(coupling: Coupling) -> tuple[tuple[str, ...], tuple[int, ...], tuple[IntArray, ...]]:
    return coupling.table.names, coupling.table.axes, coupling.table.classes


def _same(got: Output, want: Output, solved: tuple[IntArray, BoolArray]) -> bool:
    """Whether an operation's outputs are those of the original, less the channels that went."""
    classes, mask = solved
    if got.name != want.name or len(got.tensors) != len(want.tensors):
        return False
    for (small, axes), (shape, before) in zip(got.tensors, want.tensors, strict=True):
        if len(small) != len(shape):
            return False
        for d, labels in enumerate(before):
            if labels is None:
                if small[d] != shape[d]:
                    return False
                continue
            kept = classes[labels]
            kept = kept[mask[kept]]
            if small[d] != len(kept):
                return False
            found = axes[d]
            if found is not None and ((found != kept) & (found >= 0)).any():
                return False
    return True
