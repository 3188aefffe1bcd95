"""What a policy will cost, asked once each, and the shift of a point that makes it meet the limits.

Costs that nobody can foresee (a measured latency) are left out of the foreseen load: a policy is judged by the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from netpress.search.goal import Costs, Goal, Row
from netpress.search.sampler import Question
from netpress.search.space import Policy

Point = NDArray[np.float64]
Key = tuple[object, ...]

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


@dataclass(frozen=True, slots=True, eq=False)
class Foresight:
    """`Question.foresee` that remembers, within one proposal.

    Attributes:
        question: whose space, goal and costs.
        known: loads by policy.
    """

    question: Question
    known: dict[Key, float] = field(default_factory=dict)

    def load(self, policy: Policy) -> float:
        """The foreseen load of a policy."""
        place = key(self.question, policy)
        if place not in self.known:
            self.known[place] = load(self.question.goal, self.question.foresee(policy))
        return self.known[place]

    def load_at(self, point: Point) -> float:
        """The foreseen load of the policy nearest to a point."""
        return self.load(self.question.space.policy(point))

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
    return question.space.policy(Foresight(question).repaired(point))
