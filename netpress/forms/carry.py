"""Forms of tensors that lose channels or entries, and of tensors whose step was trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from netpress.forms.values import Affine, Form, Free, Shared, Signs, inside


def select(form: Form, shape: torch.Size, axis: int, keep: Tensor) -> Form:
    """The form of `w.index_select(axis, keep)`, where `w` has `form`: what structure edits carry along.

    Values of the table that no kept entry uses are dropped, so that every place is used.

    Args:
        form: of a tensor.
        shape: of that tensor.
        axis: along which entries are taken.
        keep: int64 positions along the axis.

    >>> form = Form(support=torch.tensor([True, False, True]), values=Shared(torch.tensor([0, 1]), 2))
    >>> taken = select(form, torch.Size([3]), 0, torch.tensor([1, 2]))
    >>> taken.support.tolist(), taken.values.index.tolist(), taken.values.size
    ([False, True], [0], 1)
    """
    support = None if form.support is None else form.support.index_select(axis, keep)
    match form.values:
        case Free():
            return Form(support)
        case Shared() as shared:
            return _retabled(shared, support, _places(shared, form.support, shape).index_select(axis, keep))
        case Signs() as signs:
            return Form(support, replace(signs, pattern=signs.pattern.index_select(axis, keep)))
        case Affine() as grid:
            varies = grid.step.shape[axis] > 1
            return Form(support, replace(grid, step=grid.step.index_select(axis, keep)) if varies else grid)


def narrow(form: Form, support: Tensor) -> Form:
    """The form on a smaller support; values of the table that no entry uses any more are dropped.

    Args:
        form: of a tensor.
        support: bool, the tensor's shape; no entry that `form` keeps at zero.

    >>> form = Form(values=Shared(torch.tensor([0, 1, 2]), 3))
    >>> narrow(form, torch.tensor([True, False, True])).values.index.tolist()
    [0, 1]
    """
    match form.values:
        case Free():
            return Form(support)
        case Shared() as shared:
            return _retabled(shared, support, _places(shared, form.support, support.shape))
        case Signs() as signs:
            return Form(support, replace(signs, pattern=signs.pattern & support))
        case Affine() as grid:
            return Form(support, grid)


def _places(shared: Shared, support: Tensor | None, shape: torch.Size) -> Tensor:
    """For every entry of the tensor its place in the table, -1 outside the support."""
    places = torch.full(shape, -1)
    places[torch.ones_like(places, dtype=torch.bool) if support is None else support] = shared.index
    return places


def _retabled(shared: Shared, support: Tensor | None, places: Tensor) -> Form:
    """A form whose table has the places that are used inside the support, numbered anew."""
    used, index = torch.unique(inside(Form(support), places), return_inverse=True)
    return Form(support, Shared(index, len(used), shared.grid) if len(used) else Free())


def with_step(form: Form, step: Tensor) -> Form:
    """The form of a tensor whose grid has another step: what training leaves.

    >>> with_step(Form(values=Affine.symmetric(torch.tensor([1.0]), 4)), torch.tensor([0.5])).values.step.tolist()
    [0.5]

    Raises:
        TypeError: the form has no grid.
        ValueError: the step is NaN.
    """
    match form.values:
        case Affine() as grid:
            return replace(form, values=grid.stepped(step))
        case Shared(grid=Affine() as grid) as shared:
            return replace(form, values=replace(shared, grid=grid.stepped(step)))
        case Free() | Shared() | Signs():
            raise TypeError(f"expected a form with a grid, got {sorted(form.traits)}")
