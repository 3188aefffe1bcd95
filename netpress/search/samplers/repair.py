"""What a policy will cost, asked once each, and the shift of a point that makes it meet the limits.

A cost that nobody foresees (a latency is measured) is guessed from the multiply-adds. Where earlier trials show that
costs come out higher or lower than foreseen, what is foreseen is corrected by a factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from netpress.search.goal import Costs, Goal, Row
from netpress.search.sampler import Question
from netpress.search.space import Policy

Point = NDArray[np.float64]
Key = tuple[object, ...]

POWER = 0.8  # of the multiply-adds, that a latency follows: small networks are less efficient
STEPS = 8  # bisections of a shift: finer than a notch wherever a dimension has at most 256 values


def key(question: Question, policy: Policy) -> Key:
    """The policy as something that can be looked up."""
    return tuple(policy[dimension.name] for dimension in question.space)


def load(goal: Goal, costs: Costs) -> float:
    """`Goal.load` over the costs that are known; 0 where none of those that count is."""
    if not goal.limits:
        return goal.load(costs) if goal.unit in costs else 0.0
    return max((costs[name] / limit for name, limit in goal.limits.items() if name in costs), default=0.0)


def measured(question: Question) -> list[Row]:
    """Rows that have an accuracy.

    A halved row's accuracy is that of a lower rung and is taken as it is: rows hold no accuracies of lower rungs from
    which a gain between rungs could be told, and what was stopped was worse than the rest, so the order is kept.
    """
    return [row for row in question.rows if row.measured]


def guessed(goal: Goal, costs: Costs) -> dict[str, float]:
    """Costs that count: as foreseen, else c = baseline (macs / baseline macs)^0.8; left out where that is unknown."""
    found = {}
    for name in goal.limits or (goal.unit,):
        if name in costs:
            found[name] = costs[name]
        elif name in goal.baseline and costs.get("macs") and goal.baseline.get("macs"):
            found[name] = goal.baseline[name] * (costs["macs"] / goal.baseline["macs"]) ** POWER
    return found


def corrections(question: Question) -> dict[str, float]:
    """By name of a cost that counts, what it came to as a share of what was foreseen: the upper quartile over trials.

    The upper one, since a network that is a little too large is worth nothing, one a little too small nearly all.
    """
    shares: dict[str, list[float]] = {}
    for row in measured(question):
        for name, cost in guessed(question.goal, question.foresee(row.policy)).items():
            if name in row.costs and cost > 0:
                shares.setdefault(name, []).append(row.costs[name] / cost)
    return {name: float(np.quantile(found, 0.75)) for name, found in shares.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Foresight:
    """Loads of policies before they are tried; remembers, within one proposal, what it was asked.

    Attributes:
        question: whose space, goal and costs.
        factors: that costs are corrected by; see `corrections`. Without them no row matters.
        known: loads by the places of a policy's values.
    """

    question: Question
    factors: Mapping[str, float] = field(default_factory=dict)
    known: dict[bytes, float] = field(default_factory=dict)

    @classmethod
    def taught(cls, question: Question) -> Foresight:
        """Corrected by the trials so far."""
        return cls(question, corrections(question))

    @classmethod
    def anchored(cls, question: Question) -> Foresight:
        """Corrected so that the whole network costs what the baseline does.

        Loads are then the same for every trial of a search, also where `foresee` itself learns from trials.
        """
        goal = question.goal
        whole = guessed(goal, question.foresee(question.space.whole()))
        factors = {
            name: goal.baseline[name] / cost for name, cost in whole.items() if cost > 0 and name in goal.baseline
        }
        return cls(question, factors)

    def snapped(self, points: Point) -> Point:
        """Points (..., D) moved to the policies nearest to them, as `Space.policy` has it."""
        tops = np.array([len(dimension.values) - 1 for dimension in self.question.space], np.float64)
        snapped: Point = np.rint(np.clip(points, 0.0, 1.0) * tops) / np.maximum(tops, 1)
        return snapped

    def load(self, policy: Policy) -> float:
        """The foreseen load of a policy."""
        return self.load_at(self.question.space.point(policy))

    def load_at(self, point: Point) -> float:
        """The foreseen load of the policy nearest to a point."""
        place = self.snapped(point).tobytes()
        if place not in self.known:
            goal = self.question.goal
            costs = guessed(goal, self.question.foresee(self.question.space.policy(point)))
            self.known[place] = load(goal, {name: cost * self.factors.get(name, 1.0) for name, cost in costs.items()})
        return self.known[place]

    def shifted(self, point: Point, most: float) -> Point:
        """The point moved up or down by one amount in all coordinates until its load is as near below `most` as can be.

        p(t) = clip(p + t, 0, 1), the largest t in (-1, 1) with load(p(t)) <= most, found by bisection: costs grow with
        every coordinate.

        Returns:
            The strongest point where even that one exceeds `most`.
        """
        low, high = -1.0, 1.0
        if self.load_at(np.clip(point + high, 0, 1)) <= most:
            return np.ones_like(point)
        for _ in range(STEPS):
            middle = (low + high) / 2
            if self.load_at(np.clip(point + middle, 0, 1)) <= most:
                low = middle
            else:
                high = middle
        return np.clip(point + low, 0.0, 1.0)

    def repaired(self, point: Point) -> Point:
        """The point itself where it meets the limits or there are none, else lowered until it does."""
        point = np.clip(point, 0.0, 1.0)
        if not self.question.goal.limits or self.load_at(point) <= 1:
            return point
        return self.shifted(point, 1.0)


def repaired(question: Question, point: Point) -> dict[str, float | int | None]:
    """The policy nearest to a point, after `Foresight.repaired`."""
    return question.space.policy(Foresight.taught(question).repaired(point))
