"""The paper's predictor extended to whole networks and made to explore.

Two ensembles are trained on the trials so far for each proposal. The *inverse* one is the paper's (`paper_mlp`):
from (accuracy, load) to amounts; it suggests policies for accuracies and loads that are wanted. The *forward* one goes
from amounts to accuracy and judges them; costs need no model, they are foreseen. Every other trial explores: it is the
best in the eyes of one member, drawn anew (Thompson); where members disagree, some member finds it worth a try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netpress.search.goal import Row
from netpress.search.sampler import Question
from netpress.search.samplers.perceptrons import FREE, RISING, Ensemble, fit
from netpress.search.samplers.repair import Foresight, Point, load, measured
from netpress.search.samplers.uniform import van_der_corput
from netpress.search.samplers.volume import gains
from netpress.search.space import Policy

Points = NDArray[np.float64]
BELOW = 0.1
"""Where an accuracy is asked for, area counts from so much below it: full retraining gains on short retraining."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """Proposes by an inverse ensemble and mutations, judges by a forward ensemble.

    Trials take turns: one is the best for `Goal.score` by the mean of the members, the next what adds most, by one
    member, to the area that the front of accuracy and load dominates. The last fifth are all for the score.

    Attributes:
        name: of the sampler.
        startup: trials of the design that fills the space; None: a fifth of all, at least 5.
        members: of each ensemble.
        candidates: that are judged for a proposal, before the best are varied once more.
        floor: accuracy, as a share of the baseline's, from which on dominated area counts.
    """

    name: str = "mlp"
    startup: int | None = None
    members: int = 8
    candidates: int = 96
    floor: float = 0.0

    def propose(self, question: Question) -> Policy:
        """A policy of the design, then the best candidate."""
        rows = measured(question)
        startup = self.startup if self.startup is not None else max(5, question.trials // 5)
        foresight = Foresight.taught(question)
        if question.number < startup or len(rows) < 2:
            return question.space.policy(designed(foresight))
        judge = self._judge(foresight, rows)
        draws = np.random.default_rng([question.seed, question.number, 1])
        points = judge.news(self._candidates(foresight, rows, draws))
        for _ in range(2):
            best = points[np.argsort(judge(points), kind="stable")[:6]]
            near = [_fitted(foresight, _mutated(p, draws), draws) for p in best for _ in range(12)]
            points = judge.news(np.vstack([best, *near]))
        return question.space.policy(points[np.argmin(judge(points))])

    def _judge(self, foresight: Foresight, rows: Sequence[Row]) -> Judge:
        """The forward ensemble, with the untouched network as a row that costs nothing."""
        question = foresight.question
        baseline = question.goal.baseline.get("top1", max(row.top1 for row in rows))
        points = [question.space.point(row.policy) for row in rows] + [np.ones(len(question.space.dimensions))]
        shares = np.array([row.top1 for row in rows] + [baseline])[:, None] / max(baseline, 1e-9)
        seed = [question.seed, question.number, 2]
        forward = fit(RISING, removed(np.array(points)), shares, members=self.members, seed=seed, steps=500)
        if question.number >= question.trials * 4 // 5 or question.number % 2 == 0:
            return Judge(foresight, forward, baseline, member=None, floor=None)
        member = int(np.random.default_rng(seed).integers(self.members))
        wanted = 0.0 if question.goal.least is None else question.goal.least - BELOW
        return Judge(foresight, forward, baseline, member, max(self.floor * baseline, wanted))

    def _candidates(self, foresight: Foresight, rows: Sequence[Row], draws: np.random.Generator) -> Points:
        """A third each: of the inverse ensemble, mutations of the best and of the front, and drawn at random."""
        question, each = foresight.question, self.candidates // 3
        goal, size = question.goal, len(question.space.dimensions)
        parents = [question.space.point(row.policy) for row in [*goal.best(rows)[:5], *goal.front(rows)]]
        found = [*self._inverse(foresight, rows, each, draws)]
        found += [_mutated(parents[int(draws.integers(len(parents)))], draws) for _ in range(each)]
        found += [draws.random() + draws.normal(0, 0.3, size) for _ in range(each)]
        return np.array([_fitted(foresight, np.clip(point, 0, 1), draws) for point in found])

    def _inverse(self, foresight: Foresight, rows: Sequence[Row], count: int, draws: np.random.Generator) -> Points:
        """Amounts for accuracies a little above what trials had at such loads: from the front on, upwards."""
        question = foresight.question
        goal = question.goal
        known = np.array([[row.top1, load(goal, row.costs)] for row in rows])
        centre, spread = known.mean(0), known.std(0) + 1e-6
        points = np.array([question.space.point(row.policy) for row in rows])
        inverse = fit(
            FREE, (known - centre) / spread, points - 0.5, members=4, seed=[question.seed, question.number, 3]
        )
        front = np.array([[row.top1, load(goal, row.costs)] for row in goal.front(rows)])
        wanted = front[draws.integers(len(front), size=count)]
        wanted = wanted + np.abs(draws.normal(0, 0.3, wanted.shape)) * spread * [1, -1]
        answers: Points = inverse((wanted - centre) / spread) + 0.5
        return answers[draws.integers(4, size=count), np.arange(count)]


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """What candidates are worth, lower is better.

    Attributes:
        foresight: of their costs.
        forward: of their accuracies, as shares of the baseline's.
        baseline: that accuracy.
        member: who judges; None: the mean of all.
        floor: None: by `Goal.score`; else by the dominated area that they add above this accuracy.
    """

    foresight: Foresight
    forward: Ensemble
    baseline: float
    member: int | None
    floor: float | None

    def __call__(self, points: Points) -> NDArray[np.float64]:
        """Of each point."""
        question = self.foresight.question
        answers = self.forward(removed(self.foresight.snapped(points)))[:, :, 0]
        top1 = self.baseline * (answers.mean(0) if self.member is None else answers[self.member])
        loads = np.array([self.foresight.load_at(p) for p in points])
        scores = np.array([self._score(a, b) for a, b in zip(top1.tolist(), loads.tolist(), strict=True)])
        if self.floor is None:
            return scores
        rows = measured(question)
        front = [(load(question.goal, row.costs), row.top1) for row in rows]
        added = gains(front, list(zip(loads.tolist(), top1.tolist(), strict=True)), self.floor)
        return np.where(added > 0, -added, 1e3 + scores)

    def _score(self, top1: float, at: float) -> float:
        """`Goal.score` as it follows from the load alone."""
        goal = self.foresight.question.goal
        lacking = max(0.0, at - 1) if goal.limits else 0.0
        lacking += max(0.0, goal.least - top1) if goal.least is not None else 0.0
        if lacking > 0:
            return 2 + 100 * lacking
        return 1 - top1 if goal.limits else at

    def news(self, points: Points) -> Points:
        """Those whose policies differ from each other and from all trials so far; all where none does."""
        space = self.foresight.question.space
        seen = {space.point(row.policy).tobytes() for row in self.foresight.question.rows}
        kept = []
        for place in self.foresight.snapped(points):
            if place.tobytes() not in seen:
                seen.add(place.tobytes())
                kept.append(place)
        return np.array(kept) if kept else points


def removed(points: Points) -> Points:
    """Inputs of the forward ensemble: what is taken away, and its squares, since the first bit costs least."""
    gone = 1 - points
    return np.hstack([gone, gone**2])


def designed(foresight: Foresight) -> Point:
    """The design's point of a trial: every other one uniform, loads from a sequence that fills the range.

    With limits the first one fills them by one amount for everything.
    """
    question = foresight.question
    draws = np.random.default_rng([question.seed, question.number])
    size = len(question.space.dimensions)
    highest = min(1.0, foresight.load(question.space.whole()))
    if question.goal.limits:
        shares = (1.0, 1.0, 0.6, 1.0, 0.8, 1.0, 0.4)
        share = shares[question.number % len(shares)]
    else:
        share = van_der_corput(question.number + 1)
    uniform = question.number in (0, 2)
    point = np.full(size, 0.5) if uniform else draws.random(size)
    lowest = foresight.load(question.space.strongest())
    return foresight.shifted(point, lowest + share * max(0.0, highest - lowest))


def _mutated(point: Point, draws: np.random.Generator) -> Point:
    """One to three coordinates moved, mostly a little."""
    count = min(len(point), int(draws.integers(1, 4)))
    moved = point.copy()
    moved[draws.choice(len(point), count, replace=False)] += draws.normal(0, 0.3, count)
    return np.clip(moved, 0.0, 1.0)


def _fitted(foresight: Foresight, point: Point, draws: np.random.Generator) -> Point:
    """With limits, half of all points are moved until they fill them, the rest are lowered where they exceed them."""
    if foresight.question.goal.limits and draws.random() < 0.5:
        return foresight.shifted(point, 1.0)
    return foresight.repaired(point)
