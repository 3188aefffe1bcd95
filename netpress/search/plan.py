"""How a search goes about it: what is decided, how trials are trained and judged, how the winner is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from netpress.budget import Budget
from netpress.errors import RecipeError
from netpress.recipe import Recipe, StepSpec, mistakes, with_value
from netpress.train.settings import Training

VALUED = frozenset({"shared", "affine", "signs"})
"""What methods give that need little retraining: forms of values, not structure."""
AUGMENTED: Mapping[str, Mapping[str, Any]] = {
    "cifar10": {"shift": 4, "flip": True},
    "cifar100": {"shift": 4, "flip": True},
    "tiny_imagenet": {"shift": 8, "flip": True},
}
"""Data sets whose images may be moved and mirrored, as everybody trains them."""


class Plan(BaseModel):
    """The settings of a search; all but `seed` and the budget, which are the command's.

    Attributes:
        methods: in the order in which they are applied; None: those that the limits call for.
        settings: by method, fields that are the same in every trial.
        sampler: who chooses what to try next.
        trials: at most.
        groups: dimensions per method at most; neighbouring layers of one kind share one.
        sample: training images of a trial.
        judged: validation images that a trial is judged on.
        rungs: epochs over the sample before a trial is judged, again and again; each rung goes on from the one before.
        promote: share of the trials that go on from a rung to the next.
        finalists: policies that may be retrained in full until one is inside the budget; 0: trials only.
        train: of each step of the winner; a trial is trained in the same way, but for its epochs and images.
        values_epochs: epochs of a step that only gives values a form.
        baseline: of a network that comes without weights.

    >>> Plan(trials=10).rungs
    (1, 2)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    methods: tuple[str, ...] | None = None
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sampler: str = "mlp"
    trials: Annotated[int, Field(ge=1, le=100_000)] = 40
    groups: Annotated[int, Field(ge=1, le=1000)] = 8
    sample: Annotated[int, Field(ge=1)] = 10_000
    judged: Annotated[int, Field(ge=1)] = 5_000
    rungs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2)
    promote: Annotated[float, Field(gt=0, le=1)] = 0.5
    finalists: Annotated[int, Field(ge=0)] = 3
    train: Training = Training(epochs=10, lr=1e-3, distill=0.5)
    values_epochs: Annotated[int, Field(ge=0)] = 3
    baseline: Training = Training(epochs=20, lr=1e-3, weight_decay=0.01)

    @field_validator("settings")
    @classmethod
    def _named(cls, value: dict[str, dict[str, Any]], info: Any) -> dict[str, dict[str, Any]]:
        names = info.data.get("methods")
        if names is not None and (unknown := sorted(set(value) - set(names))):
            raise ValueError(f"settings for {unknown[0]!r}, which is not among the methods")
        return value

    def evaluation(self) -> dict[str, Any]:
        """What a trial's numbers depend on; trials of two studies may be compared where this is equal."""
        names = ("methods", "settings", "groups", "sample", "judged", "rungs", "train")
        return self.model_dump(mode="json", include=set(names))


def planned(data: str, budget: Budget, overrides: Mapping[str, Any], *, precision: str | None = None) -> Plan:
    """The plan for a data set and a budget.

    Args:
        data: name of the data set: images of known ones are moved and mirrored.
        budget: what limits call for decides the methods, where nothing else is said.
        overrides: dotted key -> value.
        precision: of all trainings, where one is given.

    Raises:
        RecipeError: all mistakes at once, each with the path of its key.

    >>> planned("cifar10", Budget(max_macs="50%"), {"trials": 5}).methods
    ('filter_prune',)
    """
    plain = Plan(methods=usual_methods(budget)).model_dump(mode="json", exclude={"train", "baseline"})
    both = {**AUGMENTED.get(data, {}), **({"precision": precision} if precision else {})}
    plain["train"] = {**Plan().train.model_dump(), **both}
    plain["baseline"] = {**Plan().baseline.model_dump(), **both}
    for key, value in overrides.items():
        plain = with_value(plain, key, value)
    try:
        return Plan.model_validate(plain)
    except ValidationError as error:
        raise RecipeError("; ".join(mistakes(error, "", known=Plan.model_fields))) from error


def usual_methods(budget: Budget) -> tuple[str, ...]:
    """Whole filters where work is limited; weights and their values too where bytes count, or nothing is limited.

    >>> usual_methods(Budget(max_size="10kB"))
    ('filter_prune', 'weight_prune', 'weight_share')
    """
    work = {"max_macs", "max_latency", "max_activation_memory"} & budget.limits.keys()
    if work and budget.max_size is None and budget.max_params is None:
        return ("filter_prune",)
    if budget.max_size is None and budget.max_params is not None:
        return ("filter_prune", "weight_prune")
    return ("filter_prune", "weight_prune", "weight_share")


def shaping(methods: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The methods that take something away and need retraining, and those after them that only give values a form."""
    first = next((i for i, method in enumerate(methods) if VALUED & method.gives), len(methods))
    return list(methods[:first]), list(methods[first:])


def full_recipe(plan: Plan, methods: Sequence[Any], *, budget: Budget) -> Recipe:
    """The recipe that retrains in full what a policy stands for, from the original; without network and data."""
    shapes, values = shaping(methods)
    short = plan.train.model_copy(update={"epochs": plan.values_epochs, "lr": plan.train.lr / 10})
    steps = [StepSpec(method=m, train=plan.train) for m in shapes] + [StepSpec(method=m, train=short) for m in values]
    return Recipe(title="Found by search", baseline=plan.baseline, step=tuple(steps), budget=budget)
