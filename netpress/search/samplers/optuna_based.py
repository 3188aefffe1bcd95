"""Optuna's samplers behind the protocol: the study is replayed from the rows for each proposal, and holds nothing else.

A study lives in memory for one proposal. Every earlier trial is asked for with its policy given and told what came
out, so that samplers which keep a state in their trials (generations of NSGA-II, the distribution of CMA-ES) build it
up again; the new trial is then drawn with a seed made of (seed, number).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from netpress.search.goal import Goal, Row
from netpress.search.sampler import Question
from netpress.search.samplers.repair import load, repaired
from netpress.search.space import Policy, Space

if TYPE_CHECKING:
    import optuna

Kind = Literal["tpe", "cmaes", "nsga2"]
SEEDS = 2**32


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's log and warnings off, and then as they were."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


@dataclass(frozen=True, slots=True)
class OptunaBased:
    """One of Optuna's samplers.

    TPE and NSGA-II see two objectives, accuracy and load, and what each trial lacked of the limits as constraints;
    CMA-ES sees `Goal.score` alone. A dimension is the place of its value in `Dimension.values`, an integer, so that
    the order is known. Proposals beyond the limits are lowered until they meet them.

    Attributes:
        name: of the sampler, and which of Optuna's it is.
        startup: trials that TPE draws at random before it learns.
        population: of a generation of NSGA-II and CMA-ES; None: NSGA-II's is a quarter of all trials, from 5 to
            50, CMA-ES's its own.
    """

    name: Kind
    startup: int = 8
    population: int | None = None

    def propose(self, question: Question) -> Policy:
        """What Optuna asks for after the replay, repaired."""
        with quiet():
            study = self._study(question)
            ranges = _ranges(question.space)
            for row in question.rows:
                _replay(study, ranges, row, question)
            trial = study.ask(ranges)
            places = [trial.params[d.name] / max(1, len(d.values) - 1) for d in question.space]
        return repaired(question, np.array(places, np.float64))

    def _study(self, question: Question) -> optuna.Study:
        import optuna

        directions: list[Literal["minimize", "maximize"]] = (
            ["minimize"] if self.name == "cmaes" else ["maximize", "minimize"]
        )
        return optuna.create_study(sampler=self._sampler(question), directions=directions)

    def _sampler(self, question: Question) -> optuna.samplers.BaseSampler:
        import optuna

        # a sampler that is asked with the policy given need not draw, so that each trial has to have a seed of its own
        seed = int(np.random.default_rng([question.seed, question.number]).integers(SEEDS))
        if self.name == "tpe":
            return optuna.samplers.TPESampler(n_startup_trials=self.startup, multivariate=True, seed=seed)
        if self.name == "nsga2":
            size = self.population or min(50, max(5, question.trials // 4))
            return optuna.samplers.NSGAIISampler(population_size=size, seed=seed)
        return optuna.samplers.CmaEsSampler(popsize=self.population, warn_independent_sampling=False, seed=seed)


def _ranges(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    """By dimension, the places of its values."""
    from optuna.distributions import IntDistribution

    return {d.name: IntDistribution(0, len(d.values) - 1) for d in space}


def _replay(
    study: optuna.Study, ranges: dict[str, optuna.distributions.BaseDistribution], row: Row, question: Question
) -> None:
    """Ask for a trial that was, and tell what came out; one that runs still is asked for only."""
    from optuna.trial import TrialState

    study.enqueue_trial({d.name: d.values.index(row.policy[d.name]) for d in question.space})
    trial = study.ask(ranges)
    if row.state == "failed":
        study.tell(trial, state=TrialState.FAIL)
    elif row.measured:
        goal = question.goal
        if len(study.directions) == 1:
            study.tell(trial, goal.score(row.top1, row.costs))
            return
        for name, amount in _lacking(goal, row).items():
            trial.set_constraint(name, amount)
        study.tell(trial, [row.top1, load(goal, row.costs)])


def _lacking(goal: Goal, row: Row) -> dict[str, float]:
    """By kind of limit, how far a trial was beyond it; at most 0 where it was kept."""
    found = {"load": load(goal, row.costs) - 1} if goal.limits else {}
    return found | ({"top1": goal.least - row.top1} if goal.least is not None else {})
