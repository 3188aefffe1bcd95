"""A trial: prune the hollow network at random, run it on labels, and compare every operation with the original's."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from netpress.errors import ModelError
from netpress.graph.call import Call
from netpress.graph.choice import choose
from netpress.graph.copying import tensors
from netpress.graph.edit import shrink
from netpress.graph.labels import Axes, BoolArray, IntArray, Replay
from netpress.graph.run import run
from netpress.graph.solve import Coupling
from netpress.graph.trace import Tracer


class Misfit(Exception):  # noqa: N818
    """The running operation does not do to the channels what it did in the original."""


def trial(
    net: nn.Module,
    inputs: tuple[Any, ...],
    tracer: Tracer,
    solved: tuple[Coupling, IntArray],
    *,
    modes: tuple[bool, ...],
) -> int | None:
    """Number of the first operation that treats the channels of a pruned network unlike those of the original.

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
    expected = tracer.found.outputs

    def compare(t: Tracer, call: Call, labelled: list[Axes]) -> None:
        counted = tracer.found.amounts.get(t.index)
        if counted is not None and mask[classes[counted]].sum() != len(t.found.amounts[t.index]):
            raise Misfit
        if t.index >= len(expected) or not _same(call, labelled, expected[t.index], (classes, mask)):
            raise Misfit

    replay.after = compare
    try:
        run(replay, small, inputs, lambda t, n: introduce_classes(t, n, coupling, mask), modes=modes)
    except (Misfit, ModelError):
        return min(max(replay.index, 0), len(expected) - 1)
    return None if replay.index == len(expected) - 1 else len(expected) - 1


def introduce_classes(tracer: Tracer, net: nn.Module, coupling: Coupling, mask: BoolArray) -> None:
    """Tell the tracer the classes on the axes of a network whose classes outside `mask` are gone."""
    axes = {(n, a): c[mask[c]] for n, a, c in zip(*_rows(coupling), strict=True)}
    for name, x in tensors(net):
        tracer.introduce(name, x, [axes.get((name, d)) for d in range(x.dim())])


def _rows(coupling: Coupling) -> tuple[tuple[str, ...], tuple[int, ...], tuple[IntArray, ...]]:
    return coupling.table.names, coupling.table.axes, coupling.table.classes


def _same(call: Call, labelled: list[Axes], expected: tuple[str, Any], solved: tuple[IntArray, BoolArray]) -> bool:
    """Whether an operation's outputs are those of the original, less the channels that went."""
    classes, mask = solved
    name, outputs = expected
    if name != call.name or len(outputs) != len(call.outs):
        return False
    for out, axes, (shape, before) in zip(call.outs, labelled, outputs, strict=True):
        if out.dim() != len(shape):
            return False
        for d, labels in enumerate(before):
            if labels is None:
                if out.shape[d] != shape[d]:
                    return False
                continue
            want = classes[labels]
            want = want[mask[want]]
            if out.shape[d] != len(want):
                return False
            got = axes[d]
            if got is not None and ((got != want) & (got >= 0)).any():
                return False
    return True
