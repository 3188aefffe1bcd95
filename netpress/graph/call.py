"""What one operation is, and what a trace writes down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from netpress.graph.labels import Axes, IntArray


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


@dataclass(slots=True)
class Known:
    """A tensor that carries labels.

    Attributes:
        tensor: kept alive, because it is known by its id.
        axes: labels per axis.
        zeroed: a parameter, or one that was only moved or scaled: its removed slices are zero in the zeroed twin.
        name: of a parameter or buffer.
    """

    tensor: Tensor
    axes: Axes
    zeroed: bool = False
    name: str = ""


@dataclass(slots=True)
class Call:
    """One operation: what was called, with which arguments, and what came out."""

    name: str
    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    outs: list[Tensor]
    positions: Mapping[str, tuple[int, Any]]

    def __getitem__(self, name: str) -> Any:
        """An argument by its name in the operation's schema; its default where it was not given."""
        position, default = self.positions[name]
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def __contains__(self, name: str) -> bool:
        return name in self.positions

    def optional(self, name: str) -> Any:
        """As `call[name]`; None where the operation has no such argument."""
        return self[name] if name in self.positions else None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, those in lists included."""
        return list(flat((self.args, tuple(self.kwargs.values()))))


@dataclass(frozen=True, slots=True)
class Option:
    """One way to read an operation whose numbers may or may not follow the channels; `apply` writes its equations."""

    apply: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Claim:
    """A number that a module holds and that follows the channels: an attribute of one or several parts.

    Each part is an array of labels, whose number it is, or a fixed number. `kind` says how to set it: "int" or "tuple".
    """

    path: str
    attribute: str
    parts: tuple[IntArray | int, ...]
    kind: str = "int"


@dataclass(frozen=True, slots=True)
class Maker:
    """A layer that makes channels: its path, its kind, the labels of its output."""

    path: str
    kind: str
    labels: IntArray


@dataclass(frozen=True, slots=True)
class Site:
    """An operation that can be read in several ways: where in the source, how many ways, the labels at stake."""

    place: str
    options: int
    labels: IntArray


@dataclass(frozen=True, slots=True)
class Output:
    """What an operation returned: its number in the run, its name, shape and labels of every tensor."""

    index: int
    name: str
    tensors: list[tuple[torch.Size, Axes]]


@dataclass(slots=True)
class Findings:
    """What a trace leaves beside the equations.

    Attributes:
        makers: layers that make channels.
        claims: numbers of modules that follow the channels.
        selections: integer buffers whose values are positions on an axis with these labels.
        outputs: of every operation but copies, in order: what a trial is compared with.
        sites: operations that were read in one of several ways.
        risks: operations that may hold a number of channels written into the code.
        unknown: operations without a rule: name and module path.
        created: labels of axes that the code makes up.
        places: how a choice would pin an operation; filled once there are choices.
        amounts: operations with a number that no shape shows: the labels that it counts.
    """

    makers: list[Maker] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    selections: dict[str, IntArray] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    sites: dict[int, Site] = field(default_factory=dict)
    risks: list[int] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    created: list[IntArray] = field(default_factory=list)
    amounts: dict[int, IntArray] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)


def flat(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from flat(part)
    elif isinstance(value, dict):
        yield from flat(tuple(value.values()))
    elif hasattr(value, "__dataclass_fields__"):
        yield from flat(tuple(vars(value).values()) if hasattr(value, "__dict__") else ())
