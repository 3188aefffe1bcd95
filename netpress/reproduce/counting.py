"""Networks of the zoo, each built once without weights and counted once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from netpress import measure, zoo
from netpress.measure.effective import Effective, effective
from netpress.measure.metrics import FLOAT_BYTES

UNITS = ("parameters", "weights", "activations", "operations", "bytes", "bits", "times", "share")


@dataclass(frozen=True, slots=True)
class Answer:
    """Our number for a printed one.

    Args:
        ours: in base units (parameters, bytes, a plain ratio, a share as a fraction); None: no network gives it.
        unit: of `ours`: one of `UNITS`.
        reason: what a reader must know: why it differs, what was counted, that the network is a reconstruction.
        runnable: the count of the network that runs, where the printed one cannot.
        label: what the verdict must not be read without: "reconstruction", "not reproducible" or "fitted afterwards".
    """

    ours: float | None
    unit: str
    reason: str = ""
    runnable: int | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution or linear layer: its weights without biases, and its multiply-adds."""

    path: str
    weights: int
    macs: int
    linear: bool


class Counted:
    """One network, its counts taken when they are first asked for."""

    def __init__(self, net: nn.Module, shape: Sequence[int]) -> None:
        self.net = net
        self.shape = tuple(shape)
        self._effective: dict[str, Effective] = {}

    @cached_property
    def cost(self) -> measure.Cost:
        """What one image costs."""
        return measure.cost(self.net, self.shape)

    @property
    def bytes(self) -> int:
        """Four bytes for each parameter."""
        return FLOAT_BYTES * self.params()

    def params(self, *paths: str) -> int:
        """Parameters of the modules at `paths`, children included; of the network where none is named."""
        modules = [self.net.get_submodule(path) for path in paths or ("",)]
        return sum(p.numel() for module in modules for p in module.parameters())

    def floats(self, path: str) -> int:
        """Numbers of one image that leave the counted layers of a module: "14x14x128" for two that are joined."""
        found = [one for one in self.cost.layers if one.path == path or one.path.startswith(f"{path}.")]
        return sum(math.prod(one.out_shape) for one in found)

    @cached_property
    def layers(self) -> list[Layer]:
        """Every convolution and linear layer, in the order of the network."""
        macs = {one.path: one.macs for one in self.cost.layers}
        return [
            Layer(path, module.weight.numel(), macs[path], isinstance(module, nn.Linear))
            for path, module in self.net.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        ]

    @cached_property
    def weights(self) -> int:
        """Weights of convolutions and linear layers, without biases."""
        return sum(layer.weights for layer in self.layers)

    def binarized(self, pattern: str) -> Effective:
        """Count with the k×k convolutions at matching paths in one bit; see `measure.effective`."""
        if pattern not in self._effective:
            self._effective[pattern] = effective(self.net, pattern)
        return self._effective[pattern]


@dataclass(slots=True)
class Counter:
    """Builds a network of the zoo the first time it is asked for."""

    _kept: dict[str, Counted] = field(default_factory=dict)

    def of(self, name: str, **settings: Any) -> Counted:
        """Count a network of the zoo with some of its settings changed.

        >>> Counter().of("lenet5").params()
        431080
        """
        key = f"{name} {sorted(settings.items())}"
        if key not in self._kept:
            net = zoo.create(name, device="meta", **settings)
            shape = zoo.describe(name).shape
            self._kept[key] = Counted(net, shape)
        return self._kept[key]
