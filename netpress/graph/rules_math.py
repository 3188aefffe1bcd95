"""Rules for arithmetic: pointwise operations, convolution, products of matrices, norms, pooling, reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from netpress.graph.call import Call, Claim, Maker
from netpress.graph.labels import UNSEEN, Axes, Axis
from netpress.graph.readings import constant, tie
from netpress.graph.rules_move import MOVES
from netpress.graph.trace import Rule, Tracer, table

FIXED = "meets an axis of fixed size"


def pointwise(t: Tracer, call: Call) -> list[Axes]:
    """What lies at the same place of the operands goes together; axes of one position are repeated."""
    out, operands = call.outs[0], call.tensors
    if len(operands) == 1 and operands[0].dim() == out.dim():
        return [t.axes(operands[0])]
    return [[_aligned(t, operands, axis - out.dim(), n) for axis, n in enumerate(out.shape)]] * len(call.outs)


def _aligned(t: Tracer, operands: Sequence[Tensor], axis: int, size: int) -> Axis:
    """The labels of one axis, counted from the last, of all operands that are not repeated along it."""
    if size == 1:
        return None
    parts = [x for x in operands if x.dim() >= -axis and x.shape[axis] == size]
    seen = [t.peek(x, axis) for x in parts]
    known = [labels for labels in seen if labels is not None and labels is not UNSEEN]
    fixed = any(labels is None for labels in seen)
    if not known and not any(labels is UNSEEN for labels in seen):
        return None
    first = None if fixed else known[0] if known else t.axis(parts[0], axis)
    for x in parts:
        if t.peek(x, axis) is not first:
            t.meet(x, axis % x.dim(), first, FIXED)
    return first


# --- convolution ---


def convolution(t: Tracer, call: Call) -> list[Axes]:
    """Incoming channels meet the input axis of the weight; its output axis makes new ones."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    for axis in range(2, weight.dim()):
        t.meet(weight, axis, None, "the window of a convolution")
    spatial = [None if labels is not None and t.made(labels) else labels for labels in t.axes(x)[2:]]
    if any(labels is not None for labels in spatial):
        return [_across(t, call, spatial)]
    if call["groups"] == 1:
        made = _dense(t, x, weight, 0 if call["transposed"] else 1)
    elif 1 in _per_group(call):
        made = _depthwise(t, call)
    else:
        made = _grouped(t, call)
    if bias is not None:
        t.meet(bias, 0, made, FIXED)
    if made is not None:
        t.found.makers.append(Maker(t.path, "convolution", made))
    return [[t.axis(x, 0), made, *[None] * (call.outs[0].dim() - 2)]]


def _across(t: Tracer, call: Call, spatial: Axes) -> Axes:
    """A convolution that slides along the channels, as in efficient channel attention, sees the neighbours kept."""
    x, out = call["input"], call.outs[0]
    strides = call["stride"]
    if x.shape == out.shape and x.shape[1] == 1 and all(s == 1 for s in strides) and not call["transposed"]:
        for labels in spatial:
            t.mix(labels, "convolution along the channels")
        return list(t.axes(x))
    t.pin_all(t.axes(x), "a convolution that slides along the channels")
    return [None] * out.dim()


def _dense(t: Tracer, x: Tensor, weight: Tensor, incoming: int) -> Axis:
    if x.shape[1] > 1:
        if not (t.zeroed(weight) or t.zeroed(x)):
            t.mix(t.axis(x, 1), "sum over channels")
        t.meet(weight, incoming, t.axis(x, 1), "fed by an axis of fixed size")
    made = t.axis(weight, 1 - incoming)
    return made if weight.shape[1 - incoming] > 1 else None


def _per_group(call: Call) -> tuple[int, int]:
    """Inputs and outputs of one group."""
    groups = call["groups"]
    return call["input"].shape[1] // groups, call.outs[0].shape[1] // groups


def _depthwise(t: Tracer, call: Call) -> Axis:
    """Every group goes as a whole: its inputs and its outputs together."""
    x, weight, groups = call["input"], call["weight"], call["groups"]
    inputs, outputs = _per_group(call)
    incoming = t.axis(x, 1)
    other = 1
    t.meet(weight, other, None, "inside a group of channels")
    if incoming is None:
        t.meet(weight, 0, None, "fed by an axis of fixed size")
        return None
    rows = incoming.reshape(groups, inputs)
    tie(t, rows.T).apply()
    made = np.repeat(rows[:, 0], outputs)
    t.meet(weight, 0, incoming if call["transposed"] else made, FIXED)
    if isinstance(t.stack[-1][1], nn.modules.conv._ConvNd):
        t.found.claims.append(Claim(t.path, "groups", (rows[:, 0],)))
        return made
    t.found.risks.append(t.index)
    claims = t.attributes({groups: rows[:, 0]})
    follow = [tie(t, made[None], *claims)] if claims else []
    t.choose([tie(t, made[None]), *follow, constant(t, call, made)], made)
    return made


def _grouped(t: Tracer, call: Call) -> Axis:
    """All groups keep the same offsets."""
    x, weight, groups = call["input"], call["weight"], call["groups"]
    incoming = t.axis(x, 1)
    if incoming is not None:
        rows = incoming.reshape(groups, -1)
        tie(t, rows).apply()
    offsets = None if incoming is None else rows[0]
    if call["transposed"]:
        t.meet(weight, 0, incoming, "fed by an axis of fixed size")
        made = t.axis(weight, 1)
        return None if made is None else np.tile(made, groups)
    t.meet(weight, 1, offsets, "fed by an axis of fixed size")
    made = t.axis(weight, 0)
    if made is not None:
        tie(t, made.reshape(groups, -1)).apply()
    return made


# --- products of matrices ---


def addmm(t: Tracer, call: Call) -> list[Axes]:
    """bias + a b, of matrices or batches of them."""
    bias, a, b = call.args[:3]
    axes = _matmul(t, a, b)
    if bias.dim() and bias.shape[-1] > 1:
        t.meet(bias, bias.dim() - 1, axes[-1], FIXED)
    for d in range(bias.dim() - 1):
        if bias.shape[d] > 1:
            t.meet(bias, d, axes[d - bias.dim()], FIXED)
    return [axes]


def matmul(t: Tracer, call: Call) -> list[Axes]:
    """mm, bmm: the inner axes go together."""
    return [_matmul(t, call.args[0], call.args[1])]


def _matmul(t: Tracer, a: Tensor, b: Tensor) -> Axes:
    axes: Axes = [_aligned(t, (a, b), d - a.dim(), a.shape[d]) for d in range(a.dim() - 2)]
    inner = t.axis(a, a.dim() - 1)
    if a.shape[-1] > 1:
        if inner is not None and not (t.zeroed(a) or t.zeroed(b)):
            t.mix(inner, "sum over channels")
        t.meet(b, b.dim() - 2, inner, "fed by an axis of fixed size")
    made = t.axis(b, b.dim() - 1) if b.shape[-1] > 1 else None
    if made is not None and t.zeroed(b):
        t.found.makers.append(Maker(t.path, "linear", made))
    return [*axes, t.axis(a, a.dim() - 2), made]


# --- norms ---


def batch_norm(t: Tracer, call: Call) -> list[Axes]:
    """Statistics per channel; where the other axes carry channels, as in weight standardisation, over those kept."""
    x: Tensor = call["input"]
    labels = t.axis(x, 1) if x.shape[1] > 1 else None
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = call.optional(name)
        if tensor is not None and tensor.shape[0] > 1:
            t.meet(tensor, 0, labels, FIXED)
    if _live(call):
        for d, other in enumerate(t.axes(x)):
            if d != 1:
                t.mix(other, "mean and variance over channels")
    rest: list[Axes] = [[labels] if o.numel() == x.shape[1] else [None] * o.dim() for o in call.outs[1:]]
    return [t.axes(x), *rest]


def _live(call: Call) -> bool:
    """Whether the statistics come from the input."""
    for name in ("training", "train", "use_input_stats"):
        if name in call:
            return bool(call[name])
    return "running_mean" not in call


def layer_norm(t: Tracer, call: Call) -> list[Axes]:
    """Statistics over the last axes, of the channels that are kept."""
    x: Tensor = call["input"]
    k = len(call["normalized_shape"])
    axes = t.axes(x)
    inner = axes[-k:]
    for name in ("weight", "bias"):
        tensor = call.optional(name)
        if tensor is not None:
            for d, labels in enumerate(inner):
                if tensor.shape[d] > 1:
                    t.meet(tensor, d, labels, FIXED)
    for labels in inner:
        t.mix(labels, "layer norm")
    module = t.stack[-1][1]
    if hasattr(module, "normalized_shape"):
        parts = tuple(n if a is None else a for a, n in zip(inner, x.shape[-k:], strict=True))
        t.found.claims.append(Claim(t.path, "normalized_shape", parts, "tuple"))
    else:
        t.risk()
    outer: Axes = [*axes[:-k], *[None] * k]
    rest: list[Axes] = [outer if o.dim() == x.dim() else [None] * o.dim() for o in call.outs[1:]]
    return [axes, *rest]


def group_norm(t: Tracer, call: Call) -> list[Axes]:
    """Statistics per group of channels: all groups keep the same offsets, or, one channel each, go as a whole."""
    x, groups = call["input"], call["group"]
    axes = t.axes(x)
    labels = axes[1]
    for name in ("weight", "bias"):
        if call[name] is not None:
            t.meet(call[name], 0, labels, FIXED)
    if labels is not None:
        if groups == x.shape[1]:
            t.found.claims.append(Claim(t.path, "num_groups", (labels,)))
        else:
            tie(t, labels.reshape(groups, -1)).apply()
            t.mix(labels, "group norm")
    rest: list[Axes] = [[None] * o.dim() for o in call.outs[1:]]
    return [axes, *rest]


# --- along axes ---


def reduce(t: Tracer, call: Call) -> list[Axes]:
    """mean, sum, max, variance, norm over axes: over the channels that are kept."""
    x: Tensor = call.args[0]
    dims = call.optional("dim")
    dims = [dims] if isinstance(dims, int) else list(range(x.dim())) if not dims else list(dims)
    gone = {d % x.dim() for d in dims} if x.dim() else set()
    axes = t.axes(x)
    for d in gone:
        t.mix(axes[d], f"{call.name.removeprefix('linalg_')} over channels")
    module = t.stack[-1][1]
    if t.function == "rms_norm" and isinstance(getattr(module, "normalized_shape", None), tuple):
        parts = tuple(x.shape[d] if (a := axes[d]) is None else a for d in sorted(gone))
        t.found.claims.append(Claim(t.path, "normalized_shape", parts, "tuple"))
    kept = [None if d in gone else a for d, a in enumerate(axes)]
    return [kept if o.dim() == x.dim() else [a for d, a in enumerate(axes) if d not in gone] for o in call.outs]


def along(t: Tracer, call: Call) -> list[Axes]:
    """softmax and its like along one axis: over the channels that are kept."""
    x: Tensor = call.args[0]
    axes = t.axes(x)
    t.mix(axes[call["dim"] % x.dim()], f"{call.name.strip('_')} over channels")
    return [axes]


def weight_norm(t: Tracer, call: Call) -> list[Axes]:
    """g v / |v|: the norm of each filter is taken over the inputs that are kept."""
    v, g = call["v"], call["g"]
    dim = call["dim"] % v.dim()
    axes = t.axes(v)
    for d, labels in enumerate(axes):
        if d != dim:
            t.mix(labels, "weight norm")
    if g.shape[dim] > 1:
        t.meet(g, dim, axes[dim], FIXED)
    return [axes, *[[labels if d == dim else None for d, labels in enumerate(axes)] for _ in call.outs[1:]]]


def pool(t: Tracer, call: Call) -> list[Axes]:
    """Windows over the last axes, which carry no channels."""
    x: Tensor = call.args[0]
    axes = t.axes(x)
    windows = _windows(call, x)
    for labels in axes[-windows:]:
        t.pin(labels, f"windows of {call.name} slide along the channels")
    return [[*axes[:-windows], *[None] * windows]] * len(call.outs)


def _windows(call: Call, x: Tensor) -> int:
    if (digits := [c for c in call.name if c in "123"]) and "d" in call.name:
        return int(digits[0])
    return x.dim() - 2


def attention(t: Tracer, call: Call) -> list[Axes]:
    """softmax(q kᵀ / √d) v: the scale depends on d, so its channels stay."""
    q, k, v = (call[name] for name in ("query", "key", "value"))
    for x in (q, k):
        t.pin(t.axis(x, x.dim() - 1), "the scale of attention depends on the number of channels")
    axes: Axes = [_aligned(t, (q, k, v), d - q.dim(), q.shape[d]) for d in range(q.dim() - 2)]
    for x in (q, k, v):
        t.pin(t.axis(x, x.dim() - 2), "a position of attention")
    rest: list[Axes] = [[None] * o.dim() for o in call.outs[1:]]
    return [[*axes, None, t.axis(v, v.dim() - 1)], *rest]


def like(t: Tracer, call: Call) -> list[Axes]:
    """The same shape as the first argument."""
    return [t.axes(call.args[0]) if o.shape == call.args[0].shape else [None] * o.dim() for o in call.outs]


def as_strided(t: Tracer, call: Call) -> list[Axes]:
    """The layout that pooling to one position gives its result; any other use pins."""
    x: Tensor = call.args[0]
    size, stride = list(call["size"]), list(call["stride"])
    usual = [math.prod(size[d + 1 :]) for d in range(len(size))]
    same = list(x.shape) == size and all(n == 1 or s == u for n, s, u in zip(size, stride, usual, strict=True))
    if same and not call["storage_offset"]:
        return [t.axes(x)]
    t.pin_all(t.axes(x), "a layout written into the code: as_strided")
    return [[None] * len(size)]


RULES: dict[str | None, Rule] = {
    None: pointwise,
    **MOVES,
    **table("convolution _convolution mkldnn_convolution", convolution),
    **table("addmm baddbmm", addmm),
    **table("mm bmm", matmul),
    **table(
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training batch_norm cudnn_batch_norm",
        batch_norm,
    ),
    **table("copy _prelu_kernel hardswish hardsigmoid mish selu celu log_sigmoid_forward rrelu_with_noise", pointwise),
    "_weight_norm_interface": weight_norm,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    **table(
        "mean sum amax amin max min var std var_mean std_mean linalg_vector_norm norm prod logsumexp any all argmax "
        "argmin",
        reduce,
    ),
    **table("_softmax _log_softmax _safe_softmax", along),
    **table(
        "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d "
        "_upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_trilinear3d reflection_pad1d "
        "reflection_pad2d replication_pad1d replication_pad2d max_pool2d adaptive_avg_pool1d",
        pool,
    ),
    **table(
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math "
        "_scaled_dot_product_fused_attention_overrideable",
        attention,
    ),
    "as_strided": as_strided,
    **table("zeros_like ones_like full_like empty_like rand_like randn_like", like),
    **table(
        "detach alias lift_fresh contiguous clone _to_copy native_dropout bernoulli uniform normal fill zero", like
    ),
}
