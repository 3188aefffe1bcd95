"""The best policies retrained in full from the original, one after another, until one is inside the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from netpress.job import Run
from netpress.search.goal import Goal, Row

MARGIN = 0.97
"""Of a limited size that a trial's file should keep to: retraining in full changes bytes a little."""
MOVED = ("file_bytes", "nonzero", "latency_ms")
COPIED = ("file_bytes", "macs", "params", "nonzero", "latency_ms", "peak_activation_bytes", "top1")


@dataclass(frozen=True, slots=True, eq=False)
class Final:
    """One policy after full retraining.

    Attributes:
        row: the trial.
        folder: of its run.
        run: the run; None where it failed.
        error: why.
    """

    row: Row
    folder: str
    run: Run | None
    error: str = ""

    @property
    def met(self) -> bool:
        """Whether the budget is met, by the run's own verdict."""
        return self.run is not None and self.run.met

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        if self.run is None:
            return {"trial": self.row.number, "folder": self.folder, "met": False, "error": self.error}
        final: Mapping[str, Any] = self.run.metrics["final"]
        return {
            "trial": self.row.number,
            "folder": self.folder,
            "met": self.run.met,
            "validation_top1": final["validation"]["top1"],
            **{name: final[name] for name in COPIED if final.get(name) is not None},
            "budget": self.run.metrics["budget"],
            "seconds": sum(stage["seconds"] for stage in self.run.metrics["steps"]),
        }


def next_row(rows: Sequence[Row], finals: Sequence[Final], goal: Goal) -> Row | None:
    """The trial to retrain in full next; None: no more is needed, or there is none.

    What full retraining gained on short retraining so far is expected of the others too. Where costs are limited, the
    first that is inside the budget ends it; where only accuracy is, smaller ones are tried that should keep it.

    Args:
        rows: of the search.
        finals: retrained in full so far.
        goal: of the search.
    """
    met = [final for final in finals if final.met]
    if met and goal.limits:
        return None
    runs = [(final.row, final.run.metrics["final"]["validation"]["top1"]) for final in finals if final.run is not None]
    gain = median([top1 - row.top1 for row, top1 in runs]) if runs else 0.0
    done = {final.row.number for final in finals}
    lightest = min((goal.load(final.row.costs) for final in met), default=math.inf)
    left = [row for row in rows if row.measured and row.number not in done and goal.load(row.costs) < lightest]
    complete = [row for row in left if row.state == "complete"] or left
    hoped = [replace(row, top1=min(1.0, row.top1 + gain)) for row in complete]
    best = next(iter(_with_room(goal).best(hoped)), None)
    if best is None or (met and not goal.met(best.top1, best.costs)):
        return None
    return best


def _with_room(goal: Goal) -> Goal:
    """The goal with some room below limits that full retraining may move a result across."""
    limits = {name: limit * (MARGIN if name in MOVED else 1.0) for name, limit in goal.limits.items()}
    return replace(goal, limits=limits)


def best_of(finals: Sequence[Final], goal: Goal) -> int | None:
    """Which final is the best: inside the budget if any is, else the nearest."""
    scored = []
    for place, final in enumerate(finals):
        if final.run is None:
            continue
        numbers = final.run.metrics["final"]
        scored.append((not final.met, goal.score(numbers["validation"]["top1"], numbers), place))
    return min(scored)[2] if scored else None
