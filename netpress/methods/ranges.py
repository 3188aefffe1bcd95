"""Which grid fits numbers: of a value's activations, seen on calibration images, and of a layer's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netpress.codec.sides import MIN_STEP
from netpress.data.batches import batches
from netpress.errors import ModelError
from netpress.forms import Affine
from netpress.methods.refitting import Calibration
from netpress.rounding import HIGH, INPUT, Following, Given, Place
from netpress.shadow import evaluating

Range = Literal["minmax", "percentile", "mse"]
BINS = 2048
SHRINK = tuple(1 - 0.02 * i for i in range(36))
"""Shares of the whole range that `mse` tries."""


@dataclass(frozen=True, slots=True)
class Levels:
    """An activation's grid: 256 multiples of `scale`, of which number `zero` is 0; and the range that was seen."""

    scale: float
    zero: int
    low: float
    high: float


class _Seeing(Following):
    def __init__(self, net: nn.Module, wanted: Mapping[Place, Callable[[Place, Tensor], None]]) -> None:
        super().__init__(net)
        self.wanted = wanted

    def made(self, place: Place, given: Given, out: Any) -> Any:
        if (look := self.wanted.get(place)) is not None:
            look(place, out)
        return super().made(place, given, out)


def _see(net: nn.Module, places: Sequence[Place], images: Calibration, look: Callable[[Place, Tensor], None]) -> None:
    """Show every value at the places, for all calibration images."""
    inputs, wanted, seen = images.inputs, dict.fromkeys(places, look), 0
    with torch.no_grad(), evaluating(net):
        for x, _ in batches(images.split, size=64, mean=inputs.mean, std=inputs.std, seed=images.seed):
            part = x[: images.samples - seen]
            if INPUT in wanted:
                look(INPUT, part)
            with _Seeing(net, wanted).following():
                net.forward(part)
            seen += len(part)
            if seen >= images.samples:
                return


def activation_grids(
    net: nn.Module, places: Sequence[Place], images: Calibration, *, kind: Range, percentile: float
) -> dict[Place, Levels]:
    """A grid for each value, from what calibration images give.

        scale = (high - low) / 255, zero = round(-low / scale), with low <= 0 <= high

    Args:
        net: left untouched.
        places: of the values.
        images: the calibration images.
        kind: `minmax`: all that was seen; `percentile`: without the rarest; `mse`: the range of least squared error.
        percentile: per cent of the numbers that the range holds, at either end.

    Raises:
        ModelError: a value is NaN or infinite; says which.
    """
    ends: dict[Place, tuple[float, float]] = {}

    def widen(place: Place, x: Tensor) -> None:
        low, high = x.min().item(), x.max().item()
        if not (low > -float("inf") and high < float("inf")):
            raise ModelError(f"{place} is NaN or infinite on a calibration image: it has no range")
        before = ends.get(place, (0.0, 0.0))
        ends[place] = (min(low, before[0]), max(high, before[1]))

    _see(net, places, images, widen)
    if missing := [place for place in places if place not in ends]:
        raise ModelError(f"{missing[0]} was made for the example, but for no calibration image")
    if kind == "minmax":
        return {place: _levels(*ends[place]) for place in places}
    counts = {place: torch.zeros(BINS, dtype=torch.float64) for place in places}

    def count(place: Place, x: Tensor) -> None:
        low, high = ends[place]
        if high > low:
            counts[place] += torch.histc(x.float(), BINS, low, high).double()

    _see(net, places, images, count)
    pick = _least_error if kind == "mse" else _without_tails
    return {place: _levels(*pick(counts[place], *ends[place], percentile)) for place in places}


def _levels(low: float, high: float) -> Levels:
    """256 levels from low to high, zero among them; a value that is always zero gets steps of one."""
    scale = (high - low) / HIGH
    if scale < MIN_STEP:
        return Levels(1.0, 0, low, high)
    return Levels(scale, min(max(round(-low / scale), 0), HIGH), low, high)


def _without_tails(counts: Tensor, low: float, high: float, percentile: float) -> tuple[float, float]:
    share = counts.cumsum(0) / counts.sum().clamp(min=1)
    tail, width = 1 - percentile / 100, (high - low) / BINS
    first = int((share <= tail).sum()) if low < 0 else 0
    last = int((share < 1 - tail).sum()) + 1 if high > 0 else BINS
    return min(low + first * width, 0.0), max(low + min(last, BINS) * width, 0.0)


def _least_error(counts: Tensor, low: float, high: float, _percentile: float) -> tuple[float, float]:
    width = (high - low) / BINS
    middles = low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)

    def error(share: float) -> float:
        grid = _levels(low * share, high * share)
        near = (middles / grid.scale).round().clamp(-grid.zero, HIGH - grid.zero)
        return float((counts * (near * grid.scale - middles).square()).sum())

    best = min(SHRINK, key=error)
    return low * best, high * best


def symmetric_grid(w: Tensor, bits: int, *, axis: int | None, kind: Range, percentile: float) -> Affine:
    """A grid for weights whose middle is zero.

        step = max |w| / (2^(bits - 1) - 1), per channel or for the whole tensor

    Args:
        w: the entries that it must hold; zeros do not matter.
        bits: of an integer.
        axis: along which each channel has a step of its own; None: one for all.
        kind: `percentile` and `mse` take less than the largest weight.
        percentile: per cent of the weights other than zero that the range holds.

    >>> symmetric_grid(torch.tensor([[1.0, -2.0], [0.5, 0.0]]), 8, axis=0, kind="minmax", percentile=100).step * 127
    tensor([[2.0000],
            [0.5000]])
    """
    rows = w.double().abs().flatten()[None] if axis is None else w.double().abs().transpose(0, axis).flatten(1)
    top = 2 ** (bits - 1) - 1
    peak = rows.amax(1)
    if kind == "percentile" and rows.shape[1] < 2**24:
        seen = torch.where(rows > 0, rows, torch.nan)  # pruned weights are zero on any grid
        peak = torch.nanquantile(seen, percentile / 100, dim=1).nan_to_num(0.0)
    if kind == "mse":
        tries = torch.stack([_squared_error(rows, peak * share / top, top) for share in SHRINK])
        peak = peak * torch.tensor(SHRINK, dtype=torch.float64)[tries.argmin(0)]
    step = torch.where(peak > 0, peak / top, torch.ones_like(peak)).clamp(min=MIN_STEP).float()
    shape = [1] * w.ndim
    if axis is not None:
        shape[axis] = -1
    return Affine.symmetric(step.view(shape), bits)


def _squared_error(rows: Tensor, step: Tensor, top: int) -> Tensor:
    step = step.clamp(min=MIN_STEP)[:, None]
    return ((rows / step).round().clamp(max=top) * step - rows).square().sum(1)


def fitted_grid(w: Tensor, bits: int) -> Affine:
    """A grid from the least to the largest entry, zero among its levels (linear quantization).

        step = (max(w, 0) - min(w, 0)) / (2^bits - 1), zero_point = round(-min(w, 0) / step)

    Equal entries come back exactly: they are one step.

    Source: reference of linear 8-bit quantization, `w = q * scale + min`. Differs: zero is a level, so that pruned
    weights stay zero; where all weights have one sign, the range therefore begins at zero.

    >>> grid = fitted_grid(torch.tensor([-1.0, 0.0, 2.0]), 8)
    >>> grid.zero_point, round(grid.step.item() * 255, 6)
    (85, 3.0)
    """
    low, high = min(float(w.min()), 0.0), max(float(w.max()), 0.0)
    top = 2**bits - 1
    step = high - low if float(w.min()) == float(w.max()) else (high - low) / top
    step = max(step, MIN_STEP) if high > low else 1.0
    zero = min(max(round(-low / step), 0), top)
    return Affine(torch.full([1] * w.ndim, step), bits, zero)
