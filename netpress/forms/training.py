"""Tensor -> what is trained for it -> tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from netpress.errors import ModelError
from netpress.forms.gradients import gather, gradient_share, kept, on_grid, signed
from netpress.forms.values import Affine, Form, Free, Shared, Signs, inside

Params = Tensor | tuple[Tensor, ...]
"""What is trained: one tensor, or the floats (weights, table) and the step of their grid."""


def encode(form: Form, w: Tensor) -> Params:
    """What is trained for `w` under `form`: the tensor itself, the table of its shared values, the scale of its signs.

    A table holds the mean of the members of each place, a scale s the mean of +w and -w over its entries, which is the
    least-squares one; both are taken in float64, so that members that are already equal come back bit for bit (the
    partial sums of equal float32 numbers are exact below 2^29 members).

    Args:
        form: of the tensor.
        w: (shape of the tensor), float.

    Returns:
        `w` with zeros outside the support; a table (K,); a scale (1 along the axes where it does not vary). Where the
        step of a grid is trained, a pair: the floats before rounding, and the step.

    Raises:
        ModelError: a weight inside the support is NaN or infinite, and there are signs or a grid.
    """
    if not _fit_to_round(form, w):
        bad = int((~inside(form, w).isfinite()).sum())
        raise ModelError(f"{bad} of {w.numel()} weights are NaN or infinite: {form.values.name} takes finite ones")
    match form.values:
        case Free():
            return w.clone() if form.support is None else kept(w, form.support)
        case Shared(grid=grid) as shared:
            table = _table(shared, inside(form, w))
            return (table, _own(grid.step, w)) if grid is not None and grid.trained else table
        case Signs() as signs:
            return _scale(signs, form.support, w)
        case Affine() as grid:
            latent = kept(w, form.support).clone()
            return (latent, _own(grid.step, w)) if grid.trained else latent


def _own(step: Tensor, like: Tensor) -> Tensor:
    """A copy: what is trained must not move the form's own step."""
    return step.to(like, copy=True)


def _table(shared: Shared, members: Tensor) -> Tensor:
    total = torch.bincount(shared.index, members.double(), minlength=shared.size)
    counts = torch.bincount(shared.index, minlength=shared.size)
    return (total / counts).to(members.dtype) + 0.0  # -0.0 becomes +0.0


def _scale(signs: Signs, support: Tensor | None, w: Tensor) -> Tensor:
    """The mean of +w and -w over the entries of each scale; 0 where the support leaves none."""
    along = kept(torch.where(signs.pattern, w, -w), support).double().sum_to_size(signs.scale_shape)
    return (along / _counts(support, w, signs.scale_shape).clamp(min=1)).to(w.dtype) + 0.0


def _counts(support: Tensor | None, w: Tensor, shape: tuple[int, ...]) -> Tensor:
    """How many entries inside the support share each scale or step."""
    entries = torch.ones_like(w, dtype=torch.double) if support is None else support.double()
    return entries.sum_to_size(shape)


def _fit_to_round(form: Form, w: Tensor) -> bool:
    match form.values:
        case Free():
            return True
        case Shared(grid=grid):
            return grid is None or bool(inside(form, w).isfinite().all())
        case Signs() | Affine():
            return bool(inside(form, w).isfinite().all())


def step_share(form: Form, like: Tensor) -> Tensor | None:
    """The share of its gradient that each step of the form's grid gets, float32; None where there is no grid.

    Args:
        form: of a tensor.
        like: a tensor of its shape.
    """
    match form.values:
        case Free() | Signs():
            return None
        case Shared(index=index, grid=grid):
            return None if grid is None else gradient_share(torch.full((1,), float(len(index))), grid.levels)
        case Affine() as grid:
            return gradient_share(_counts(form.support, like, tuple(grid.step.shape)), grid.levels).float()


def decode(form: Form, params: Params, shape: torch.Size) -> Tensor:
    """The tensor that the network computes with, from what is trained. Differentiable in `params`."""
    first, *steps = (params,) if isinstance(params, Tensor) else params
    match form.values:
        case Free():
            return kept(first, form.support)
        case Shared(index=index, grid=grid):
            table = first if grid is None else _rounded(form, grid, first, steps, shape)
            return gather(table, index, form.positions(), shape)
        case Signs(pattern=pattern):
            return signed(first, pattern, form.support)
        case Affine() as grid:
            return _rounded(form, grid, kept(first, form.support), steps, shape)


def _rounded(form: Form, grid: Affine, floats: Tensor, steps: list[Tensor], shape: torch.Size) -> Tensor:
    share = step_share(form, floats.new_zeros(()).expand(shape))
    assert share is not None
    return on_grid(floats, steps[0] if steps else grid.step, share, grid.levels)


def project(form: Form, w: Tensor) -> Tensor:
    """The nearest tensor that `form` allows; idempotent to the bit.

    >>> form = Form(support=torch.tensor([True, True, False]), values=Shared(torch.tensor([0, 0]), 1))
    >>> project(form, torch.tensor([1.0, 3.0, 9.0])).tolist()
    [2.0, 2.0, 0.0]
    >>> project(Form(values=Signs.of(w := torch.tensor([3.0, -1.0]))), w).tolist()
    [2.0, -2.0]

    Raises:
        ModelError: as `encode`.
    """
    return decode(form, encode(form, w), w.shape)


def holds(form: Form, w: Tensor) -> bool:
    """Whether `w` already is what `form` allows, to the bit.

    >>> holds(Form(support=torch.tensor([True, False])), torch.tensor([3.0, 0.0]))
    True
    >>> holds(Form(support=torch.tensor([True, False])), torch.tensor([3.0, 1e-9]))
    False
    """
    return _fit_to_round(form, w) and np.array_equal(_bits(project(form, w)), _bits(w))


def _bits(w: Tensor) -> np.ndarray:
    return w.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
