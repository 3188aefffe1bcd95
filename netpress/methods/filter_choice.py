"""Which channels go: an order of removal, and where to stop.

Channels go in bundles, so that what stays is a multiple of `round_to`; a bundle that would leave an axis of some tensor
without channels is left out. Then every amount, share, count, threshold or budget, is a place in one list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netpress.graph import Coupling, Group
from netpress.methods.filter_scores import Scores

TOLERANCE = 0.02
"""How near a budget is met."""

Flags = Mapping[str, NDArray[np.bool_]]
"""By group name, True where a member stays; groups that are not named stay whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """Members of one group that go together.

    Attributes:
        group: its name.
        members: their places in the group.
        gone: members of the group that have gone when this bundle has.
        total: members of the group.
        rank: mean of the members' ranks.
        most: largest of the members' raw scores.
    """

    group: str
    members: NDArray[np.int64]
    gone: int
    total: int
    rank: float
    most: float

    @property
    def share(self) -> float:
        """Of the group that has gone when half of this bundle has, 0 to 1."""
        return (self.gone - len(self.members) / 2) / self.total


def bundles(group: Group, scores: Scores, *, round_to: int = 1, floor: float = 0.0) -> list[Bundle]:
    """Cut a group into bundles, the least important first; ties go to the lower place.

    Args:
        group: of a coupling.
        scores: of its members.
        round_to: what stays of the layer's filters is a multiple of it; a layer of fewer filters stays whole.
        floor: share of the members that always stays.
    """
    step = _step(group, round_to)
    if len(group) < step:
        return []
    raw, rank = scores.raw[group.name], scores.rank[group.name]
    order = np.argsort(rank, kind="stable")
    first = len(group) % step or step
    found = []
    for start in (0, *range(first, len(group), step)):
        members = order[start : first if start == 0 else start + step]
        if start + len(members) > len(group) * (1 - floor) + 1e-9:
            break
        gone = start + len(members)
        found.append(
            Bundle(group.name, members, gone, len(group), float(rank[members].mean()), float(raw[members].max()))
        )
    return found


def width(group: Group) -> int:
    """Filters of the first of its layers that each member owns."""
    made = [slot.positions.shape[1] for slot in group.slots if slot.role == "filter"]
    return made[0] if made else 1


def _step(group: Group, round_to: int) -> int:
    """Members that go together, so that every layer keeps a multiple of `round_to` filters.

    A member may own several filters of a layer: one in each group of a convolution.
    """
    widths = {slot.positions.shape[1] for slot in group.slots if slot.role == "filter"}
    return math.lcm(*(round_to // math.gcd(round_to, width) for width in widths or {1}))


def in_order(coupling: Coupling, found: Iterable[Bundle], key: Callable[[Bundle], float]) -> list[Bundle]:
    """Sort bundles by a key, without those that would leave an axis of a tensor without channels.

    A group's own order is kept: where one of its bundles must stay, so do the more important ones.
    """
    table = coupling.table
    left = np.array([len(classes) for classes in table.classes], np.int64)
    stopped: set[str] = set()
    going = []
    for bundle in sorted(found, key=lambda b: (key(b), b.share)):
        if bundle.group in stopped:
            continue
        group = coupling.by_name[bundle.group]
        first = np.searchsorted(table.pair_class, group.classes[0])
        last = np.searchsorted(table.pair_class, group.classes[0], side="right")
        rows, counts = table.pair_row[first:last], table.pair_count[first:last] * len(bundle.members)
        if (left[rows] <= counts).any():
            stopped.add(bundle.group)
            continue
        left[rows] -= counts
        going.append(bundle)
    return going


def flags(going: Iterable[Bundle], groups: Iterable[Group]) -> Flags:
    """What stays of each of some groups when these bundles go."""
    kept = {group.name: np.ones(len(group), np.bool_) for group in groups}
    for bundle in going:
        kept[bundle.group][bundle.members] = False
    return kept


def meet(going: Sequence[Bundle], left: Callable[[Sequence[Bundle]], float], target: float) -> Sequence[Bundle]:
    """Which bundles must go for what is left to come near a target, the first in order as far as they fit.

    The crossing is found by halving; where one bundle is too large a step, later and smaller ones go in its place.

    Args:
        going: in order.
        left: what is left when some have gone; falls with every one.
        target: of that, not to be exceeded where it can be helped.

    Returns:
        A selection within `TOLERANCE` below the target, else within it above, else the nearest that was seen.
    """

    def off(chosen: Sequence[Bundle]) -> float:
        beyond = left(chosen) - target
        return -beyond if beyond <= 0 else beyond + TOLERANCE * target

    low, high = 0, len(going)
    while high - low > 1:  # left(low) > target; high may be too
        middle = (low + high) // 2
        low, high = (middle, high) if left(going[:middle]) > target else (low, middle)
    best = min((going[:low], going[:high]), key=off)
    chosen, too_large = list(going[:low]), {bundle.group for bundle in going[low:high]}
    for bundle in going[high:]:
        if off(best) <= TOLERANCE * target:
            break
        if bundle.group in too_large:
            continue
        if left([*chosen, bundle]) < target * (1 - TOLERANCE):
            too_large.add(bundle.group)
        else:
            chosen.append(bundle)
        best = min((best, list(chosen)), key=off)
    return best
