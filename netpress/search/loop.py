"""Trials one after another or side by side: ask, run rung by rung, drop what lags behind, until enough were tried."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from netpress.search.executors import Done, Executor, Task
from netpress.search.goal import Costs, Goal, Row
from netpress.search.plan import Plan
from netpress.search.sampler import Question, Sampler
from netpress.search.space import Policy, Space
from netpress.search.study import Study, Tried
from netpress.search.trial import plain_numbers

_POLL_S = 0.5


class Watcher(Protocol):
    """Who is told how the search goes."""

    def began(self, row: Row) -> None:
        """A trial began."""

    def rung(self, number: int, rung: int, top1: float) -> None:
        """A trial finished a rung."""

    def ended(self, row: Row) -> None:
        """A trial ended."""

    def close(self) -> None:
        """No more trials."""


@dataclass(slots=True, eq=False)
class _Running:
    """A trial in flight.

    Attributes:
        tried: as the study gave it.
        before: the rows that its policy was chosen by; its rungs are compared with theirs.
        rungs: what it measured.
        seconds: that it ran.
    """

    tried: Tried
    before: Sequence[Tried]
    rungs: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(eq=False)
class Loop:
    """The trials of a search.

    Attributes:
        study: keeps them.
        sampler: chooses.
        executor: runs.
        space, goal, plan: of the search.
        seed: of the search.
        foresee: costs of a policy from shapes; see `corrected`.
        watcher: is told.
        late: whether no trial may begin any more.
    """

    study: Study
    sampler: Sampler
    executor: Executor
    space: Space
    goal: Goal
    plan: Plan
    seed: int
    foresee: Callable[[Policy], Costs]
    watcher: Watcher
    late: Callable[[], bool] = lambda: False
    _running: dict[int, _Running] = field(default_factory=dict)

    def run(self) -> list[Tried]:
        """Try until the plan's number of trials, the time, or the space is used up.

        Returns:
            All trials of the study, those of earlier calls and of other processes too.
        """
        try:
            while True:
                while self._room():
                    self._begin()
                if self._running:
                    self._hear(self.executor.wait())
                elif self.study.alone():
                    return self.study.tried()
                else:  # another process is at its last trial: both shall go on from the same ones
                    time.sleep(_POLL_S)
        finally:
            self.study.give_up()
            self._running.clear()

    def _room(self) -> bool:
        """Whether another trial may begin: a worker is free, and trials and time are left."""
        if len(self._running) >= self.executor.workers:
            return False
        if self.late():
            return False
        count = len(self.study.counted())
        if count >= min(self.plan.trials, len(self.space)):
            return False
        # what began too long ago is waited for: then each choice depends on the same trials wherever they run
        oldest = min((r.tried.row.number for r in self._running.values()), default=count)
        return oldest >= count - self._lag

    @property
    def _lag(self) -> int:
        """The newest trials that a choice does not look at, whether they have ended or not; none with one worker."""
        return 2 * (self.executor.workers - 1)

    def _begin(self) -> None:
        seen: list[Tried] = []

        def choose(before: Sequence[Tried]) -> Policy:
            number = len(before)
            seen.extend(one for one in before if one.row.number < number - self._lag)
            rows = [one.row for one in seen] + [_unseen(one.row) for one in before[len(seen) :]]
            foresee = corrected(self.foresee, seen)
            return self.sampler.propose(
                Question(self.space, self.goal, rows, number, self.plan.trials, self.seed, foresee)
            )

        tried = self.study.ask(choose, self.foresee)
        if not seen:  # an interrupted trial's policy, tried again
            seen.extend(one for one in self.study.counted() if one.row.number < tried.row.number - self._lag)
        self._running[tried.stored] = _Running(tried, seen)
        self.watcher.began(tried.row)
        self.executor.submit(Task(tried.stored, tried.row.policy))

    def _hear(self, done: Done) -> None:
        running = self._running[done.task.number]
        running.seconds += done.seconds
        if done.error:
            self._end(running, done, replace(running.tried.row, state="failed"))
            return
        running.rungs.append(plain_numbers(done.numbers))
        self.study.note(done.task.number, running.rungs)
        row = replace(running.tried.row, top1=done.numbers["top1"], costs=done.numbers["costs"], rung=done.task.rung)
        self.watcher.rung(row.number, row.rung, row.top1)
        if row.rung + 1 == len(self.plan.rungs):
            self._end(running, done, replace(row, state="complete"))
        elif self._lags(row, running.before):
            self._end(running, done, replace(row, state="halved"))
        else:
            task = done.task
            self.executor.submit(replace(task, rung=task.rung + 1, state=done.state))

    def _end(self, running: _Running, done: Done, row: Row) -> None:
        del self._running[done.task.number]
        self.study.end(
            done.task.number, row.state, seconds=running.seconds, where=done.where, error=" ".join(done.error.split())
        )
        self.watcher.ended(row)

    def _lags(self, row: Row, before: Sequence[Tried]) -> bool:
        """Whether a trial stops here: others were better at this rung, and one of them in both accuracy and load."""
        others = [_at(tried, row.rung) for tried in before if len(tried.rungs) > row.rung]
        if len(others) < 1 / self.plan.promote:
            return False
        mine = self.goal.score(row.top1, row.costs)
        better = sum(self.goal.score(other.top1, other.costs) < mine for other in others)
        if better < math.ceil(self.plan.promote * (len(others) + 1)):
            return False
        return row.number not in [each.number for each in self.goal.front([*others, replace(row, state="halved")])]


def _unseen(row: Row) -> Row:
    """A trial of which only the policy is known yet."""
    return Row(row.number, row.policy, "running")


def _at(tried: Tried, rung: int) -> Row:
    """A trial as it was after a rung."""
    numbers: Mapping[str, Any] = tried.rungs[rung]
    return replace(tried.row, state="halved", top1=numbers["top1"], costs=numbers["costs"], rung=rung)


def corrected(foresee: Callable[[Policy], Costs], tried: Sequence[Tried]) -> Callable[[Policy], Costs]:
    """Foresight times the median of measured over foreseen in the trials so far, cost by cost.

    Counts are foreseen exactly; bytes are estimates, which are off by the same factor mostly.
    """
    factors: dict[str, list[float]] = {}
    for one in tried:
        for name, expected in (one.foreseen or {}).items():
            if one.row.measured and expected > 0 and name in one.row.costs:
                factors.setdefault(name, []).append(one.row.costs[name] / expected)
    middle = {name: sorted(found)[len(found) // 2] for name, found in factors.items()}
    return lambda policy: {name: value * middle.get(name, 1.0) for name, value in foresee(policy).items()}
