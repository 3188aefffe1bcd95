"""A budget divided among layers: what each can be, what that costs and loses, and the choice that loses least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import nn

from netpress.candidate import Candidate, Context
from netpress.errors import BudgetError, ModelError
from netpress.measure.cost import cost
from netpress.methods.rank_choice import Option, allocate
from netpress.methods.sensitivity import Row, Trial, scan

STAYS = "the budget is met without it at least loss"
"""Why a layer that could be replaced was not."""

Unit = Literal["macs", "params"]
_WORDS: Mapping[Unit, str] = {"macs": "multiply-adds", "params": "parameters"}


@dataclass(frozen=True, slots=True)
class Limit:
    """What a network may cost.

    Attributes:
        told: the setting as messages name it, `low_rank: max_macs = 60%`.
        unit: what is counted.
        before: how much of it the network costs as it comes in.
    """

    told: str
    unit: Unit
    before: int


def limit_of(told: str, unit: Unit, candidate: Candidate) -> Limit:
    """A limit on a network; see `Limit`."""
    return Limit(told, unit, getattr(cost(candidate.net, candidate.inputs.shape), unit))


@dataclass(frozen=True, slots=True)
class Choices:
    """What one layer can be.

    Attributes:
        operation: of `factor.structure`, what is to take the layer's place.
        options: the layer as it is, without numbers, and others.
        make: builds the network with this layer by such numbers, and everything else as it is.
    """

    operation: str
    options: Sequence[Option]
    make: Callable[[tuple[int, ...]], nn.Module]


def afford(options: Mapping[str, Sequence[Option]], within: Limit, target: float) -> dict[str, Option]:
    """The choice of least damage with which the whole network costs at most the target.

    Args:
        options: by layer, the layer as it is among them; what the network's other layers cost is spent already.
        within: names the setting and what is counted.
        target: multiply-adds or parameters of the network.

    Raises:
        BudgetError: the target cannot be met; says what can be reached.

    >>> whole, half = Option((), 100, 10, 0.0), Option((4,), 50, 9, 0.2)
    >>> afford({"conv": [whole, half]}, Limit("low_rank: max_macs = 290", "macs", 300), 290)["conv"].numbers
    (4,)
    """
    unit = within.unit
    rest = within.before - sum(getattr(o, unit) for found in options.values() for o in found if not o.numbers)
    try:
        return allocate(options, cost=unit, budget=target - rest)
    except BudgetError as error:
        least = rest + sum(min(getattr(o, unit) for o in found) for found in options.values())
        raise BudgetError(
            f"{within.told}: {target:,.6g} {_WORDS[unit]} cannot be met; the nearest that can be reached is "
            f"{least:,.6g} of {within.before:,.6g}"
        ) from error


def scanned(
    candidate: Candidate,
    choices: Mapping[str, Choices],
    context: Context,
    *,
    samples: int,
    settings: Mapping[str, Any],
) -> tuple[dict[str, list[Option]], list[Row]]:
    """The options with the damage that was measured, one layer at a time, and the rows of that scan.

    The damage is what the loss on the sample rises by; options without a finite loss are left out. Rows are remembered
    in the run folder.

    Args:
        candidate, context: as a method gets them.
        choices: by layer.
        samples: images that the loss is measured on.
        settings: whatever else the trials' weights depend on.

    Raises:
        RecipeError: there is no data.
        ModelError: the network's own loss is not finite.
    """
    trials = {
        path: [
            Trial(layer.operation, o.numbers, o.macs, o.params, partial(layer.make, o.numbers))
            for o in layer.options
            if o.numbers
        ]
        for path, layer in choices.items()
    }
    cache = None if context.scratch is None else context.scratch / "sensitivity.jsonl"
    rows = scan(candidate, trials, context, samples=samples, settings=settings, cache=cache)
    options = {path: _measured(layer.options, rows[path]) for path, layer in choices.items()}
    return options, [row for found in rows.values() for row in found]


def _measured(options: Sequence[Option], rows: Sequence[Row]) -> list[Option]:
    """Options whose damage is what the loss on the sample rose by; those without a finite loss are left out."""
    losses = {tuple(row["numbers"]): row["loss"] for row in rows}
    whole = losses[()]
    if whole is None:
        raise ModelError("a scan of the layers: the network's own loss is not finite on its images; expected a number")
    return [
        replace(option, damage=max(0.0, loss - whole))
        for option in options
        if (loss := losses.get(option.numbers)) is not None
    ]
