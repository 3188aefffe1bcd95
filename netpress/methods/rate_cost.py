"""What a tensor of whole numbers costs in a file, estimated from itself; and how the cost changes with each number.

A number is told as: is it zero, which sign, how large. Zeros are told by the activity of their row (output) and column
(input): a table of shares over pairs of counts of non-zero entries, so that an entry in an empty row or column is dear
and one among many is cheap. Signs cost a bit. Sizes have a geometric density with the mean that they have now.

    bits = sum over zeros of -log2(1 - p[r, c]) + sum over the others of -log2 p[r, c] + 1 - log2 g(|q|)
    g(k) = (1 - rho) rho^(k - 1),  rho = 1 - 1 / mean of |q|

All of it is learned from the numbers as they are: nothing is trained but the weights, and nothing is carried along.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SHARPEST = 1e-6
"""Chances stay this far from 0 and 1."""
_LEAST = 1.0
"""Bits that a number other than zero costs more than zero, at least: its sign. Never is a zero made dear."""
_LARGEST_COUNT = 1 << 24


class Cost(NamedTuple):
    """An estimate.

    Attributes:
        bits: of the whole tensor.
        first: what a 1 costs more than a 0 at every place, bits; the tensor's shape.
        further: what every further unit of size costs, bits.
    """

    bits: float
    first: Tensor
    further: float


def _edges() -> Tensor:
    """Counts at which a new class begins: each about a half larger than the one before."""
    found = [0, 1]
    while found[-1] < _LARGEST_COUNT:
        found.append(max(found[-1] + 1, found[-1] * 3 // 2))
    return torch.tensor(found)


_EDGES = _edges()


def cost(whole: Tensor) -> Cost:
    """What the numbers cost now.

    >>> empty, full = torch.zeros(8, 8), torch.zeros(8, 8)
    >>> full[2] = 3
    >>> cost(empty).bits < 1 < cost(full).bits, cost(full).first[2, 0] < cost(full).first[3, 0]
    (True, tensor(True))

    Args:
        whole: float tensor of whole numbers; the first axis are outputs, the second inputs; a vector is one row.
    """
    flat = whole.detach().reshape(*(whole.shape[:2] if whole.ndim > 1 else (1, whole.numel())), -1)
    apart = (flat != 0).float()
    used, taps = apart.sum(2), flat.shape[2]
    now, more = _chances(used, taps)
    count = float(used.sum())
    mean = max(float(flat.abs().sum()) / max(count, 1.0), 1.0 + 1 / max(count, 2.0))
    further = -math.log2(1 - 1 / mean)
    bits_zero, bits_one = -torch.log2(1 - now), -torch.log2(now)
    one = 1 + math.log2(mean)  # a sign, and -log2 g(1)
    total = (bits_zero * (taps - used)).sum() + (bits_one * used).sum() + count * (one + (mean - 1) * further)
    # where there is a number already, its own row and column are as they are; elsewhere they would hold one more
    rise = torch.where(
        apart > 0, (bits_one - bits_zero)[..., None], (torch.log2(1 - more) - torch.log2(more))[..., None]
    )
    return Cost(float(total), (rise + one).clamp(min=_LEAST).reshape(whole.shape), further)


def _chances(used: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """The chance of a number other than zero at every pair of row and column: as things are, and with one more there.

    Args:
        used: entries other than zero of every pair (rows, columns).
        taps: entries of a pair.
    """
    rows, columns = used.sum(1), used.sum(0)
    edges = _EDGES.to(used)
    classes = len(edges)
    r, c = (torch.bucketize(counts, edges, right=True) - 1 for counts in (rows, columns))
    of_row, of_column = (torch.nn.functional.one_hot(places, classes).float() for places in (r, c))
    ones = of_row.T @ used @ of_column
    entries = of_row.sum(0)[:, None] * of_column.sum(0)[None] * taps
    everywhere = (used.mean() / taps).clamp(min=_SHARPEST)
    table = ((ones + 2 * everywhere) / (entries + 2)).clamp(_SHARPEST, 1 - _SHARPEST)
    r1, c1 = (torch.bucketize(counts + 1, edges, right=True) - 1 for counts in (rows, columns))
    return table[r][:, c], table[r1][:, c1]


class _Bits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, step: Tensor, share: Tensor, low: Any, high: Any) -> Tensor:
        scaled = latent / step
        whole = scaled.round().clamp(low, high)
        found = cost(whole)
        slope = torch.where(scaled.abs() < 1, found.first, found.further) * scaled.sign()
        ctx.save_for_backward(slope, scaled, step, share)
        return latent.new_tensor(found.bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        slope, scaled, step, share = ctx.saved_tensors
        of_step = None
        if ctx.needs_input_grad[1]:
            of_step = grads[0] * share * (-slope * scaled / step).sum_to_size(step.shape)
        return grads[0] * slope / step, of_step, None, None, None


def bits(latent: Tensor, step: Tensor, share: Tensor, levels: tuple[int, int]) -> Tensor:
    """The estimated bits of a tensor on a grid, differentiable in what is trained of it.

        dbits/dw = (first where |w / step| < 1, else further) * sign(w) / step

    the slope of the cost between neighbouring whole numbers, at the weights before rounding; also inside the zero
    level, so that a weight that nothing asks for drifts to zero.

    Args:
        latent: weights before rounding.
        step: of the grid; broadcasts to them.
        share: of the gradient that reaches a step (`forms.step_share`); the task's gets the same.
        levels: least and largest multiple.

    >>> w = torch.tensor([[0.3, 2.2], [0.0, -1.4]], requires_grad=True)
    >>> bits(w, torch.tensor([1.0]), torch.tensor([1.0]), (-8, 7)).backward()
    >>> w.grad.sign().tolist()
    [[1.0, 1.0], [0.0, -1.0]]
    """
    found: Tensor = _Bits.apply(latent, step, share, *levels)  # type: ignore[no-untyped-call]
    return found
