"""What a search would be: the costs that can be reached, a first guess, and how long it takes; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from netpress.candidate import Candidate, Context
from netpress.data import Data
from netpress.data.batches import normalise
from netpress.inspect import table
from netpress.job import beginning
from netpress.measure.cost import cost
from netpress.measure.metrics import FLOAT_BYTES
from netpress.methods.file_bytes import file_bytes
from netpress.methods.searching import estimate
from netpress.opening import Options
from netpress.recipe import DataSpec, Recipe
from netpress.search import folder as folders
from netpress.search.clock import OVERHEAD_S
from netpress.search.drawing import Drawn, draw_space
from netpress.search.goal import Costs, Goal
from netpress.search.job import Asked, Searching
from netpress.search.plan import Plan, planned
from netpress.search.reach import check_reach, filled, limits_of, mildest
from netpress.train import fit
from netpress.train.evaluate import evaluate
from netpress.train.settings import Training

UPDATES = 12
"""Updates whose time says how long training takes."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a search would be.

    Attributes:
        network, data: what they are called.
        methods: that take part.
        dimensions, policies: how much there is to decide.
        baseline: costs of the network as it comes.
        limits: the most that is allowed, by cost.
        reachable: costs of the strongest policy.
        guess: costs of the mildest policy of equal amounts that keeps the limits; empty where none does.
        policy: that policy.
        baseline_minutes: of training the baseline; 0 where the network has weights.
        trial_minutes: of one trial through all rungs.
        final_minutes: of retraining in full.
        trials: that would be run: the plan's number, or what fits into the minutes.
    """

    network: str
    data: str
    methods: tuple[str, ...]
    dimensions: int
    policies: int
    baseline: Costs
    limits: Costs
    reachable: Costs
    guess: Costs
    policy: Mapping[str, float | int | None]
    baseline_minutes: float
    trial_minutes: float
    final_minutes: float
    trials: int

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        rows = [
            [
                name,
                f"{value:,.6g}",
                f"{self.limits[name]:,.6g}" if name in self.limits else "",
                f"{self.guess[name]:,.6g}" if name in self.guess else "",
                f"{self.reachable[name]:,.6g}" if name in self.reachable else "",
            ]
            for name, value in self.baseline.items()
        ]
        minutes = self.baseline_minutes + self.trials * self.trial_minutes + self.final_minutes
        head = table(rows, ["cost", "baseline", "limit", "equal amounts", "at least"])
        return (
            f"{self.network} on {self.data}: {', '.join(self.methods)}; {self.dimensions} amounts to decide, "
            f"{self.policies:.3g} policies\n{head}\n"
            f"about {minutes:.0f} minutes here: baseline {self.baseline_minutes:.1f}, {self.trials} trials of "
            f"{self.trial_minutes:.2f} at most, {self.final_minutes:.1f} in full"
        )


def dry_run(asked: Asked, *, how: Searching, options: Options) -> Forecast:
    """Predict costs and minutes of a search; nothing is written, a few updates are trained to take their time.

    Raises:
        BudgetError: the budget is out of reach; says the nearest.
        RecipeError, ModelError, DataError: as the search itself.
    """
    plan = planned(asked.data_name, asked.budget, how.plan, precision=options.precision)
    recipe = Recipe(network=asked.network, data=DataSpec(name=asked.data_name), baseline=plan.baseline)
    start, data = beginning(recipe, net=asked.module, data=asked.data, options=options)
    context = Context(example=normalise(data.train.images[:1], data.mean, data.std), seed=options.seed)
    size = file_bytes(start)
    before = estimate(start, size - folders.size_of(start))
    drawn = draw_space(plan.methods or (), start, context, before, settings=plan.settings, groups=plan.groups)
    baseline = costs_of(start, size)
    goal = Goal(baseline, limits_of(asked.budget, baseline))
    foresee = filled(drawn.foresee, baseline)
    check_reach(goal, asked.budget, drawn.space, foresee)
    policy = mildest(drawn.space, goal, foresee) if goal.limits else None
    given = asked.network is None or asked.network.weights is not None
    return Forecast(
        network=start.arch.name,
        data=data.name,
        methods=tuple(drawn.searched),
        dimensions=len(drawn.space.dimensions),
        policies=len(drawn.space),
        baseline=baseline,
        limits=goal.limits,
        reachable=foresee(drawn.space.strongest()),
        guess={} if policy is None else foresee(policy),
        policy=policy or {},
        **_minutes(start, data, drawn, plan, how, given=given),
    )


def _minutes(start: Candidate, data: Data, drawn: Drawn, plan: Plan, how: Searching, *, given: bool) -> dict[str, Any]:
    """How long baseline, one trial, and full retraining take, from a few updates of the baseline."""
    each = minutes_per_image(start, data, plan.train)
    few = data.train.select(slice(0, UPDATES * plan.train.batch))
    began = time.perf_counter()
    evaluate(start.net, few, start.inputs)
    looked = (time.perf_counter() - began) / len(few) / 60 * min(plan.judged, len(data.validation))
    images = len(data.train)
    trial = sum(plan.rungs) * min(plan.sample, images) * each + len(plan.rungs) * looked
    epochs = plan.train.epochs * max(1, len(drawn.searched) - 1) + plan.values_epochs * (len(drawn.searched) > 1)
    full = epochs * images * each + OVERHEAD_S / 60
    room = plan.trials if how.minutes is None else max(1, int((how.minutes - full) / trial))
    return {
        "baseline_minutes": 0.0 if given else plan.baseline.epochs * images * each,
        "trial_minutes": trial,
        "final_minutes": full,
        "trials": min(plan.trials, room),
    }


def minutes_per_image(start: Candidate, data: Data, train: Training) -> float:
    """How long one image takes in one epoch of a training here, from a few updates; the candidate is left untouched."""
    few = data.train.select(slice(0, UPDATES * train.batch))
    context = Context(normalise(few.images[:1], data.mean, data.std), few, few, scratch=None)
    plain = train.model_copy(update={"epochs": 1, "patience": 0})
    teacher = start.net if train.taught else None
    fit(start, plain, replace(context, train=few.select(slice(0, train.batch))), teacher=teacher)  # warm up
    began = time.perf_counter()
    fit(start, plain, context, teacher=teacher)
    return (time.perf_counter() - began) / len(few) / 60


def costs_of(candidate: Candidate, size: int) -> dict[str, float]:
    """What a network costs, with the bytes of its file."""
    counted = cost(candidate.net, candidate.inputs.shape)
    return {
        "file_bytes": size,
        "macs": counted.macs,
        "params": counted.params,
        "nonzero": counted.nonzero or 0,
        "peak_activation_bytes": FLOAT_BYTES * counted.peak_activation_floats,
    }
