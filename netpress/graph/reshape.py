"""The same data in another shape: axes are cut into factors and joined again."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from torch import Tensor

from netpress.graph.call import Call, Option
from netpress.graph.labels import Axes, Axis, Equations, IntArray
from netpress.graph.readings import CONSTANT, constant, tie
from netpress.graph.trace import Tracer


def view(t: Tracer, call: Call) -> list[Axes]:
    """Axes are cut into factors and joined again."""
    x: Tensor = call.args[0]
    if any(labels is not None for labels in t.peek_all(x)):
        t.risk()
    shape = tuple(call.outs[0].shape)
    axes = reshape_labels(t, call, t.axes(x), (tuple(x.shape), shape))
    carried = {n: labels for n, labels in zip(shape, axes, strict=True) if labels is not None}
    if carried and t.index not in t.found.sites:
        parts = [n if labels is None else labels for n, labels in zip(shape, axes, strict=True)]
        held = [c for c in (t.attributes(carried), t.lists(shape, parts)) if c]
        first = next(iter(carried.values()))
        if held:
            follow = [tie(t, first[None], *claims) for claims in held]
            t.choose([tie(t, first[None]), *follow, constant(t, call, *carried.values())], first)
    return [axes]


def reshape_labels(t: Tracer, call: Call, axes: Axes, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Axes:
    """Labels of a tensor of the first shape seen as the second."""
    old, new = shapes
    factors = common_factors(old, new)
    if factors is None:
        t.pin_all(axes, CONSTANT + call.name)
        return [None] * len(new)
    before, after, atoms = factors
    carried: dict[int, IntArray] = {}
    for d, members in enumerate(before):
        labels = axes[d]
        if labels is not None and members:
            carried.update(cut(t, call, labels, {a: atoms[a] for a in members}))
    return [_join(t, call, members, atoms, carried) for members in after]


def common_factors(
    old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[list[list[int]], list[list[int]], list[int]] | None:
    """Factors of which both shapes are made, in order: their numbers per old axis, per new axis, their sizes.

    >>> common_factors((2, 12), (2, 3, 4))
    ([[0], [1, 2]], [[0], [1], [2]], [2, 3, 4])
    >>> common_factors((4, 6), (6, 4)) is None
    True
    """
    cuts = [[math.prod(shape[k:]) for k in range(len(shape) + 1)] for shape in (old, new)]  # of the axes from k on
    if 0 in cuts[0] or cuts[0][0] != cuts[1][0]:
        return None
    points = sorted(set(cuts[0]) | set(cuts[1]), reverse=True)
    if any(a % b for a, b in pairwise(points)):
        return None
    atoms = [a // b for a, b in pairwise(points)]
    where = {p: k for k, p in enumerate(points)}
    members = [[list(range(where[a], where[b])) for a, b in pairwise(inner)] for inner in cuts]
    return members[0], members[1], atoms


def cut(t: Tracer, call: Call, labels: IntArray, atoms: dict[int, int]) -> dict[int, IntArray]:
    """An axis cut into factors: one of them carries the channels, equal offsets along the others go together."""
    array = labels.reshape(tuple(atoms.values()))
    names = list(atoms)
    varying = [k for k in range(array.ndim) if (array != array.take([0], axis=k)).any()]
    if not varying:
        varying = [max(range(array.ndim), key=lambda k: array.shape[k])]
    rows = {k: np.moveaxis(array, k, -1).reshape(-1, array.shape[k]) for k in varying}
    if len(varying) == 1:
        return {names[varying[0]]: rows[varying[0]][0]}
    if not isinstance(t.labels, Equations):  # all of them stay
        return {}
    carried: dict[int, IntArray] = {}
    options = []
    for k in reversed(varying):
        plain = _carry(tie(t, rows[k]), carried, names[k], rows[k][0])
        options.append(plain)
        claims = t.attributes({array.size: labels, array.shape[k]: rows[k][0]})
        if claims:
            options.append(_carry(tie(t, rows[k], *claims), carried, names[k], rows[k][0]))
    t.choose([*options, constant(t, call, labels)], labels)
    return carried


def _carry(option: Option, carried: dict[int, IntArray], name: int, row: IntArray) -> Option:
    def apply() -> None:
        option.apply()
        carried[name] = row

    return Option(apply)


def _join(t: Tracer, call: Call, members: list[int], atoms: list[int], carried: dict[int, IntArray]) -> Axis:
    """The labels of an axis made of factors."""
    labelled = [a for a in members if a in carried]
    if len(labelled) > 1:  # of an axis that the code made up, only the size matters
        made = [a for a in labelled if t.made(carried[a])]
        for a in made:
            t.pin(carried[a], CONSTANT + call.name)
        labelled = [a for a in labelled if a not in made]
    if not labelled:
        return None
    if len(labelled) > 1:
        for a in labelled:
            t.pin(carried[a], "two axes of channels become one: " + call.name)
        return None
    inner = math.prod(atoms[a] for a in members if a > labelled[0])
    outer = math.prod(atoms[a] for a in members if a < labelled[0])
    return np.tile(np.repeat(carried[labelled[0]], inner), outer)
