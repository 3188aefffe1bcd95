"""Grouped convolutions in the place of dense ones: which blocks of the kernel stay.

Shape letters: O outputs, I inputs, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from netpress.factor.structure import Rebuilt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def grouped(weight: Tensor, groups: int) -> Rebuilt:
    """Keep the diagonal blocks: outputs of group g see inputs of group g, channels as they lie.

    Args:
        weight: (O, I, kh, kw).
        groups: G, divides O and I.

    Returns:
        Weights "" (O, I/G, kh, kw): the layer itself becomes grouped.

    >>> grouped(torch.arange(4.0).reshape(2, 2, 1, 1), 2).weights[""].flatten()
    tensor([0., 3.], dtype=torch.float64)
    """
    rows, columns = torch.arange(weight.shape[0]), torch.arange(weight.shape[1])
    return Rebuilt("grouped", (groups,), {"": _blocks(weight.detach().double(), groups, rows, columns)})


def shuffled(weight: Tensor, groups: int, *, starts: int = 8, seed: int = 0) -> Rebuilt:
    """Put the channels in the order in which the diagonal blocks hold most of the kernel's energy, and keep those.

        max over balanced groups r, c of sum over o, i with r(o) = c(i) of ||W[o, i]||^2

    With the inputs' groups fixed, the best outputs' groups are an assignment problem, solved exactly, and the other
    way round: they are solved in turn until nothing is gained, from the order as it is, from the order of the leading
    singular vectors, and from random orders. What comes out never holds less than the channels as they lie.

    Args:
        weight: (O, I, kh, kw).
        groups: G, divides O and I.
        starts: random orders.
        seed: of these.

    Returns:
        Weights `grouped` (O, I/G, kh, kw) and the positions `before` (I,), `after` (O,): the grouped layer sees input
        before[j] as its j-th, and gives output o as its after[o]-th.

    Source: the slides of SEP-Net cut trained kernels into groups as they lie; the search for an order is ours.

    >>> w = torch.tensor([[0.0, 3.0], [2.0, 0.0]]).reshape(2, 2, 1, 1)
    >>> shuffled(w, 2).weights["grouped"].flatten().sort().values
    tensor([2., 3.], dtype=torch.float64)
    """
    w = weight.detach().double()
    energy = w.square().flatten(2).sum(2).cpu().numpy()
    outputs, inputs = energy.shape
    rng = np.random.default_rng(seed)
    orders = [np.arange(inputs), _spectral(energy)]
    orders += [rng.permutation(inputs) for _ in range(starts)]
    best: tuple[float, Integers, Integers] | None = None
    for order in orders:
        column = np.empty(inputs, dtype=np.int64)
        column[order] = np.arange(inputs) * groups // inputs
        found = _alternate(energy, column, groups)
        if best is None or found[0] > best[0] * (1 + 1e-12):
            best = found
    assert best is not None
    rows, columns = (torch.from_numpy(np.argsort(part, kind="stable")) for part in best[1:])
    diagonal = kept_energy(weight, groups)
    if kept_energy(weight, groups, rows, columns) <= diagonal:
        rows, columns = torch.arange(outputs), torch.arange(inputs)
    blocks = _blocks(w, groups, rows, columns)
    device = weight.device
    places = {"before": columns.to(device), "after": rows.argsort().to(device)}
    return Rebuilt("shuffled", (groups,), {**places, "grouped": blocks})


def kept_energy(
    weight: Tensor,
    groups: int,
    rows: Sequence[int] | Tensor | None = None,
    columns: Sequence[int] | Tensor | None = None,
) -> float:
    """Share of the squared weights that lies in the diagonal blocks, channels in a given order; 1 where all are zero.

    Args:
        weight: (O, I, kh, kw).
        groups: G, divides O and I.
        rows, columns: order of the outputs, of the inputs; None: as they lie.

    >>> kept_energy(torch.ones(4, 4, 3, 3), 2)
    0.5
    """
    w = weight.detach().double()
    order = [
        torch.arange(n) if o is None else torch.as_tensor(o) for n, o in zip(w.shape, (rows, columns), strict=False)
    ]
    whole = float(w.square().sum())
    return float(_blocks(w, groups, *order).square().sum()) / whole if whole else 1.0


def _blocks(w: Tensor, groups: int, rows: Tensor, columns: Tensor) -> Tensor:
    pairs = zip(rows.to(w.device).chunk(groups), columns.to(w.device).chunk(groups), strict=True)
    return torch.cat([w[r][:, c] for r, c in pairs])


def _alternate(energy: Floats, column: Integers, groups: int) -> tuple[float, Integers, Integers]:
    """Solve for the outputs' groups and the inputs' in turn: what is held, and the groups."""
    held = -1.0
    while True:
        row = _assign(energy @ np.eye(groups)[column])
        column = _assign(energy.T @ np.eye(groups)[row])
        now = float((energy * (row[:, None] == column[None, :])).sum())
        if now <= held * (1 + 1e-12):
            return now, row, column
        held = now


def _spectral(energy: Floats) -> Integers:
    """The inputs along the leading singular vector of what rows and columns alone do not explain."""
    left = energy - energy.mean(0) - energy.mean(1, keepdims=True) + energy.mean()
    return np.argsort(np.linalg.svd(left, full_matrices=False)[2][0], kind="stable")


def _assign(gain: Floats) -> Integers:
    """Equal groups of the rows of `gain` (n, G) with the greatest sum of gains: each row's group."""
    n, groups = gain.shape
    chosen, places = linear_sum_assignment(np.repeat(gain, n // groups, axis=1), maximize=True)
    group = np.empty(n, dtype=np.int64)
    group[chosen] = places // (n // groups)
    return group
