"""Which values of a forward pass must be integers so that a runtime can run the layers on integer kernels.

ONNX Runtime computes an operation in integers where all its inputs come from a grid and its output goes to one. So
every layer that is quantized, and every sum, join, product and average pool between such layers, gets a grid for its
output; an activation behind it is part of it. What only moves values keeps their grid. Everything else computes in
floats, and is named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from netpress.methods.targets import targets
from netpress.rounding import INPUT, LAYERS, Following, Given, Place, moves
from netpress.shadow import observing

PAIRS = frozenset({"add", "add_", "__add__", "__iadd__", "mul", "mul_", "__mul__", "__imul__", "cat", "concat"})
"""Functions of several values that have integer kernels."""
SINGLES = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool2d", "sigmoid", "leaky_relu"})
"""Functions of one value that have integer kernels."""
CLAMPS = frozenset({"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clip", "clip_"})
"""Functions that become part of the rounding of what they clamp."""


@dataclass(slots=True)
class Value:
    """One value of a pass.

    Attributes:
        place: the call that makes it.
        layer: path of the convolution or linear layer that makes it, if one does.
        sources: numbers of the values that it is made of.
        moved: whether it only holds values of its first source, elsewhere.
        readers: numbers of those that are made of it.
    """

    place: Place
    layer: str | None = None
    sources: tuple[int, ...] = ()
    moved: bool = False
    readers: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is rounded in a network.

    Attributes:
        places: of the values that get a grid, in order.
        floats: what computes in floats although it reads integers: place -> name of the function.
        layers: by path of a layer, the place whose grid its output gets.
    """

    places: tuple[Place, ...]
    floats: Mapping[Place, str]
    layers: Mapping[str, Place]


class _Recording(Following):
    def __init__(self, net: nn.Module, image: Tensor) -> None:
        super().__init__(net)
        self.layers = {target.path for target in targets(net)}
        self.values = [Value(INPUT)]
        self.numbers: dict[int, int] = {}
        self.kept: list[Tensor] = []  # numbers of tensors are given again once they are gone
        self._now(image, 0)

    def _now(self, tensor: Tensor, number: int) -> None:
        self.kept.append(tensor)
        self.numbers[id(tensor)] = number

    def made(self, place: Place, given: Given, out: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        known = (self.numbers.get(id(leaf)) for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
        sources = tuple(dict.fromkeys(number for number in known if number is not None))
        if tensors and sources:
            number = len(self.values)
            layer = place.path if place.name in LAYERS and place.path in self.layers else None
            self.values.append(Value(place, layer, sources, moves(place, given)))
            for source in sources:
                self.values[source].readers.append(number)
            for tensor in tensors:
                self._now(tensor, number)
        return out


def record(net: nn.Module, image: Tensor) -> list[Value]:
    """The values of one pass, in order; the input is the first.

    Args:
        net: left untouched.
        image: one normalised image (1, C, H, W).

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())
    >>> [str(value.place) for value in record(net, torch.zeros(1, 1, 4, 4))]
    ['input', '0:conv2d', '1:relu', '2:flatten']
    """
    mode = _Recording(net, image)
    with observing(net), mode.following():
        net.forward(image)
    return mode.values


def plan(net: nn.Module, image: Tensor, kept: Collection[str] = ()) -> Plan:
    """Which values get a grid.

    Args:
        net: left untouched.
        image: one normalised image (1, C, H, W).
        kept: paths of layers that compute in floats.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> [str(place) for place in plan(net, torch.zeros(1, 1, 4, 4)).places]
    ['input', '1:relu', '3:linear']
    """
    values = record(net, image)
    whole = [_integer(value, kept) for value in values]
    if not any(value.layer is not None and value.layer not in kept for value in values):
        return Plan((), {}, {})  # sums and pools alone are not worth rounding for
    on_grid, chosen = [False] * len(values), []
    floats: dict[Place, str] = {}
    for number, value in enumerate(values):
        source = value.sources[0] if len(value.sources) == 1 else None
        lies = source is not None and on_grid[source]
        if value.moved and lies:
            on_grid[number] = True
            continue
        clamps = value.place.name in CLAMPS and source is not None
        behind = clamps and source is not None and ((whole[source] and _clamped(values, source)) or lies)
        wanted = whole[number] or behind or _feeds(values, number, whole)
        if wanted and not _clamped(values, number):
            on_grid[number] = True
            chosen.append(value.place)
        if not (whole[number] or behind or value.moved) and any(on_grid[s] for s in value.sources):
            floats[value.place] = value.place.name
    outputs = {v.layer: _output(values, n) for n, v in enumerate(values) if v.layer is not None and whole[n]}
    return Plan(tuple(chosen), floats, outputs)


def _integer(value: Value, kept: Collection[str]) -> bool:
    """Whether what makes the value has an integer kernel."""
    name = value.place.name
    if value.layer is not None:
        return value.layer not in kept
    return (name in PAIRS and len(value.sources) > 1) or name in SINGLES


def _clamped(values: list[Value], number: int) -> bool:
    """Whether a value is only made to be clamped: then the clamp's result gets the grid."""
    readers = values[number].readers
    return len(readers) == 1 and values[readers[0]].place.name in CLAMPS


def _feeds(values: list[Value], number: int, whole: list[bool]) -> bool:
    """Whether something that has an integer kernel reads a value, or what was moved from it."""
    return any(
        whole[reader] or (values[reader].moved and _feeds(values, reader, whole)) for reader in values[number].readers
    )


def _output(values: list[Value], number: int) -> Place:
    return values[values[number].readers[0]].place if _clamped(values, number) else values[number].place
