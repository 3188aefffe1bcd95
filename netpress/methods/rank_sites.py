"""The ranks that a layer can have: what each keeps and costs, and which one a setting means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from netpress.factor import Rebuilt, bayes, cp, svd, tucker
from netpress.methods.rank_choice import Option, energy_damage
from netpress.methods.replaceable import Layer
from netpress.methods.replacing import price

Operation = Literal["svd", "spatial_svd", "cp", "tucker2"]
Numbers = tuple[int, ...]
CP_POINTS = 6  # each is an iteration of its own
_LARGE = 4_000_000  # entries of a matrix whose singular values are only looked up as far as they are needed


@dataclass(slots=True, eq=False)
class Site:
    """A layer that can be replaced, and what its ranks are chosen by.

    Attributes:
        layer: where it stands, what it costs.
        module: the layer.
        moment: (D, D) second moment of its input patches, or None where only the weights count.
        seed: of random starts and projections.
        step: ranks that are chosen are multiples of it, where the layer's full rank allows.
    """

    layer: Layer
    module: nn.Module
    moment: Tensor | None
    seed: int
    step: int = 1
    _lost: list[Tensor] | None = None
    _cp: dict[int, Any] = field(default_factory=dict)
    _prices: dict[Numbers, tuple[int, int]] = field(default_factory=dict)

    @property
    def weight(self) -> Tensor:
        """The layer's kernel or matrix."""
        return cast("Tensor", self.module.weight).detach()

    @property
    def operation(self) -> Operation:
        """What is to take its place."""
        return cast("Operation", self.layer.operation)

    @property
    def full(self) -> Numbers:
        """The numbers at which the factors can hold any kernel."""
        outputs, inputs, *sides = self.weight.shape
        match self.operation:
            case "svd":
                return (min(outputs, inputs * math.prod(sides)),)
            case "spatial_svd":
                return (min(inputs * sides[0], outputs * sides[1]),)
            case "cp":
                return (min(outputs, inputs) * sides[0] * sides[1],)
            case _:
                return (min(inputs, outputs * sides[0] * sides[1]), min(outputs, inputs * sides[0] * sides[1]))

    def up(self, numbers: Numbers) -> Numbers:
        """The next multiples of the step, or the full ranks below them."""
        return tuple(min(-(-n // self.step) * self.step, full) for n, full in zip(numbers, self.full, strict=True))

    def down(self, numbers: Numbers) -> Numbers:
        """The multiples of the step below; at least the step, or the full ranks below that."""
        return self.up(tuple(max(n // self.step, 1) * self.step for n in numbers))

    def price(self, numbers: Numbers) -> tuple[int, int]:
        """Multiply-adds and parameters of the factors."""
        if len(numbers) == 1 and 2 < numbers[0] <= max(self.full[0], 2):  # linear in one rank: two prices tell all
            one, two = self.price((1,)), self.price((2,))
            return one[0] + (numbers[0] - 1) * (two[0] - one[0]), one[1] + (numbers[0] - 1) * (two[1] - one[1])
        if numbers not in self._prices:
            self._prices[numbers] = price(self.module, self.operation, numbers, self.layer.inputs)
        return self._prices[numbers]

    # --- what a rank keeps ---

    def lost(self, numbers: Numbers) -> float:
        """The share of the energy, ||W - What||^2 / ||W||^2 in the metric, that these numbers lose.

        Of `tucker2` the sum over both modes, which is above what is lost together.
        """
        if self.operation == "cp":
            return float(self.cp(numbers[0]).error) ** 2
        return min(1.0, sum(float(curve[n]) for curve, n in zip(self._curves(), numbers, strict=True)))

    def _curves(self) -> list[Tensor]:
        """Per number the share lost at rank 0, 1, 2 ...; singular vectors are not kept."""
        if self._lost is None:
            if self.operation == "tucker2":
                found = list(tucker.unfoldings(self.weight, moment=self.moment))
            else:
                kind = cast("svd.Kind", self.operation)
                found = [svd.kernel_spectrum(kind, self.weight, moment=self.moment, seed=self.seed)]
            self._lost = [_lost(f) for f in found]
        return self._lost

    def cp(self, rank: int) -> Any:
        """The CP decomposition of this rank, from the largest smaller one that is known."""
        if rank not in self._cp:
            smaller = [r for r in self._cp if r < rank]
            start = self._cp[max(smaller)] if smaller else None
            self._cp[rank] = cp.cp(self.weight, rank, start=start, seed=self.seed)
        return self._cp[rank]

    # --- which numbers a setting means ---

    def at_energy(self, energy: float) -> Numbers:
        """The least numbers that keep a share of the energy, of `tucker2` in each mode."""
        if self.operation == "cp":
            return self.up((_least(lambda r: self.lost((r,)) <= 1 - energy + 1e-12, self.full[0]),))
        if self.operation == "svd" and self.moment is None and self.weight.numel() > _LARGE:
            return self.up((self._large(energy),))
        return self.up(tuple(max(1, int((curve > 1 - energy + 1e-12).sum())) for curve in self._curves()))

    def _large(self, energy: float) -> int:
        """By random projections of growing rank: a full decomposition of such a matrix takes minutes."""
        flat, rank = self.weight.flatten(1), 64
        while True:
            found = svd.spectrum(flat, rank=rank if rank < min(flat.shape) else None, seed=self.seed)
            if float(found.values.square().sum()) >= energy * found.total or len(found.values) == min(flat.shape):
                return svd.rank_for(found, min(energy, float(found.values.square().sum()) / found.total))
            rank *= 2

    def at_share(self, share: float) -> Numbers:
        """The largest numbers whose multiply-adds are at most a share of the layer's; at least rank 1, or the step."""
        most = share * self.layer.macs
        if self.operation == "tucker2":
            return self._largest(lambda numbers: self.price(numbers)[0] <= most)
        return self.down((_largest(lambda r: self.price((r,))[0] <= most, self.full[0]),))

    def _largest(self, fits: Callable[[Numbers], bool]) -> Numbers:
        """The last pair along the path of equal energies that fits."""
        path = list(self._pairs())
        return path[_largest(lambda k: fits(path[k - 1]), len(path)) - 1]

    def _pairs(self) -> Iterator[Numbers]:
        """Pairs of ranks that grow together: at every level of energy the least that keep it."""
        levels = {float(level) for curve in self._curves() for level in curve}
        seen: set[Numbers] = set()
        for level in sorted(levels, reverse=True):
            numbers = self.up(tuple(max(1, int((curve > level + 1e-15).sum())) for curve in self._curves()))
            if numbers not in seen:
                seen.add(numbers)
                yield numbers

    def by_bayes(self) -> Numbers | None:
        """Ranks by variational Bayes, or None where all that it sees is noise."""
        weight = self.weight.double()
        match self.operation:
            case "tucker2":
                matrices = [weight.transpose(0, 1).flatten(1), weight.flatten(1)]
            case "spatial_svd":
                matrices = [svd.spatial_matrix(weight)]
            case _:
                matrices = [weight.flatten(1)]
        found = tuple(bayes.evidence(matrix).rank for matrix in matrices)
        return self.up(found) if all(found) else None

    # --- choices ---

    def options(self, points: int) -> list[Option]:
        """The layer as it is, and so many ranks that save, with the logarithm of the energy kept as damage."""
        found = [Option((), self.layer.macs, self.layer.params, 0.0)]
        for numbers in self._some(min(points, CP_POINTS) if self.operation == "cp" else points):
            macs, params = self.price(numbers)
            if macs < self.layer.macs or params < self.layer.params:
                found.append(Option(numbers, macs, params, energy_damage(self.lost(numbers))))
        return found

    def _some(self, count: int) -> list[Numbers]:
        """Numbers from 1 up to where nothing is saved any more, evenly by their logarithm."""
        if self.operation == "tucker2":
            path = [n for k, n in enumerate(self._pairs()) if k == 0 or self.price(n)[0] < self.layer.macs]
            return [path[round(k)] for k in sorted(set(torch.linspace(0, len(path) - 1, count).round().tolist()))]
        top = _largest(lambda r: self.price((r,))[0] < self.layer.macs, self.full[0])
        ranks = {self.down((round(top ** (k / max(count - 1, 1))),)) for k in range(count)}
        return sorted(ranks)


def _lost(found: svd.Spectrum) -> Tensor:
    """By rank, from 0: the share of the energy in the singular values left out."""
    kept = torch.cat([torch.zeros(1).to(found.values), found.values.square().cumsum(0)])
    if found.total <= 0:
        return torch.zeros_like(kept)
    return (1 - kept / found.total).clamp(min=0)


def _largest(fits: Callable[[int], bool], top: int) -> int:
    """The largest of 1 to top that fits, where all below one that fits do; 1 where none does."""
    low, high = 1, top + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _least(enough: Callable[[int], bool], top: int) -> int:
    """The least of 1 to top that is enough, by doubling and then halving; top where none is."""
    high = 1
    while high < top and not enough(high):
        high *= 2
    low, high = high // 2, min(high, top)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def decomposed(site: Site, numbers: Sequence[int], *, weight: Tensor, moment: Tensor | None) -> Rebuilt:
    """The factors of a kernel.

    Args:
        site: the layer.
        numbers: ranks.
        weight: what the factors are to come near, of the shape of the layer's weight.
        moment: (D, D) second moment of the input patches in whose metric, or None for the weights themselves.

    Raises:
        Refused: the numbers do not fit.
    """
    match site.operation:
        case "svd":
            return svd.svd(weight, numbers[0], moment=moment, seed=site.seed)
        case "spatial_svd":
            return svd.spatial_svd(weight, numbers[0], moment=moment)
        case "tucker2":
            return tucker.tucker2(weight, numbers[0], numbers[1], moment=moment)
        case _:
            # of another kernel than the layer's the known decomposition is the start
            found = site.cp(numbers[0])
            if moment is not None:
                found = cp.cp(weight, numbers[0], start=found, seed=site.seed)
            return cp.as_rebuilt(found)
