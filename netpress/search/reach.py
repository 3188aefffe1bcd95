"""Whether a budget can be met, before anything is tried: what the strongest policy would cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from netpress.budget import COSTS, Budget, amount
from netpress.errors import BudgetError, RecipeError
from netpress.search.goal import Costs, Goal
from netpress.search.space import Policy, Space

SURE = 0.8
"""A size is only called out of reach where it is below this share of what is estimated for the strongest policy."""

STEPS = 100


def goal_of(budget: Budget, baseline: Mapping[str, Any]) -> Goal:
    """A budget as plain numbers.

    Args:
        budget: at least one limit.
        baseline: metrics of the baseline's run, with `latency_ms` where it could be timed.

    Raises:
        RecipeError: a cost is limited that could not be measured of the baseline.
        BudgetError: the accuracy asked for is above the baseline's.
    """
    top1 = baseline["validation"]["top1"]
    for name in budget.limits.keys() & COSTS.keys():
        if baseline.get(COSTS[name][1]) is None:
            why = baseline.get("note", "it has no graph")
            raise RecipeError(f"budget.{name}: the baseline's could not be measured: {why}")
    least = [] if budget.max_drop is None else [top1 - budget.max_drop / 100]
    if budget.min_top1 is not None:
        if budget.min_top1 / 100 > top1:
            raise BudgetError(
                f"budget.min_top1 = {budget.min_top1:g}: the baseline itself has {100 * top1:.2f} % on validation; "
                "what is smaller promises no more: train a better baseline, or ask for less"
            )
        least.append(budget.min_top1 / 100)
    kept = {measure: baseline[measure] for _, measure in COSTS.values() if baseline.get(measure) is not None}
    costs = {**kept, "params": baseline["params"], "top1": top1}
    return Goal(costs, limits_of(budget, baseline), least=max(least, default=None))


def limits_of(budget: Budget, baseline: Mapping[str, Any]) -> Costs:
    """Limits on costs as plain numbers, by cost; those whose baseline is not known are left out.

    >>> limits_of(Budget(max_macs="60%", max_size="20kB"), {"macs": 200, "file_bytes": 90_000})
    {'file_bytes': 20000.0, 'macs': 120.0}
    """
    found = {
        measure: amount(getattr(budget, name), units, baseline=baseline[measure])
        for name, (units, measure) in COSTS.items()
        if getattr(budget, name) is not None and baseline.get(measure) is not None
    }
    return dict(sorted(found.items()))


def mildest(space: Space, goal: Goal, foresee: Callable[[Policy], Costs]) -> Policy | None:
    """The mildest policy of equal amounts that is foreseen to keep the limits; None where none does."""
    steps = range(STEPS, -1, -1)
    found = (space.policy([i / STEPS] * len(space.dimensions)) for i in steps)
    return next((policy for policy in found if goal.load(foresee(policy)) <= 1), None)


def check_reach(goal: Goal, budget: Budget, space: Space, foresee: Callable[[Policy], Costs]) -> None:
    """Refuse a budget below what the strongest policy would cost.

    Raises:
        BudgetError: says the nearest that can be reached.
    """
    least = foresee(space.strongest())
    for name, (_, measure) in COSTS.items():
        limit, reached = goal.limits.get(measure), least.get(measure)
        if limit is None or reached is None:
            continue
        sure = SURE if measure in ("file_bytes", "latency_ms", "peak_activation_bytes") else 1.0
        if limit < sure * reached:
            share = 100 * reached / goal.baseline[measure]
            raise BudgetError(
                f"budget.{name} = {getattr(budget, name)}: out of reach: what is searched over can bring it to about "
                f"{reached:,.6g} ({share:.3g} % of the baseline's {goal.baseline[measure]:,.6g}), not to {limit:,.6g}; "
                "allow more, or let other methods take part"
            )


def filled(foresee: Callable[[Policy], Costs], baseline: Costs) -> Callable[[Policy], Costs]:
    """Foresight of milliseconds and of activations too: guesses that follow the multiply-adds.

    They only guide what is tried: every trial measures both, and the guesses are corrected by what was measured.
    """

    def all_costs(policy: Policy) -> Costs:
        costs = dict(foresee(policy))
        share = costs["macs"] / baseline["macs"]
        for name, power in (("latency_ms", 0.8), ("peak_activation_bytes", 0.5)):
            if name in baseline:
                costs[name] = baseline[name] * share**power
        return costs

    return all_costs
