"""Rules for operations that move data: they are carried out on the labels, literally."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from netpress.graph.call import Call
from netpress.graph.labels import UNSEEN, Axes, Axis
from netpress.graph.readings import CONSTANT, constant, tie
from netpress.graph.reshape import view
from netpress.graph.rules_parts import PARTS
from netpress.graph.trace import Rule, Tracer, table

# --- the same data in another order ---


def permute(t: Tracer, call: Call) -> list[Axes]:
    """permute, transpose, t, movedim: axes change places."""
    x: Tensor = call.args[0]
    axes, n = t.axes(x), x.dim()
    if call.name == "t":
        order = list(range(n))[::-1]
    elif call.name == "permute":
        order = [d % n for d in call["dims"]]
    else:
        order = list(range(n))
        a, b = call["dim0"] % n, call["dim1"] % n
        order[a], order[b] = order[b], order[a]
    return [[axes[d] for d in order]]


def flip(t: Tracer, call: Call) -> list[Axes]:
    """Positions in reverse."""
    axes = list(t.axes(call.args[0]))
    for d in call["dims"]:
        labels = axes[d]
        if labels is not None:
            axes[d] = labels[::-1]
    return [axes]


def roll(t: Tracer, call: Call) -> list[Axes]:
    """Positions move round. What comes round must keep its number: those channels stay, or the parts go together."""
    x: Tensor = call.args[0]
    axes = list(t.axes(x))
    if not call["dims"]:
        t.pin_all(axes, CONSTANT + call.name)
        return [[None] * x.dim()]
    for shift, d in zip(call["shifts"], call["dims"], strict=True):
        labels = axes[d]
        if labels is None or shift % len(labels) == 0:
            continue
        t.found.risks.append(t.index)
        n, k = len(labels), abs(shift) % len(labels)
        moved = labels[-k:] if shift > 0 else labels[:k]
        options = [constant(t, call, moved), constant(t, call, labels)]
        if n % k == 0:
            options.insert(1, tie(t, labels.reshape(-1, k)))
        t.choose(options, labels)
        t.found.amounts[t.index] = moved
        axes[d] = np.roll(labels, shift)
    return [axes]


def stack(t: Tracer, call: Call) -> list[Axes]:
    """A new axis: what lies at the same place of the parts goes together."""
    parts: Sequence[Tensor] = call.args[0]
    n = parts[0].dim()
    axes = [_together(t, parts, d) for d in range(n)]
    d = call["dim"] % (n + 1)
    return [[*axes[:d], None, *axes[d:]]]


def cat(t: Tracer, call: Call) -> list[Axes]:
    """Side by side on one axis; on the others what lies at the same place goes together."""
    parts = [x for x in call.args[0] if x.dim() > 1 or x.numel()]
    n = parts[0].dim()
    dim = call["dim"] % n
    axes: Axes = []
    for d in range(n):
        if d != dim:
            axes.append(_together(t, parts, d))
            continue
        joined = [t.axis(x, d) for x in parts]
        if all(labels is None for labels in joined):
            axes.append(None)
            continue
        for k, x in enumerate(parts):
            if joined[k] is None:
                joined[k] = t.labels.fresh(x.shape[d])
                t.pin(joined[k], "a part of fixed size in a concatenation")
        axes.append(np.concatenate([labels for labels in joined if labels is not None]))
    return [axes]


def _together(t: Tracer, parts: Sequence[Tensor], axis: int) -> Axis:
    """The labels of one axis that all parts share."""
    seen = [t.peek(x, axis) for x in parts]
    known = [labels for labels in seen if labels is not None and labels is not UNSEEN]
    fixed = any(labels is None for labels in seen)
    if parts[0].shape[axis] == 1 or not (known or any(labels is UNSEEN for labels in seen)):
        return None
    first = None if fixed else known[0] if known else t.axis(parts[0], axis)
    for x in parts:
        if t.peek(x, axis) is not first:
            t.meet(x, axis, first, "meets an axis of fixed size")
    return first


# --- more positions ---


def pad(t: Tracer, call: Call) -> list[Axes]:
    """Positions added at the ends stay: their number is written into the code."""
    x: Tensor = call.args[0]
    axes = list(t.axes(x))
    amounts = list(call["pad"])
    for k, (left, right) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        d = x.dim() - 1 - k
        labels = axes[d]
        if labels is None or not (left or right):
            continue
        t.found.risks.append(t.index)
        cut = [labels[: max(0, -left)], labels[len(labels) - max(0, -right) :]]
        ends = [t.labels.fresh(max(0, left)), t.labels.fresh(max(0, right))]
        t.choose([constant(t, call, *cut, *ends), constant(t, call, labels, *ends)], labels)
        kept = labels[len(cut[0]) : len(labels) - len(cut[1])]
        axes[d] = np.concatenate([ends[0], kept, ends[1]])
    return [axes]


def expand(t: Tracer, call: Call) -> list[Axes]:
    """An axis of one position repeated may follow the channels that it meets later."""
    x: Tensor = call.args[0]
    out = call.outs[0]
    lead = out.dim() - x.dim()
    axes: Axes = [*[None] * lead, *t.axes(x)]
    for d in range(lead, out.dim()):
        if axes[d] is not None:
            t.risk()
        elif _may_be_channels(d, out.dim()) and out.shape[d] != x.shape[d - lead]:
            axes[d] = t.create(out.shape[d])
    return [axes]


def _may_be_channels(axis: int, dims: int) -> bool:
    """Whether an axis that the code makes up may stand for channels: the second, the third of five, the last of few."""
    return axis == 1 or (axis, dims) == (2, 5) or (axis == dims - 1 and axis > 0 and dims < 4)


def repeat(t: Tracer, call: Call) -> list[Axes]:
    """The axis, several times."""
    x: Tensor = call.args[0]
    times = list(call["repeats"])
    axes: Axes = [*[None] * (len(times) - x.dim()), *t.axes(x)]
    return [[None if labels is None else np.tile(labels, k) for labels, k in zip(axes, times, strict=True)]]


# --- other shapes of the same data ---


def squeeze(t: Tracer, call: Call) -> list[Axes]:
    """Axes of one position vanish: the others keep their order."""
    x: Tensor = call.args[0]
    axes = t.axes(x)
    if "dim" in call:
        dims = call["dim"] if isinstance(call["dim"], list | tuple) else [call["dim"]]
        gone = {d % x.dim() for d in dims if x.shape[d] == 1}
    else:
        gone = {d for d in range(x.dim()) if x.shape[d] == 1}
    return [[labels for d, labels in enumerate(axes) if d not in gone]]


def unsqueeze(t: Tracer, call: Call) -> list[Axes]:
    """A new axis of one position."""
    axes = list(t.axes(call.args[0]))
    axes.insert(call["dim"] % (len(axes) + 1), None)
    return [axes]


def pixel_shuffle(t: Tracer, call: Call) -> list[Axes]:
    """(C r r, H, W) to (C, H r, W r): the r² inputs of an output go together."""
    r = call["upscale_factor"]
    axes = list(t.axes(call.args[0]))
    labels = axes[-3]
    if labels is not None:
        rows = labels.reshape(-1, r * r)
        tie(t, rows.T).apply()
        axes[-3] = rows[:, 0]
    return [axes]


def pixel_unshuffle(t: Tracer, call: Call) -> list[Axes]:
    """(C, H r, W r) to (C r r, H, W)."""
    r = call["downscale_factor"]
    axes = list(t.axes(call.args[0]))
    if axes[-3] is not None:
        axes[-3] = np.repeat(axes[-3], r * r)
    return [axes]


def channel_shuffle(t: Tracer, call: Call) -> list[Axes]:
    """The groups' channels in turn: equal offsets go together."""
    axes = list(t.axes(call.args[0]))
    labels = axes[1]
    if labels is not None:
        rows = labels.reshape(call["groups"], -1)
        tie(t, rows).apply()
        axes[1] = rows.T.ravel()
    return [axes]


def im2col(t: Tracer, call: Call) -> list[Axes]:
    """(B, C, H, W) to (B, C k k, L)."""
    axes = t.axes(call.args[0])
    t.pin_all(axes[-2:], CONSTANT + call.name)
    taps = math.prod(call["kernel_size"])
    labels = None if axes[-3] is None else np.repeat(axes[-3], taps)
    return [[*axes[:-3], labels, None]]


def col2im(t: Tracer, call: Call) -> list[Axes]:
    """(B, C k k, L) to (B, C, H, W): the taps of a channel go together."""
    axes = t.axes(call.args[0])
    t.pin(axes[-1], CONSTANT + call.name)
    if axes[-2] is None:
        return [[*axes[:-2], None, None, None]]
    rows = axes[-2].reshape(-1, math.prod(call["kernel_size"]))
    tie(t, rows.T).apply()
    return [[*axes[:-2], rows[:, 0], None, None]]


def glu(t: Tracer, call: Call) -> list[Axes]:
    """One half gates the other: equal offsets go together."""
    axes = list(t.axes(call.args[0]))
    labels = axes[call["dim"]]
    if labels is not None:
        rows = labels.reshape(2, -1)
        tie(t, rows).apply()
        axes[call["dim"]] = rows[0]
    return [axes]


def create(t: Tracer, call: Call) -> list[Axes]:
    """A new tensor: its axes may follow the channels that they meet later."""
    out = call.outs[0]
    axes = [t.create(n) if n > 1 and _may_be_channels(d, out.dim()) else None for d, n in enumerate(out.shape)]
    for x in call.tensors[:1]:  # new_zeros and its like know a tensor, whose sizes the code may ask for
        for d, labels in enumerate(axes):
            other = t.axis(x, d) if d < x.dim() and x.shape[d] == out.shape[d] else None
            if labels is not None and other is not None:
                t.choose([tie(t, np.stack([labels, other])), tie(t, labels[None])], other)
    return [axes]


expand.creates = True  # type: ignore[attr-defined]
create.creates = True  # type: ignore[attr-defined]

MOVES: dict[str | None, Rule] = {
    **PARTS,
    **table("permute transpose t", permute),
    **table("view _unsafe_view reshape _reshape_alias", view),
    **table("zeros ones full empty rand randn new_zeros new_ones new_full new_empty", create),
    "flip": flip,
    "roll": roll,
    "stack": stack,
    "cat": cat,
    "constant_pad_nd": pad,
    "expand": expand,
    "repeat": repeat,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    **table("channel_shuffle native_channel_shuffle", channel_shuffle),
    "im2col": im2col,
    "col2im": col2im,
    "glu": glu,
}
