"""What methods share that count a file's bytes while they choose whole numbers."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from torch import Tensor

from netpress.budget import BYTES, amount
from netpress.candidate import Candidate, Context
from netpress.codec import stored
from netpress.errors import BudgetError
from netpress.forms import Affine, Form, Free, project, symbols
from netpress.methods.file_bytes import overhead, written
from netpress.methods.folding import fold
from netpress.methods.targets import targets

Kept = Literal["affine", "float"]
Norms = Literal["half", "float"]


def chosen(candidate: Candidate, frozen: Sequence[str], biases: Kept) -> list[str]:
    """Weights, and biases if wanted, of all layers that are not frozen.

    >>> from torch import nn
    >>> chosen(Candidate(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))), ["1"], "affine")
    ['0.weight', '0.bias']
    """
    found = []
    parameters = dict(candidate.net.named_parameters())
    for target in targets(candidate.net):
        if any(fnmatch.fnmatchcase(target.path, pattern) for pattern in frozen):
            continue
        bias = target.name.removesuffix("weight") + "bias"
        found += [target.name, *([bias] if biases == "affine" and bias in parameters else [])]
    return found


def closed(candidate: Candidate, context: Context, norms: Norms, method: str) -> Candidate:
    """Without what only training needs: norms become scale and shift in half precision, if wanted."""
    return candidate if norms == "float" else fold(candidate, context, rest="half", method=method).candidate


def on_whole(w: Tensor, step: Tensor, bits: int, before: Tensor | None = None) -> Form:
    """The form of a tensor on a grid: support where it differs from zero, as few bits as its numbers need.

    Args:
        w: zero outside `before`.
        step: of the grid.
        bits: at most.
        before: the support that it had; where it had one it has one still, though it be everywhere.

    >>> import torch
    >>> form = on_whole(torch.tensor([0.0, -1.5, 0.5]), torch.tensor([0.5]), 8)
    >>> form.support.tolist(), form.values.bits
    ([False, True, True], 3)
    """
    support = (w != 0).cpu()
    if not support.any():
        return Form(support, Free())  # nothing is on a grid
    whole = (w / step).round()
    needed = next(b for b in range(2, bits + 1) if -(1 << b - 1) <= whole.min() and whole.max() < 1 << b - 1)
    grid = Affine.symmetric(halved(step).detach().cpu(), needed)
    return Form(None if before is None and bool(support.all()) else support, grid)


def halved(numbers: Tensor) -> Tensor:
    """The nearest numbers of half precision, two bytes of a file each; as they are where those have few digits."""
    near = numbers.half().float()
    return near if bool(((numbers - near).abs() <= 2**-11 * numbers.abs()).all()) else numbers


def packed(form: Form, w: Tensor, codec: stored.Codec = "auto") -> int:
    """Bytes of a tensor in the file, brought onto its form."""
    return len(stored.pack(symbols(form, project(form, w)), codec).data)


def rest(candidate: Candidate, names: Collection[str]) -> int:
    """Bytes of the file beside those of the named tensors: header, graph, checksums, the other tensors."""
    others = {name: t for name, t in written(candidate).items() if name not in names}
    kept = sum(packed(candidate.forms.get(name, Form()), t) for name, t in others.items())
    return overhead(candidate) + kept


def room(candidate: Candidate, max_size: str, floor: int, method: str) -> float:
    """Bytes that a budget leaves beside `floor`.

    Args:
        candidate: the network; a budget in per cent is one of its float32 weights.
        max_size: of the whole file.
        floor: bytes of what cannot be made smaller.
        method: what the error calls it.

    Raises:
        BudgetError: nothing is left; says the floor.
    """
    size = amount(max_size, BYTES, baseline=4 * sum(p.numel() for p in candidate.net.parameters()))
    if size <= floor:
        raise BudgetError(
            f"{method}.max_size: {size:,.0f} bytes is below the floor of {floor:,}: header, graph and the tensors that "
            "stay as they are"
        )
    return size - floor


def bisected(size: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The least price at which `size` is at most `target`, to a hundredth; `high` where none is.

    >>> round(bisected(lambda price: 100 / price, 20.0, 1e-3, 1e3), 1)
    5.0
    """
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if size(middle) <= target else (middle, high)
    return high
