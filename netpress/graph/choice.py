"""Which members of each group stay: a share of them, by score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from netpress.graph.labels import BoolArray
from netpress.graph.solve import Coupling


def choose(coupling: Coupling, scores: Mapping[str, ArrayLike], *, keep: float) -> dict[str, BoolArray]:
    """Keep the members of highest score, a share of every scored group, and one channel of every axis at least.

    What rounding takes from one group is given back by the next of the same kind, so that many small groups keep the
    share together. Ties go to the lower position.

    Args:
        coupling: of a network.
        scores: per group name one number per member; groups that are not named stay whole.
        keep: share of the members that stays, above 0, at most 1.

    Returns:
        Per group name, True where a member stays.

    >>> import torch; from torch import nn; from netpress.graph.coupling import couple
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> choose(couple(net, torch.zeros(1, 1, 8, 8)), {"0": [3, 1, 2, 4]}, keep=0.5)["0"].tolist()
    [True, False, False, True]
    """
    left = np.array([len(c) for c in coupling.table.classes], np.int64)  # channels that each axis still has
    kept: dict[str, BoolArray] = {}
    owed = 0.0
    for name, given in scores.items():
        group = coupling.by_name[name]
        values = np.asarray(given, np.float64)
        first = np.searchsorted(coupling.table.pair_class, group.classes[0])
        last = np.searchsorted(coupling.table.pair_class, group.classes[0], side="right")
        rows, counts = coupling.table.pair_row[first:last], coupling.table.pair_count[first:last]
        going = len(group) * (1 - keep) + owed
        room = int(((left[rows] - 1) // counts).min())
        number = max(0, min(round(going - 1e-9), len(group), room))
        owed = min(max(going - number, -0.5), 0.5) if len(group) > 1 else min(going - number, 0.999)
        flags = np.ones(len(group), np.bool_)
        flags[np.argsort(values, kind="stable")[:number]] = False
        left[rows] -= number * counts
        kept[name] = flags
    return kept


def random_scores(coupling: Coupling, seed: int) -> dict[str, Sequence[float]]:
    """One random number per member of every group that can be pruned."""
    rng = np.random.default_rng(seed)
    return {group.name: rng.random(len(group)).tolist() for group in coupling.free}
