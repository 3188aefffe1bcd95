"""Searches whose accuracies are formulas: what samplers are compared on without a network."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from netpress.search.goal import Goal, Row
from netpress.search.sampler import Question, Sampler
from netpress.search.samplers.volume import volume as area
from netpress.search.space import Dimension, Policy, Space

BASELINE = 0.98


@dataclass(frozen=True)
class Toy:
    """Layers of unequal sensitivity and cost; the accuracy is a formula of the kept shares.

    `kind`: `squares`: 1 - sum w (1 - x)^2; `cliffs`: a product of sigmoids; `pairs`: also products of neighbours.
    """

    kind: str
    dims: int
    seed: int
    noise: float = 0.003
    levels: int = 9

    @functools.cached_property
    def space(self) -> Space:
        values = tuple(np.linspace(0.1, 1.0, self.levels).round(4).tolist())
        return Space(tuple(Dimension(f"m:l{i}", values, "m", (f"l{i}",)) for i in range(self.dims)))

    @functools.cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Sensitivities and costs of the layers."""
        draws = np.random.default_rng([self.seed, self.dims])
        weights = np.exp(draws.normal(0, 1.2, self.dims))
        return weights / weights.sum(), draws.dirichlet(np.ones(self.dims))

    def foresee(self, policy: Policy) -> dict[str, float]:
        x = np.array(list(policy.values()), float)
        _, costs = self.parts
        before = np.concatenate([[1.0], x[:-1]])  # channels that come in
        return {
            "params": float(1e5 * costs @ x),
            "macs": float(1e6 * costs @ (x * before)),
            "file_bytes": 4e5 * costs @ x,
        }

    def top1(self, policy: Policy, draw: int) -> float:
        x = np.array(list(policy.values()), float)
        weights, _ = self.parts
        removed = 1 - x
        if self.kind == "squares":
            kept = 1 - weights @ removed**2
        elif self.kind == "cliffs":
            middle = 0.1 + 0.6 * weights / weights.max()  # below this share a layer breaks
            kept = float(np.prod(1 / (1 + np.exp(-(x - middle) / 0.06)) / (1 / (1 + np.exp(-(1 - middle) / 0.06)))))
        else:
            kept = float(np.exp(-3 * (weights @ removed**2) - 2 * (weights[1:] * removed[1:] * removed[:-1]).sum()))
        noise = np.random.default_rng([self.seed, draw]).normal(0, self.noise)
        return float(np.clip(0.1 + (BASELINE - 0.1) * kept + noise, 0, 1))

    def goal(self, limit: float | None = 0.4, least: float | None = None) -> Goal:
        whole = self.foresee(self.space.whole())
        return Goal({**whole, "top1": BASELINE}, {} if limit is None else {"macs": limit * whole["macs"]}, least)


def question(toy: Toy, goal: Goal, rows: list[Row], trials: int = 25, seed: int = 0) -> Question:
    return Question(toy.space, goal, tuple(rows), len(rows), trials, seed, toy.foresee)


def run(sampler: Sampler, toy: Toy, goal: Goal, trials: int = 25, seed: int = 0) -> list[Row]:
    """One trial after the other."""
    rows: list[Row] = []
    for number in range(trials):
        policy = sampler.propose(question(toy, goal, rows, trials, seed))
        costs = toy.foresee(policy)
        rows.append(Row(number, policy, "complete", toy.top1(policy, number), costs, 0))
    return rows


def volume(goal: Goal, rows: list[Row], floor: float = 0.0) -> float:
    """Area of (load, top1) that rows dominate, within load 1 and above the floor."""
    return area([(goal.load(row.costs), row.top1) for row in rows if row.measured], floor)


def value(toy: Toy, goal: Goal, rows: list[Row]) -> float:
    """What the best row is worth, its accuracy without the noise of its trial where that is all; lower is better."""
    best = goal.best(rows)[0]
    clean = Toy(toy.kind, toy.dims, toy.seed, 0.0, toy.levels).top1(best.policy, 0)
    return goal.score(best.top1 if goal.least is not None else clean, best.costs)
