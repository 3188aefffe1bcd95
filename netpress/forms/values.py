"""The closed sum of what a tensor's entries may be (free, shared, affine, signs), and the form that holds one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from netpress.codec.sides import MAX_BITS, MAX_STEP, MIN_BITS, MIN_STEP, scale_shape


@dataclass(frozen=True, slots=True)
class Free:
    """Any value at all."""

    name = "free"


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Whole multiples of a step.

        w = (q - zero_point) * step,  q in 0 .. 2^bits - 1

    Zero is always among them. In float32 the product is rounded once, to nearest, ties to even.

    Attributes:
        step: float32, within 2^-126 .. 2^119; as many axes as the tensor, 1 along those where it does not vary.
        bits: of an integer, 2 to 8.
        zero_point: the integer that stands for zero.
        trained: whether training moves the step too (LSQ, Esser et al. 2020), not the weights alone.

    Raises:
        ValueError: bits, zero point or a step out of range.
    """

    step: Tensor
    bits: int
    zero_point: int
    trained: bool = True
    name = "affine"

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS or not 0 <= self.zero_point < 1 << self.bits:
            raise ValueError(
                f"expected {MIN_BITS} to {MAX_BITS} bits and a zero point of 0 to 2^bits - 1, "
                f"got {self.bits} and {self.zero_point}"
            )
        if not bool(((self.step >= MIN_STEP) & (self.step <= MAX_STEP)).all()):
            raise ValueError(f"expected steps within 2^-126 .. 2^119, got {self.step.min():g} .. {self.step.max():g}")

    @classmethod
    def symmetric(cls, step: Tensor, bits: int, *, trained: bool = True) -> Self:
        """Integers -2^(bits - 1) .. 2^(bits - 1) - 1 times the step, as for weights.

        >>> import torch
        >>> Affine.symmetric(torch.tensor([0.5]), 8).levels
        (-128, 127)
        """
        return cls(step, bits, 1 << (bits - 1), trained)

    @property
    def levels(self) -> tuple[int, int]:
        """Least and largest multiple of the step."""
        return -self.zero_point, (1 << self.bits) - 1 - self.zero_point

    @property
    def axes(self) -> tuple[int, ...]:
        """Those along which the step varies."""
        return tuple(axis for axis, size in enumerate(self.step.shape) if size != 1)

    def stepped(self, step: Tensor) -> Self:
        """The same grid with another step, brought into its range."""
        return replace(self, step=step.clamp(MIN_STEP, MAX_STEP))


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """One of K values of a table that all entries share.

    Attributes:
        index: int64 (S,): for each entry inside the support, in row-major order, its place in the table. Every place
            0..size-1 is used by at least one entry.
        size: K, the length of the table.
        grid: where the values of the table lie; its step has shape (1,). None: anywhere.

    Raises:
        ValueError: a grid with more than one step.
    """

    index: Tensor
    size: int
    grid: Affine | None = None
    name = "shared"

    def __post_init__(self) -> None:
        if self.grid is not None and self.grid.step.shape != (1,):
            raise ValueError(f"expected a grid with a step of shape (1,), got {tuple(self.grid.step.shape)}")


@dataclass(frozen=True, slots=True, eq=False)
class Signs:
    """A frozen pattern of signs times a scale (SEP-Net, Li et al. 2017).

        w = s where the pattern is true, else 0 - s

    Attributes:
        pattern: bool, the tensor's shape; false outside the support.
        axes: those along which the scale varies, rising: () one constant, (0,) per output channel, (0, 1) per
            two-dimensional kernel.
        trained: whether training moves the scale.
    """

    pattern: Tensor
    axes: tuple[int, ...] = ()
    trained: bool = True
    name = "signs"

    @classmethod
    def of(cls, w: Tensor, *, support: Tensor | None = None, axes: tuple[int, ...] = (), trained: bool = True) -> Self:
        """The signs of a tensor; zero counts as negative.

        >>> import torch
        >>> Signs.of(torch.tensor([0.5, 0.0, -2.0])).pattern.tolist()
        [True, False, False]
        """
        return cls(w > 0 if support is None else (w > 0) & support, axes, trained)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scale: that of the tensor along `axes`, 1 elsewhere."""
        return scale_shape(tuple(self.pattern.shape), self.axes)


Values = Free | Shared | Affine | Signs


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What a tensor may hold: where it may differ from zero, and which values it may take there.

    Attributes:
        support: bool, the tensor's shape; entries outside are exactly +0.0, for ever. None: everywhere.
        values: what the entries inside may be.
    """

    support: Tensor | None = None
    values: Values = Free()

    @property
    def traits(self) -> frozenset[str]:
        """What a later step must not break: any of "support", "shared", "affine", "signs".

        >>> import torch
        >>> sorted(Form(support=torch.tensor([True, False])).traits)
        ['support']
        """
        names = {self.values.name} - {"free"}
        if isinstance(self.values, Shared) and self.values.grid is not None:
            names.add(self.values.grid.name)
        return frozenset(names if self.support is None else names | {"support"})

    @property
    def step(self) -> Tensor | None:
        """Of the grid of its values or of its table; None where there is no grid."""
        match self.values:
            case Affine(step=step) | Shared(grid=Affine(step=step)):
                return step
            case Free() | Signs() | Shared():
                return None

    def positions(self) -> Tensor | None:
        """Flat row-major places inside the support, int64 (S,); None where the support is everything."""
        return None if self.support is None else self.support.flatten().nonzero().flatten()


def inside(form: Form, w: Tensor) -> Tensor:
    """The entries of `w` inside the support, flat (S,), in row-major order."""
    return w.flatten() if form.support is None else w[form.support]
