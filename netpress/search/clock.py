"""The minutes of a search: when trials must end so that the winner can be retrained in full, and for how long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from netpress.search.plan import Plan
from netpress.search.study import Tried

SHARE_OF_FINAL = 0.5
"""Of the minutes, at most, that one full retraining may take."""
OVERHEAD_S = 45.0
"""What a full run takes besides its training: graph, checks, timing, report."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time spent and left.

    Attributes:
        minutes: for trials and full retraining; None: no limit.
        plan: of the search.
        images: of the data set's training split.
        began: `time.monotonic()` at the start.
    """

    minutes: float | None
    plan: Plan
    images: int
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def late(self, tried: Sequence[Tried]) -> bool:
        """Whether another trial would take time from full retraining."""
        measured = [one.seconds for one in tried if one.row.measured]
        if self.minutes is None or not measured:
            return False
        needed = max(measured) + self.full(tried, self.affordable(tried))
        return self.seconds + needed > 60 * self.minutes

    def over(self, tried: Sequence[Tried], plan: Plan) -> bool:
        """Whether there is no time for a further full retraining."""
        return self.minutes is not None and self.seconds + self.full(tried, plan) > 60 * self.minutes

    def affordable(self, tried: Sequence[Tried]) -> Plan:
        """The plan, with as many epochs of full retraining as fit into its share of the minutes; at least one."""
        if self.minutes is None:
            return self.plan
        room = SHARE_OF_FINAL * 60 * self.minutes - OVERHEAD_S
        wanted = self.full(tried, self.plan) - OVERHEAD_S
        share = min(1.0, max(0.0, room) / wanted) if wanted > 0 else 1.0
        train = self.plan.train.model_copy(update={"epochs": max(1, int(self.plan.train.epochs * share))})
        values = min(self.plan.values_epochs, max(1, round(self.plan.values_epochs * share)))
        return self.plan.model_copy(update={"train": train, "values_epochs": values})

    def full(self, tried: Sequence[Tried], plan: Plan) -> float:
        """Seconds that retraining in full takes, as one step that takes away and one that gives values a form."""
        each = [
            rung["train_seconds"] / (self.plan.rungs[i] * min(self.plan.sample, self.images))
            for one in tried
            for i, rung in enumerate(one.rungs)
        ]
        steps = len(plan.methods or ())
        epochs = plan.train.epochs * max(1, steps - 1) + plan.values_epochs * (steps > 1)
        return (median(each) * self.images * epochs if each else 0.0) + OVERHEAD_S
