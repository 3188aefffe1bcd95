"""What filter pruning tells a report, as plain data: every group of channels, what became of it, how its scores lie."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netpress.graph import Coupling, Group
from netpress.methods.filter_choice import Flags
from netpress.methods.filter_scores import Scores

BINS = 24


def facts(coupling: Coupling, kept: Flags, scores: Scores, *, frozen: Collection[str]) -> dict[str, Any]:
    """Every group of channels that layers make, in the network's order.

    Args:
        coupling: of the network before pruning.
        kept: by group name, True where a member stays; groups without an entry were not to be pruned.
        scores: of the groups in `kept`.
        frozen: names of groups that the settings keep whole.

    Returns:
        `filters`: rows with `name`, `makers` (paths of the layers that make the channels, tied to each other), `before`
        and `after` (filters of the first of them), `at_once` (filters that only go together), `pinned` (why none can
        go), `frozen`, and for groups that were scored `scores`, a histogram of them.
    """
    rows = []
    for group in coupling.groups:
        chosen = kept.get(group.name)
        if not group.makers and chosen is None:
            continue  # the network's input, for one: no layer makes it
        each = _width(group)
        row: dict[str, Any] = {
            "name": group.name,
            "makers": list(group.makers),
            "before": each * len(group),
            "after": each * (len(group) if chosen is None else int(chosen.sum())),
            "at_once": each,
            "pinned": group.pinned,
            "frozen": group.name in frozen,
        }
        if chosen is not None:
            row["scores"] = _scores(group, chosen, scores)
        rows.append(row)
    return {"filters": rows}


def _width(group: Group) -> int:
    """Filters of its first layer that each member owns: several in convolutions with groups."""
    made = (slot.positions.shape[1] for slot in group.slots if slot.role == "filter")
    return next(made, 1)


def _scores(group: Group, chosen: NDArray[np.bool_], scores: Scores) -> dict[str, Any]:
    """The histogram, of the scores themselves if those that went are below those that stay, else of the ranks.

    The two differ where layers of different scale are tied: the order is by the mean of the relative scores.
    """
    raw, rank = scores.raw[group.name], scores.rank[group.name]
    relative = not _apart(raw, chosen) and _apart(rank, chosen)
    return {"relative": relative, **histogram(rank if relative else raw, chosen)}


def _apart(found: NDArray[np.float64], chosen: NDArray[np.bool_]) -> bool:
    whole = chosen.all() or not chosen.any()  # none stays where nothing reads them
    return bool(whole or found[~chosen].max() <= found[chosen].min())


def histogram(found: NDArray[np.float64], chosen: NDArray[np.bool_], most: int = BINS) -> dict[str, Any]:
    """Scores in equal bins, those that stay and those that go apart; the cut lies between two bins.

    Args:
        found: (members,), scores.
        chosen: (members,), True where a member stays; one does at least.
        most: bins, and one more where there is a cut; smaller groups have fewer.

    Returns:
        `low` and `high`, the ends; `stay` and `go`, members per bin; `cut`, halfway between the largest score that
        went and the smallest that stays, None where none went or the two overlap. Scores that are not finite are left
        out.

    >>> histogram(np.array([1.0, 2.0, 4.0, 5.0]), np.array([False, False, True, True]), most=4)
    {'low': 1.0, 'high': 6.0, 'stay': [0, 0, 0, 1, 1], 'go': [1, 1, 0, 0, 0], 'cut': 3.0}
    """
    finite = np.isfinite(found)
    stay, go = found[finite & chosen], found[finite & ~chosen]
    seen = found[finite]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 0.0)
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest or largest == 0:  # equal but for roundings: no bins fit between them
        low, high = low - (largest / 2 or 0.5), high + (largest / 2 or 0.5)
    bins, cut = min(most, max(len(seen), 6)), None
    if len(go) and len(stay) and go.max() <= stay.min():
        cut = float(go.max() + stay.min()) / 2
        width = (high - low) / bins
        low = cut - width * math.ceil((cut - low) / width)
        bins += 1
        high = low + width * bins
    # ends that were computed may miss the outermost score by a rounding
    counted = {
        name: np.histogram(part.clip(low, high), bins, (low, high))[0].tolist()
        for name, part in (("stay", stay), ("go", go))
    }
    digits = 4 - math.floor(math.log10((high - low) / bins))
    ends = {"low": round(low, digits), "high": round(high, digits)}
    return {**ends, **counted, "cut": None if cut is None else round(cut, digits)}
