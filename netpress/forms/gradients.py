"""What the forms compute and how it is differentiated: tables, signs, grids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from netpress.codec.sides import MAX_STEP, MIN_STEP


def kept(w: Tensor, support: Tensor | None) -> Tensor:
    """`w` inside the support, +0.0 outside."""
    # `where`, not a product: a product would leave -0.0 and lets NaN through
    return w if support is None else torch.where(support, w, torch.zeros_like(w))


class _Gather(torch.autograd.Function):
    """w[positions] = table[index], zero elsewhere. The gradient of a table value is the sum over its members."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, positions: Tensor | None, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(index, positions)
        ctx.size = len(table)
        table = table + 0.0  # -0.0 becomes +0.0, as in `encode`: a trained table too holds its form to the bit
        if positions is None:
            return table[index].view(shape)
        return table.new_zeros(shape.numel()).index_copy_(0, positions, table[index]).view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        index, positions = ctx.saved_tensors
        members = grad.flatten() if positions is None else grad.flatten()[positions]
        # bincount sums in float64; plain indexing would cost as much as the layer itself
        return torch.bincount(index, members.double(), minlength=ctx.size).to(grad.dtype), None, None, None


def gather(table: Tensor, index: Tensor, positions: Tensor | None, shape: torch.Size) -> Tensor:
    """A tensor whose entries at `positions` are `table[index]`, differentiable in `table`; zero elsewhere.

        dL/dtable[k] = sum over i with index[i] = k of dL/dw[i]        (Han et al. 2016, section 3.3)

    Args:
        table: float (K,).
        index: int64 (S,).
        positions: int64 (S,), flat; None means every place.
        shape: of the result.

    Returns:
        The tensor, in `shape`.

    >>> gather(torch.tensor([5.0, 7.0]), torch.tensor([1, 0]), torch.tensor([0, 3]), torch.Size([2, 2])).tolist()
    [[7.0, 0.0], [0.0, 5.0]]
    """
    result: Tensor = _Gather.apply(table, index, positions, shape)  # type: ignore[no-untyped-call]
    return result


def signed(scale: Tensor, pattern: Tensor, support: Tensor | None) -> Tensor:
    """The scale where the pattern is true, its opposite where it is not, zero outside the support.

        dL/ds = sum over its entries of dL/dw * (+1 or -1)

    Args:
        scale: broadcasts to the pattern's shape.
        pattern: bool, the tensor's shape.
        support: bool, the tensor's shape, or None.

    >>> signed(torch.tensor([0.5]), torch.tensor([True, False, False]), torch.tensor([True, True, False])).tolist()
    [0.5, -0.5, 0.0]
    """
    # sums with zero, not a sign: a scale of zero gives +0.0 on both sides
    return kept(torch.where(pattern, scale + 0.0, 0.0 - scale), support)


class _Round(torch.autograd.Function):
    """The nearest multiple of the step between two levels; see `on_grid`."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, step: Tensor, share: Tensor, low: Any, high: Any) -> Tensor:
        used = step.clamp(MIN_STEP, MAX_STEP)
        scaled = w / used
        nearest = torch.round(scaled)
        level = nearest.clamp(low, high) + 0.0  # -0.0 becomes +0.0
        ctx.save_for_backward(nearest == level, level - scaled, level, share)
        ctx.step_shape = step.shape
        return level * used

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,) = grads
        within, off, level, share = ctx.saved_tensors
        of_w = torch.where(within, grad, torch.zeros_like(grad)) if ctx.needs_input_grad[0] else None
        of_step = None
        if ctx.needs_input_grad[1]:
            of_step = (grad * torch.where(within, off, level)).sum_to_size(ctx.step_shape) * share
        return of_w, of_step, None, None, None


def on_grid(w: Tensor, step: Tensor, share: Tensor, levels: tuple[int, int] | tuple[Tensor, Tensor]) -> Tensor:
    """The nearest multiples of a step, straight-through where they round (Esser et al. 2020, equations 3 to 5).

        level = clamp(round(w / step), levels),  result = level * step
        dresult/dw    = 1 where nothing was clamped, else 0
        dresult/dstep = level - w / step where nothing was clamped, else level; times `share`

    Differs from the paper: what rounds to the last level is not clamped, so that weights which lie on it can leave it.
    A step out of its range 2^-126 .. 2^119 is brought into it.

    Args:
        w: float.
        step: broadcasts to `w`.
        share: of the gradient that reaches a step, broadcasts to it; see `gradient_share`.
        levels: least and largest multiple, numbers or tensors without axes.

    >>> on_grid(torch.tensor([0.3, -0.1, 9.0]), torch.tensor([0.25]), torch.tensor([1.0]), (-4, 3)).tolist()
    [0.25, 0.0, 0.75]
    """
    result: Tensor = _Round.apply(w, step.to(w.dtype), share.to(w.dtype), *levels)  # type: ignore[no-untyped-call]
    return result


def gradient_share(counts: Tensor, levels: tuple[int, int]) -> Tensor:
    """How much of its gradient a step gets, so that it moves about as fast as the weights (LSQ, section 2.2).

        1 / sqrt(weights of the step * largest level)

    Args:
        counts: how many weights each step has.
        levels: least and largest multiple of the step.
    """
    return (counts.clamp(min=1) * max(levels[1], 1)).rsqrt()
