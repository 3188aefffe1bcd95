"""Forms: which values one tensor may take, and how they are trained and written.

    project(form, w) = decode(form, encode(form, w))

`encode` gives what is trained (floats, or a table of shared values), `decode` the weight that the network computes
with, `symbols` the integers and side data that a file holds. Shape letters: S entries inside the support, K table
entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netpress.codec.stored import Stored, restore


@dataclass(frozen=True, slots=True)
class Free:
    """Any value at all."""

    name = "free"


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """One of K values of a table that all entries share.

    Attributes:
        index: int64 (S,): for each entry inside the support, in row-major order, its place in the table. Every place
            0..size-1 is used by at least one entry.
        size: K, the length of the table.
    """

    index: Tensor
    size: int
    name = "shared"


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What a tensor may hold: where it may differ from zero, and which values it may take there.

    Attributes:
        support: bool, the tensor's shape; entries outside are exactly +0.0, for ever. None: everywhere.
        values: what the entries inside may be.
    """

    support: Tensor | None = None
    values: Free | Shared = Free()

    @property
    def traits(self) -> frozenset[str]:
        """What a later step must not break: any of "support", "shared".

        >>> sorted(Form(support=torch.tensor([True, False])).traits)
        ['support']
        """
        return frozenset(
            name
            for name, holds in (("support", self.support is not None), (self.values.name, True))
            if holds and name != "free"
        )

    def positions(self) -> Tensor | None:
        """Flat row-major places inside the support, int64 (S,); None where the support is everything."""
        return None if self.support is None else self.support.flatten().nonzero().flatten()


def inside(form: Form, w: Tensor) -> Tensor:
    """The entries of `w` inside the support, flat (S,), in row-major order."""
    return w.flatten() if form.support is None else w[form.support]


def encode(form: Form, w: Tensor) -> Tensor:
    """What is trained for `w` under `form`: the tensor itself, or the table of its shared values.

    The table holds the mean of the members of each place, taken in float64, so that members that are already equal
    come back bit for bit (the partial sums of equal float32 numbers are exact below 2^29 members).

    Args:
        form: of the tensor.
        w: (shape of the tensor), float.

    Returns:
        `w` with zeros outside the support, or a table (K,).
    """
    match form.values:
        case Free():
            return w.clone() if form.support is None else torch.where(form.support, w, torch.zeros_like(w))
        case Shared(index=index, size=size):
            total = torch.bincount(index, inside(form, w).double(), minlength=size)
            return (total / torch.bincount(index, minlength=size)).to(w.dtype) + 0.0  # -0.0 becomes +0.0


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


def decode(form: Form, params: Tensor, shape: torch.Size) -> Tensor:
    """The tensor that the network computes with, from what is trained. Differentiable in `params`."""
    match form.values:
        case Free():
            # `where`, not a product: a product would leave -0.0 and lets NaN through
            return params if form.support is None else torch.where(form.support, params, torch.zeros_like(params))
        case Shared(index=index):
            return gather(params, index, form.positions(), shape)


def project(form: Form, w: Tensor) -> Tensor:
    """The nearest tensor that `form` allows; idempotent to the bit.

    >>> form = Form(support=torch.tensor([True, True, False]), values=Shared(torch.tensor([0, 0]), 1))
    >>> project(form, torch.tensor([1.0, 3.0, 9.0])).tolist()
    [2.0, 2.0, 0.0]
    """
    return decode(form, encode(form, w), w.shape)


def holds(form: Form, w: Tensor) -> bool:
    """Whether `w` already is what `form` allows, to the bit.

    >>> holds(Form(support=torch.tensor([True, False])), torch.tensor([3.0, 0.0]))
    True
    >>> holds(Form(support=torch.tensor([True, False])), torch.tensor([3.0, 1e-9]))
    False
    """
    return np.array_equal(_bits(project(form, w)), _bits(w))


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
    return _retabled(support, _places(form, shape).index_select(axis, keep) if _tabled(form) else None)


def narrow(form: Form, support: Tensor) -> Form:
    """The form on a smaller support; values of the table that no entry uses any more are dropped.

    Args:
        form: of a tensor.
        support: bool, the tensor's shape; no entry that `form` keeps at zero.

    >>> form = Form(values=Shared(torch.tensor([0, 1, 2]), 3))
    >>> narrow(form, torch.tensor([True, False, True])).values.index.tolist()
    [0, 1]
    """
    return _retabled(support, _places(form, support.shape) if _tabled(form) else None)


def _tabled(form: Form) -> bool:
    return isinstance(form.values, Shared)


def _places(form: Form, shape: torch.Size) -> Tensor:
    """For every entry of the tensor its place in the table, -1 outside the support."""
    assert isinstance(form.values, Shared)
    places = torch.full(shape, -1)
    places[torch.ones_like(places, dtype=torch.bool) if form.support is None else form.support] = form.values.index
    return places


def _retabled(support: Tensor | None, places: Tensor | None) -> Form:
    """A form whose table has the places that are used inside the support, numbered anew."""
    if places is None:
        return Form(support)
    used, index = torch.unique(inside(Form(support), places), return_inverse=True)
    return Form(support, Shared(index, len(used)) if len(used) else Free())


def _bits(w: Tensor) -> np.ndarray:
    return w.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def symbols(form: Form, w: Tensor) -> Stored:
    """The tensor as it is written: where it differs from zero, table indices, side data.

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
    plain = inside(form, w).detach().cpu().contiguous().numpy()
    places = form.positions()
    positions = None if places is None else places.cpu().numpy()
    shape, dtype = tuple(w.shape), str(w.dtype).removeprefix("torch.")
    match form.values:
        case Free():
            return Stored(shape, "free", dtype, positions, values=plain)
        case Shared(index=index):
            table = encode(form, w).detach().cpu().numpy()
            return Stored(shape, "shared", dtype, positions, codes=index.cpu().numpy(), table=table)


def from_stored(stored: Stored) -> tuple[Form, Tensor]:
    """The form and the tensor that a file holds: the inverse of `symbols`."""
    w = torch.from_numpy(np.array(restore(stored)))
    support = None
    if stored.positions is not None:
        support = torch.zeros(w.numel(), dtype=torch.bool)
        support[torch.from_numpy(stored.positions.astype(np.int64))] = True
        support = support.view(w.shape)
    if stored.table is None or stored.codes is None:
        return Form(support=support), w
    index = torch.from_numpy(stored.codes.astype(np.int64))
    return Form(support=support, values=Shared(index=index, size=len(stored.table))), w
