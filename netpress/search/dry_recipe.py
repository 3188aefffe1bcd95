"""What a recipe would come to: every method applied without its training, and how long the trainings take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from netpress.candidate import Context
from netpress.data.batches import normalise
from netpress.inspect import table
from netpress.job import beginning
from netpress.methods.file_bytes import file_bytes
from netpress.opening import Options
from netpress.recipe import Recipe
from netpress.search.dry import costs_of, minutes_per_image
from netpress.search.goal import Costs


@dataclass(frozen=True, slots=True)
class Stage:
    """The baseline or a step: what the network costs then, and how long its training takes."""

    name: str
    costs: Costs
    minutes: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a recipe would come to.

    Attributes:
        stages: the baseline and every step.
        trained: whether the network has weights; if not, bytes are those of untrained weights, a rough guess.
    """

    stages: tuple[Stage, ...]
    trained: bool

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        names = list(self.stages[0].costs)
        rows = [[s.name, *(int(s.costs[n]) for n in names), f"{s.minutes:.1f}"] for s in self.stages]
        note = "" if self.trained else "; bytes are of untrained weights, a rough guess"
        total = sum(stage.minutes for stage in self.stages)
        return f"{table(rows, ['step', *names, 'minutes'])}\nabout {total:.0f} minutes of training here{note}"


def dry_recipe(recipe: Recipe, *, options: Options) -> Outlook:
    """Predict sizes, multiply-adds and minutes of a recipe; nothing is written, a few updates are trained.

    Methods are applied to the weights as they are, so what a training would change (which weights matter, how far a
    steered size is reached) is not in it.

    Args:
        recipe: with network and data.
        options: of the run.

    Raises:
        RecipeError, ModelError, DataError, BudgetError: as the run itself.
    """
    start, data = beginning(recipe, options=options)
    first = normalise(data.train.images[:1], data.mean, data.std)
    context = Context(example=first, train=data.train, validation=data.validation, seed=options.seed)
    trained = recipe.network is not None and recipe.network.weights is not None
    epochs = 0 if trained else recipe.baseline.epochs
    images = len(data.train)
    each = minutes_per_image(start, data, recipe.baseline)
    stages = [Stage("baseline", costs_of(start, file_bytes(start)), epochs * images * each)]
    candidate = start
    for step in recipe.steps():
        candidate = step.method.apply(candidate, replace(context, step=step.number))
        each = minutes_per_image(candidate, data, step.train) if step.train.epochs else 0.0
        stages.append(Stage(step.name, costs_of(candidate, file_bytes(candidate)), step.train.epochs * images * each))
    return Outlook(tuple(stages), trained)
