"""Tensor and form <-> what a file holds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from netpress.codec.sides import Side
from netpress.codec.stored import Stored, restore
from netpress.forms.training import Params, encode, holds
from netpress.forms.values import Affine, Form, Free, Shared, Signs, Values, inside


def symbols(form: Form, w: Tensor) -> Stored:
    """The tensor as it is written: where it differs from zero, table indices, signs or integers, side data.

    Args:
        form: of the tensor; `holds(form, w)` must be true.
        w: the tensor.

    Returns:
        A `Stored`; `restore` of it equals `w` bit for bit.

    Raises:
        ValueError: `w` is not what the form allows.
    """
    if not holds(form, w):
        raise ValueError(f"the tensor does not hold its form {sorted(form.traits)}")
    plain = _numpy(inside(form, w))
    places = form.positions()
    positions = None if places is None else _numpy(places)
    shape, dtype = tuple(w.shape), str(w.dtype).removeprefix("torch.")
    match form.values:
        case Free():
            return Stored(shape, "free", dtype, positions, values=plain)
        case Shared(index=index, grid=grid):
            table = _numpy(_first(encode(form, w)))
            side = None if grid is None else _side(grid)
            return Stored(shape, "shared", dtype, positions, codes=_numpy(index), table=table, side=side)
        case Signs(axes=axes, trained=trained) as signs:
            side = Side(_numpy(_first(encode(form, w))), axes, trained)
            codes = _numpy(inside(form, signs.pattern)).astype(np.uint8)
            return Stored(shape, "signs", dtype, positions, codes=codes, side=side)
        case Affine(step=step, zero_point=zero_point) as grid:
            levels = torch.round(inside(form, w / step)).to(torch.int64)
            codes = _numpy(levels + zero_point).astype(np.uint8)
            return Stored(shape, "affine", dtype, positions, codes=codes, side=_side(grid))


def _side(grid: Affine) -> Side:
    return Side(_numpy(grid.step), grid.axes, grid.trained, grid.bits, grid.zero_point)


def _first(params: Params) -> Tensor:
    return params if isinstance(params, Tensor) else params[0]


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()


def from_stored(stored: Stored) -> tuple[Form, Tensor]:
    """The form and the tensor that a file holds: the inverse of `symbols`."""
    w = torch.from_numpy(np.array(restore(stored)))
    support = None
    if stored.positions is not None:
        support = torch.zeros(w.numel(), dtype=torch.bool)
        support[torch.from_numpy(stored.positions.astype(np.int64))] = True
        support = support.view(w.shape)
    return Form(support=support, values=_values(stored)), w


def _values(stored: Stored) -> Values:
    side = stored.side
    if stored.codes is None:
        return Free()
    if stored.table is not None:
        index = torch.from_numpy(stored.codes.astype(np.int64))
        return Shared(index=index, size=len(stored.table), grid=None if side is None else _grid(side))
    assert side is not None
    if stored.form == "signs":
        pattern = np.zeros(int(np.prod(stored.shape)), np.bool_)
        pattern[slice(None) if stored.positions is None else stored.positions] = stored.codes == 1
        return Signs(torch.from_numpy(pattern.reshape(stored.shape)), side.axes, side.trained)
    return _grid(side)


def _grid(side: Side) -> Affine:
    return Affine(torch.from_numpy(np.array(side.scale)), side.bits, side.zero_point, side.trained)
