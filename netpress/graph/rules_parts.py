"""Rules for operations that take parts of an axis. Bounds may be constants, or follow the channels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from netpress.graph.call import Call, Option
from netpress.graph.labels import Axes, Axis, IntArray
from netpress.graph.readings import CONSTANT, constant, tie
from netpress.graph.trace import Rule, Tracer


def slice_(t: Tracer, call: Call) -> list[Axes]:
    """Positions from start to end: exact bounds of the module's attributes, equal parts, or constants."""
    x: Tensor = call.args[0]
    axes = list(t.axes(x))
    d = (call["dim"] or 0) % x.dim()
    labels = axes[d]
    if labels is None:
        return [axes]
    n, step = len(labels), call["step"] or 1
    start, end, _ = slice(call["start"], call["end"], step).indices(n)
    axes[d] = labels[start:end:step]
    if end - start < n or step > 1:
        t.risk()
        t.choose(_slice_options(t, call, labels, (start, end, step)), labels)
    return [axes]


def _slice_options(t: Tracer, call: Call, labels: IntArray, bounds: tuple[int, int, int]) -> list[Option]:
    n = len(labels)
    start, end, step = bounds
    options = []
    if step > 1:
        if n % step == 0:
            options.append(tie(t, labels.reshape(-1, step).T))
        return [*options, constant(t, call, labels)]
    inner = {b: labels[:b] for b in (start, end) if 0 < b < n}
    claims = t.attributes(inner)
    if claims:
        options.append(tie(t, labels[None], *claims))
    part = end - start
    if part > 1 and n % part == 0 and start % part == 0 and t.function not in ("narrow", "select"):
        rows = labels.reshape(-1, part)
        options.append(tie(t, rows))
        options += [tie(t, rows, *c) for c in [t.attributes({n: labels})] if c]
    raw_start, raw_end = call["start"] or 0, call["end"]
    if raw_start < 0 and end == n:
        options.append(constant(t, call, labels[start:]))
    elif raw_end is not None and raw_end < 0:
        options.append(constant(t, call, labels[:start], labels[end:]))
    else:
        options.append(constant(t, call, labels[: end if end < n else start]))
    return [*options, constant(t, call, labels)]


def select(t: Tracer, call: Call) -> list[Axes]:
    """One position of an axis."""
    x: Tensor = call.args[0]
    axes = list(t.axes(x))
    labels = axes.pop(call["dim"] % x.dim())
    if labels is not None:
        t.pin(labels, CONSTANT + call.name)
    return [axes]


def unbind(t: Tracer, call: Call) -> list[Axes]:
    """All positions of an axis, each on its own."""
    return select(t, call) * len(call.outs)


def split(t: Tracer, call: Call) -> list[Axes]:
    """split, chunk, split_with_sizes: parts of an axis."""
    x: Tensor = call.args[0]
    axes = t.axes(x)
    d = call["dim"] % x.dim()
    labels = axes[d]
    if labels is None:
        return [list(axes)] * len(call.outs)
    sizes = [out.shape[d] for out in call.outs]
    ends = np.cumsum(sizes)
    parts = np.split(labels, ends[:-1])
    if len(sizes) > 1:
        t.risk()
        t.choose(_split_options(t, call, labels, parts), labels)
    return [[*axes[:d], part, *axes[d + 1 :]] for part in parts]


def _split_options(t: Tracer, call: Call, labels: IntArray, parts: list[IntArray]) -> list[Option]:
    sizes = [len(p) for p in parts]
    options: list[Option] = []
    equal = len(set(sizes)) == 1
    listed = call.name == "split_with_sizes"
    if listed:
        options += [tie(t, labels[None], c) for c in t.lists(sizes, parts)]
        each = dict(zip(sizes, parts, strict=True))
        if not equal and len(each) == len(sizes) and (claims := t.attributes(each)):
            options.append(tie(t, labels[None], *claims))
    if equal:
        rows = labels.reshape(len(sizes), -1)
        options.append(tie(t, rows))
        if t.function != "chunk":
            mine, whole = t.attributes({sizes[0]: parts[0]}), t.attributes({len(labels): labels})
            options += [tie(t, rows, *c) for c in (mine, whole, mine + whole) if c]
    if not listed and t.function != "chunk":
        options.append(constant(t, call, labels[: -sizes[-1]]))
    return [*options, constant(t, call, labels)]


def index_select(t: Tracer, call: Call) -> list[Axes]:
    """Positions named by a tensor of integers."""
    x: Tensor = call.args[0]
    axes = list(t.axes(x))
    d = call["dim"] % x.dim()
    axes[d] = _selected(t, call, axes[d], call["index"])
    return [axes]


def index(t: Tracer, call: Call) -> list[Axes]:
    """Advanced indexing with one tensor of integers; anything else pins."""
    x: Tensor = call.args[0]
    axes = list(t.axes(x))
    used = [d for d, i in enumerate(call["indices"]) if i is not None]
    if len(used) == 1 and call["indices"][used[0]].dim() == 1:
        axes[used[0]] = _selected(t, call, axes[used[0]], call["indices"][used[0]])
        return [axes]
    t.pin_all(axes, CONSTANT + call.name)
    return [[None] * call.outs[0].dim()]


def _selected(t: Tracer, call: Call, labels: Axis, where: Tensor) -> Axis:
    """The labels at the positions; a buffer of positions follows, other positions are constants."""
    if labels is None or where.is_meta or where.dtype is torch.bool:
        t.pin(labels, CONSTANT + call.name)
        return None
    chosen: IntArray = labels[where.numpy()]
    known = t.known.get(id(where))
    if known is not None and known.name:
        t.meet(where, 0, chosen, "indices")
        before = t.found.selections.setdefault(known.name, labels)
        if len(before) == len(labels):
            t.labels.equate(before, labels)
        else:
            t.pin(np.append(before, labels), CONSTANT + call.name)
    else:
        t.risk()
        t.pin(labels, CONSTANT + call.name)
    return chosen


PARTS: dict[str | None, Rule] = {
    "slice": slice_,
    "select": select,
    "unbind": unbind,
    "split": split,
    "split_with_sizes": split,
    "index_select": index_select,
    "index": index,
}
