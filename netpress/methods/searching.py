"""What a method tells a search: which amounts it can be given, and what a network will cost then, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from netpress.candidate import Candidate, Context
from netpress.measure.cost import cost
from netpress.methods.file_bytes import written
from netpress.methods.targets import targets

Value = float | int | None
"""An amount; None: the method leaves these layers alone."""
Amounts = Mapping[str, Value]
"""By layer, as the method's settings name it."""
FLOAT_BITS = 32


@dataclass(frozen=True, slots=True)
class Part:
    """What is expected of one tensor.

    Attributes:
        entries: numbers it will hold.
        density: share of them that is not zero.
        bits: of one that is not zero, after coding.
        table: bytes beside them.
        macs: multiply-adds that it takes part in.
        trained: whether it is a parameter; buffers only take bytes.
    """

    entries: float
    density: float = 1.0
    bits: float = FLOAT_BITS
    table: float = 0.0
    macs: float = 0.0
    trained: bool = True

    @property
    def file_bytes(self) -> float:
        """Bytes: which entries are not zero, by the entropy of a coin; what they are; the table.

        >>> Part(entries=8000, density=0.5, bits=5).file_bytes
        3500.0
        """
        p = self.density
        places = 0.0 if p in (0.0, 1.0) else -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
        return self.entries * (places + p * self.bits) / 8 + self.table


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is expected of a network.

    Attributes:
        parts: by tensor, the file's.
        rest: multiply-adds that belong to no tensor.
        overhead: bytes of the file that are no tensor's.

    >>> both = Estimate({"a": Part(10, macs=100), "b": Part(6, density=0.5)}, rest=1, overhead=20)
    >>> both.params, both.nonzero, both.macs
    (16, 13.0, 101.0)
    """

    parts: Mapping[str, Part]
    rest: float = 0.0
    overhead: float = 0.0

    @property
    def params(self) -> float:
        """Entries of all parameters."""
        return sum(part.entries for part in self.parts.values() if part.trained)

    @property
    def nonzero(self) -> float:
        """Those of them that are not zero."""
        return sum(part.entries * part.density for part in self.parts.values() if part.trained)

    @property
    def macs(self) -> float:
        """Multiply-adds of one image; zeros count as they are computed with."""
        return self.rest + sum(part.macs for part in self.parts.values())

    @property
    def file_bytes(self) -> float:
        """Bytes of the file."""
        return self.overhead + sum(part.file_bytes for part in self.parts.values())

    def changed(self, parts: Mapping[str, Part]) -> Estimate:
        """A copy with other parts for some tensors."""
        return replace(self, parts={**self.parts, **parts})


@dataclass(frozen=True, slots=True)
class Knob:
    """One amount that a method can be given.

    Attributes:
        name: of the layer or group of channels.
        paths: how the method's settings name what it turns.
        values: from the strongest to none, at least one; the last changes nothing.
        size: parameters that it decides about.
        kind: knobs of one kind may be turned together.
    """

    name: str
    paths: tuple[str, ...]
    values: tuple[Value, ...]
    size: int
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Searched:
    """How a method is searched on one network.

    Attributes:
        knobs: in the network's order.
        tuned: the method with these amounts; None where they change nothing.
        foresee: what it makes of an estimate.
    """

    knobs: tuple[Knob, ...]
    tuned: Callable[[Amounts], Any]
    foresee: Callable[[Amounts, Estimate], Estimate]


@runtime_checkable
class Searchable(Protocol):
    """A method whose amounts a search may choose."""

    @classmethod
    def searched(cls, candidate: Candidate, context: Context, settings: Mapping[str, Any]) -> Searched:
        """How it is searched.

        Args:
            candidate: the network before anything is done to it; left untouched.
            context: an example at least.
            settings: fields of the method that are the same in every trial.
        """
        ...


def estimate(candidate: Candidate, overhead: float) -> Estimate:
    """What a network costs as it is.

    Args:
        candidate: left untouched.
        overhead: bytes of its file that are no tensor's.
    """
    counted = cost(candidate.net, candidate.inputs.shape)
    work = {layer.path: layer.macs for layer in counted.layers}
    owner = {target.name: work.get(target.path, 0) for target in targets(candidate.net)}
    trained = dict(candidate.net.named_parameters())
    parts = {}
    for name, tensor in written(candidate).items():
        form = candidate.forms.get(name)
        support = None if form is None or form.support is None else form.support
        density = 1.0 if support is None else float(support.double().mean())
        parts[name] = Part(tensor.numel(), density, macs=owner.get(name, 0), trained=name in trained)
    rest = counted.macs - sum(part.macs for part in parts.values())
    return Estimate(parts, rest, overhead)


def shared_bits(bits: int) -> float:
    """Bits of an index into a table of 2^bits values, entropy-coded: k-means fills its cells unevenly.

    Measured on the published weights of ResNet-20, nothing pruned: 0.73 to 0.80 of the width for 3 to 8 bits; of the
    weights that pruning leaves, less. A search corrects its estimates by the files that it has written.

    >>> round(shared_bits(5), 2)
    3.8
    """
    return 0.76 * bits
