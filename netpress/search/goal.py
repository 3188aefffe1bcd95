"""What a search is for: limits on accuracy and costs as plain numbers, and which of two networks is the better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Costs = Mapping[str, float]
"""By name: `file_bytes params nonzero macs peak_activation_bytes latency_ms`, as far as they are known."""
State = Literal["running", "complete", "halved", "failed"]


@dataclass(frozen=True, slots=True)
class Row:
    """One trial as samplers see it.

    Attributes:
        number: of the trial, from 0, in the order in which trials began.
        policy: what was tried.
        state: `halved`: stopped early, at a rung below the last; its accuracy is that of this rung.
        top1: share of the validation images, after the trial's short retraining; 0 where nothing was measured.
        costs: of the network it made.
        rung: the last one it finished, from 0; -1: none.
    """

    number: int
    policy: Mapping[str, float | int | None]
    state: State
    top1: float = 0.0
    costs: Costs = field(default_factory=dict)
    rung: int = -1

    @property
    def measured(self) -> bool:
        """Whether it has an accuracy."""
        return self.state in ("complete", "halved")


@dataclass(frozen=True, slots=True)
class Goal:
    """Limits, and the cost that counts where they are kept.

    Attributes:
        baseline: costs of the network as it came, `top1` among them.
        limits: by name of a cost, the most that is allowed.
        least: the least top-1 that is allowed, a share; None: there is no limit, accuracy is what is maximised.
        unit: the cost that is minimised where `least` is given and no cost is limited.

    >>> goal = Goal({"top1": 0.9, "macs": 100}, {"macs": 50}, least=0.8)
    >>> goal.load({"macs": 60}), goal.met(0.85, {"macs": 50}), goal.met(0.85, {"macs": 51})
    (1.2, True, False)
    >>> goal.score(0.85, {"macs": 40}) < goal.score(0.99, {"macs": 60})
    True
    """

    baseline: Costs
    limits: Costs
    least: float | None = None
    unit: str = "file_bytes"

    def load(self, costs: Costs) -> float:
        """How full the budget is: the largest cost as a share of its limit; without limits, of the baseline's."""
        if self.limits:
            return max(costs[name] / limit for name, limit in self.limits.items() if name in costs)
        return costs[self.unit] / self.baseline[self.unit]

    def missing(self, top1: float, costs: Costs) -> float:
        """How far from being met: accuracy points that lack, and what costs exceed of their limits, in hundredths."""
        beyond = max(0.0, self.load(costs) - 1) if self.limits else 0.0
        return 100 * (beyond + (max(0.0, self.least - top1) if self.least is not None else 0.0))

    def met(self, top1: float, costs: Costs) -> bool:
        """Whether every limit is kept."""
        return self.missing(top1, costs) <= 1e-9

    def score(self, top1: float, costs: Costs) -> float:
        """One number, lower is better: whatever meets the limits comes before whatever does not.

        Among those that do: the least cost where none is limited, else the highest accuracy.
        """
        lacking = self.missing(top1, costs)
        if lacking > 1e-9:
            return 2 + lacking
        return self.load(costs) if not self.limits else 1 - top1

    def best(self, rows: Sequence[Row]) -> list[Row]:
        """Rows that have an accuracy, the best first; ties go to the lower load, then to the earlier one."""
        found = [row for row in rows if row.measured]
        return sorted(found, key=lambda r: (self.score(r.top1, r.costs), self.load(r.costs), r.number))

    def front(self, rows: Sequence[Row]) -> list[Row]:
        """Rows that no other surpasses in both accuracy and load, the lowest load first."""
        found: list[Row] = []
        for row in sorted((r for r in rows if r.measured), key=lambda r: (self.load(r.costs), -r.top1, r.number)):
            if not found or row.top1 > found[-1].top1:
                found.append(row)
        return found
