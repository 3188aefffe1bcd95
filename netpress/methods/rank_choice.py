"""Which ranks: one option per layer, so that the layers together stay within a budget and lose least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from netpress.errors import BudgetError

MOST = 20_000
"""Partial choices that are followed at the same time; so many are only met where hundreds of layers look alike."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to have a layer.

    Attributes:
        numbers: of its structure, see `factor.structure`; empty for the layer as it is.
        macs: multiply-adds, one image.
        params: weights and biases.
        damage: what is lost, 0 or more, in any unit that adds up over layers; 0 for the layer as it is.
    """

    numbers: tuple[int, ...]
    macs: int
    params: int
    damage: float


def energy_damage(lost: float) -> float:
    """The damage of losing a share of a layer's energy: -log(1 - lost), whose sum is least where most is kept.

        sum_l -log(1 - lost_l) = -log prod_l (1 - lost_l)

    Args:
        lost: share of the squared weights, or outputs, 0 to 1.

    Source: Zhang et al. 2016, who maximise the product of the energies kept.

    >>> round(energy_damage(0.25) + energy_damage(0.1) - energy_damage(1 - 0.75 * 0.9), 12)
    0.0
    """
    return -math.log(max(1 - lost, 1e-9))


def allocate(
    options: Mapping[str, Sequence[Option]], *, cost: Literal["macs", "params"], budget: float
) -> dict[str, Option]:
    """The choice of least total damage whose cost is within a budget; of equal ones that of least cost.

        min sum_l d(l, k_l)    subject to    sum_l c(l, k_l) <= budget

    The multiple-choice knapsack. A choice along the lower convex hulls, by damage per cost saved, is near it; the
    price of its last step bounds from below what any other choice costs, and the few partial choices within that bound
    are followed layer by layer, without those that another beats in both cost and damage (Nemhauser and Ullmann 1969;
    the bound: Pisinger 1995). The answer is exact unless more than `MOST` remain at once.

    Args:
        options: by layer, in the order that ties are decided by; one of a layer's options is the layer as it is.
        cost: what is counted.
        budget: how much of it the layers may cost together.

    Returns:
        By layer the option chosen.

    Raises:
        ValueError: a layer has no option, or one with a damage below 0 or not finite.
        BudgetError: not even the cheapest options fit; says what they cost.

    >>> whole, half = Option((), 100, 100, 0.0), Option((4,), 50, 50, 0.2)
    >>> found = allocate({"a": [whole, half], "b": [whole, Option((3,), 40, 40, 0.1)]}, cost="macs", budget=150)
    >>> {path: option.numbers for path, option in found.items()}
    {'a': (), 'b': (3,)}
    """
    for path, found in options.items():
        if not found or not all(np.isfinite(o.damage) and o.damage >= 0 for o in found):
            raise ValueError(f"{path}: expected options of a finite damage of 0 or more, got {list(found)}")
    fronts = {path: _front(found, cost) for path, found in options.items()}
    spent = [np.array([getattr(o, cost) for o in front], np.float64) for front in fronts.values()]
    damage = [np.array([o.damage for o in front]) for front in fronts.values()]
    if (least := sum(c[0] for c in spent)) > budget:
        word = "multiply-adds" if cost == "macs" else "parameters"
        whole = sum(next((getattr(o, cost) for o in found if not o.numbers), 0) for found in options.values())
        raise BudgetError(
            f"{budget:,.6g} {word} cannot be met; the nearest that can be reached is {least:,.6g} of {whole:,.6g}"
        )
    near, price = _greedy(spent, damage, budget)
    better = _exact(spent, damage, budget, (near, price))
    chosen = min((near, better), key=lambda places: sum(d[k] for d, k in zip(damage, places, strict=True)))
    return {path: front[k] for (path, front), k in zip(fronts.items(), chosen, strict=True)}


def _front(found: Sequence[Option], cost: str) -> list[Option]:
    """Options that no other beats in cost and in damage, from the cheapest to the least damaging."""
    front: list[Option] = []
    for option in sorted(found, key=lambda o: (getattr(o, cost), o.damage)):
        if not front or option.damage < front[-1].damage:
            front.append(option)
    return front


def _hull(spent: Numbers, damage: Numbers) -> list[int]:
    """Places of the corners of the lower convex hull of a front."""
    corners: list[int] = []
    for k in range(len(spent)):
        while len(corners) >= 2 and _slope(spent, damage, corners[-2], corners[-1]) <= _slope(
            spent, damage, corners[-1], k
        ):
            corners.pop()
        corners.append(k)
    return corners


def _slope(spent: Numbers, damage: Numbers, low: int, high: int) -> float:
    """Damage per cost saved between two places of a front; from cheap to dear it falls along the hull."""
    return float((damage[low] - damage[high]) / (spent[high] - spent[low]))


def _greedy(spent: Sequence[Numbers], damage: Sequence[Numbers], budget: float) -> tuple[list[int], float]:
    """Steps along the hulls, the least damage per cost saved first, until the budget is met; the last step's price."""
    steps = []
    for layer, (c, d) in enumerate(zip(spent, damage, strict=True)):
        corners = _hull(c, d)
        steps += [(_slope(c, d, low, high), layer, low) for low, high in pairwise(corners)]
    chosen, price = [len(c) - 1 for c in spent], 0.0
    total = sum(c[-1] for c in spent)
    for slope, layer, low in sorted(steps, key=lambda s: (s[0], s[1], -s[2])):
        if total <= budget:
            break
        total -= spent[layer][chosen[layer]] - spent[layer][low]
        chosen[layer], price = low, slope
    return chosen, price


def _exact(
    spent: Sequence[Numbers], damage: Sequence[Numbers], budget: float, start: tuple[Sequence[int], float]
) -> list[int]:
    """The best choice; `start` is a good one and the price that gives the bound."""
    near, price = start
    priced = [d + price * c for c, d in zip(spent, damage, strict=True)]
    bound = sum(d[k] for d, k in zip(damage, near, strict=True)) + price * budget
    slack = bound - sum(p.min() for p in priced) + 1e-9 * (1 + abs(bound))
    rest = np.cumsum([0.0, *(c[0] for c in reversed(spent))])[::-1]  # what the layers from here on cost at least
    costs, lost, excess = np.zeros(1), np.zeros(1), np.zeros(1)
    way: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for layer, (c, d, p) in enumerate(zip(spent, damage, priced, strict=True)):
        all_costs, all_lost = np.add.outer(costs, c).ravel(), np.add.outer(lost, d).ravel()
        all_excess = np.add.outer(excess, p - p.min()).ravel()
        alive = np.flatnonzero((all_costs + rest[layer + 1] <= budget) & (all_excess <= slack))
        kept = alive[_undominated(all_costs[alive], all_lost[alive])]
        if len(kept) > MOST:
            kept = kept[np.linspace(0, len(kept) - 1, MOST).round().astype(np.intp)]
        costs, lost, excess = all_costs[kept], all_lost[kept], all_excess[kept]
        way.append((kept // len(c), kept % len(c)))
    place = int(np.lexsort((costs, lost))[0]) if len(lost) else -1
    chosen: list[int] = []
    for parents, picks in reversed(way if place >= 0 else []):
        chosen.append(int(picks[place]))
        place = int(parents[place])
    return chosen[::-1] or list(near)


def _undominated(costs: Numbers, lost: Numbers) -> NDArray[np.intp]:
    """Places that no other beats in cost and damage, by rising cost."""
    order = np.lexsort((lost, costs))
    best = np.minimum.accumulate(lost[order])
    return order[np.flatnonzero(np.r_[True, best[1:] < best[:-1]][: len(order)])]
