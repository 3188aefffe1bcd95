"""A network as it stands, and what methods are told. Types only, plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from netpress.codec.header import Arch
from netpress.forms import Affine, Form, Shared
from netpress.html_table import card

UNNAMED = Arch("own", "Network")


def edited(arch: Arch, operation: str, path: str, *numbers: float) -> Arch:
    """`arch` with one more structure edit: operation, module path, numbers. In order, they rebuild the network.

    >>> edited(Arch("zoo", "lenet5"), "dropout", "drop", 0.3).edits
    (('dropout', 'drop', 0.3),)
    """
    return replace(arch, edits=(*arch.edits, (operation, path, *numbers)))


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the network takes: images (C, H, W), normalised as (pixel / 255 - mean) / std per channel."""

    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One thing done to a candidate: the method's name, its settings, notes in words and plain data for the report."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A network, the forms of its compressed tensors, how to rebuild it, and what was done so far.

    Attributes:
        net: a plain module; its tensors hold their forms to the bit.
        forms: by parameter name, for the tensors that have one; all others are free.
        arch: how to build `net` again.
        inputs: shape and normalisation of the images.
        classes: names of the outputs, if known.
        history: the methods applied, oldest first.
    """

    net: nn.Module
    forms: Mapping[str, Form] = field(default_factory=dict)
    arch: Arch = UNNAMED
    inputs: Inputs = Inputs(shape=())
    classes: tuple[str, ...] = ()
    history: tuple[Record, ...] = ()

    @property
    def traits(self) -> frozenset[str]:
        """What a later step must not break: "support", "shared", "affine", "signs" of tensors, "rounded" values."""
        rounded = {"rounded"} if any(operation == "round" for operation, *_ in self.arch.edits) else ()
        return frozenset(rounded).union(*(form.traits for form in self.forms.values()))

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def _repr_html_(self) -> str:
        tensors = list(self.net.named_parameters())
        on_meta = any(tensor.is_meta for _, tensor in tensors)
        facts = {
            "input": self.inputs.shape or None,
            "classes": len(self.classes) or None,
            "parameters": sum(tensor.numel() for _, tensor in tensors),
            "not zero": None if on_meta else sum(int(tensor.count_nonzero()) for _, tensor in tensors),
            "structure edits": len(self.arch.edits) or None,
            "done": ", ".join(record.method for record in self.history) or "nothing yet",
        }
        rows = [[name, tuple(tensor.shape), *_said(self.forms.get(name, Form()))] for name, tensor in tensors]
        return card(f"{self.arch.source}:{self.arch.name}", facts, ["tensor", "shape", "form", "kept %"], rows)


def _said(form: Form) -> tuple[str, float]:
    """A form in words, and how many per cent of the entries lie inside its support."""
    kept = 100.0 if form.support is None else 100 * float(form.support.float().mean())
    match form.values:
        case Shared(size=size):
            return f"{size} shared values", kept
        case Affine(bits=bits):
            return f"{bits}-bit integers", kept
        case _:
            return form.values.name, kept


class Images(Protocol):
    """A split of a data set: uint8 images (N, C, H, W) and int64 labels (N,)."""

    @property
    def images(self) -> Tensor: ...  # noqa: D102
    @property
    def labels(self) -> Tensor: ...  # noqa: D102
    def __len__(self) -> int: ...


Progress = Callable[[str, int, int, Mapping[str, float]], None]


def silent(_what: str, _done: int, _total: int, _numbers: Mapping[str, float]) -> None:
    """A `Progress` that shows nothing: (what is running, steps done, steps in all, numbers to show)."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a method is told. Methods never see the test split.

    Attributes:
        example: one batch of normalised images (1, C, H, W).
        train, validation: splits, or None where a method is applied without data.
        seed: of the run; randomness comes from (seed, step) alone.
        step: number of the step, from 1.
        device: where heavy work may run.
        scratch: a folder for intermediate files, or None.
        progress: called during long work.
    """

    example: Tensor
    train: Images | None = None
    validation: Images | None = None
    seed: int = 0
    step: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    scratch: Path | None = None
    progress: Progress = silent


@runtime_checkable
class Method(Protocol):
    """A frozen data class whose fields are its settings.

    `name` is what recipes call it; `revision` counts changes of its results; `gives` and `preserves` are traits of
    forms: an order in which a method does not preserve what an earlier one gave is refused when the recipe is read.
    """

    name: ClassVar[str]
    revision: ClassVar[int]
    preserves: ClassVar[frozenset[str]]

    @property
    def gives(self) -> frozenset[str]:
        """Traits of its results; a class attribute where they do not depend on the settings."""
        ...

    def expand(self) -> list[Any]:
        """The single rounds that these settings stand for, in order; `[self]` for most."""
        ...

    def check(self, net: nn.Module) -> None:
        """Raise a RecipeError where the settings cannot fit the network, before anything is trained."""
        ...

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """A new candidate; the argument is left untouched."""
        ...


@runtime_checkable
class Refusing(Protocol):
    """A method that knows from the network alone that it cannot do what it is asked for."""

    def refuse(self, candidate: Candidate, context: Context) -> None:
        """Raise what `apply` would, before anything is trained; called where no step stands before it."""
        ...


@runtime_checkable
class Acting(Protocol):
    """One training with a method inside it: what `Gradual.gradually` gives, a function of its arguments alone.

    Attributes:
        candidate: what is trained; every tensor that `act` changes has a form with a support.
        moments: shares of all updates, ascending, above 0 and below 1; `act` is called before the first update at or
            behind each.
    """

    candidate: Candidate
    moments: tuple[float, ...]

    def act(self, stage: int, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The smaller supports at moment number `stage` (from 0), by name: bool, False where a weight is 0 for ever.

        Args:
            stage: number of the moment.
            weights: all formed tensors as they are now, 0 where their support says so.
        """
        ...

    def penalty(self, stage: int, weights: Mapping[str, Tensor]) -> Tensor | None:
        """What is added to the loss behind `stage` moments; None: nothing."""
        ...

    def finish(self, trained: Candidate, context: Context) -> Candidate:
        """The candidate after the training: what the method promises."""
        ...


@runtime_checkable
class Trained(Protocol):
    """The weights that an `Acting` is shown, where it asks for what is trained of them."""

    def trained(self, name: str) -> Tensor | tuple[Tensor, ...]:
        """The floats before rounding, and the step of their grid where that is trained too."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """An `Acting` that carries numbers from moment to moment.

    Attributes:
        memory: tensors by name, changed in `act` alone; a checkpoint keeps them.
    """

    memory: dict[str, Tensor]

    def told(self) -> dict[str, float]:
        """Numbers for the row of an epoch."""
        ...


@runtime_checkable
class Gradual(Protocol):
    """A method that acts while its step trains. `apply` is what it comes to without training: all moments at once."""

    @property
    def moments(self) -> tuple[float, ...]:
        """What its `Acting` will have, known before anything is trained."""
        ...

    def gradually(self, candidate: Candidate, context: Context) -> Acting:
        """The training that a step with epochs runs in place of `apply`."""
        ...
