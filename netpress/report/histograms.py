"""How the weights of a layer lie before and after, read from the `.press` files of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netpress.codec import stored
from netpress.codec.container import Press, Tensor
from netpress.codec.stored import Stored
from netpress.report.folder import RunFolder

BINS = 80
MOST_LAYERS = 24
MOST_SCALES = 64


@dataclass(frozen=True, slots=True)
class Histogram:
    """One layer's weights, counted in equal bins from `low` to `high`.

    Attributes:
        name: of the tensor.
        low: left edge of the first bin.
        high: right edge of the last bin.
        before: weights of the baseline per bin; None where it has no such tensor.
        after: weights of the result per bin, without those that are exactly zero.
        zeros: share of the result's weights that are exactly zero.
        table: the shared values in rising order; empty where the values are free.
    """

    name: str
    low: float
    high: float
    before: tuple[int, ...] | None
    after: tuple[int, ...]
    zeros: float
    table: tuple[float, ...]


def count(name: str, before: NDArray[Any] | None, after: NDArray[Any], table: Sequence[float] = ()) -> Histogram:
    """Count a layer's weights before and after in the same bins.

    >>> h = count("w", np.float32([-1, 0.5, 1]), np.float32([0, 0, 1]))
    >>> (h.low, h.high, sum(h.before), sum(h.after), round(h.zeros, 2))
    (-1.0, 1.0, 3, 1, 0.67)
    """
    kept = after[after != 0]
    seen = kept.ravel() if before is None else np.concatenate([kept.ravel(), before.ravel()])
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (-1.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counted = [
        None if values is None else tuple(np.histogram(values, BINS, (low, high))[0].tolist())
        for values in (before, kept)
    ]
    zeros = 1 - kept.size / max(after.size, 1)
    assert counted[1] is not None
    return Histogram(name, low, high, counted[0], counted[1], zeros, tuple(sorted(map(float, table))))


def histograms(run: RunFolder, most: int = MOST_LAYERS) -> tuple[list[Histogram], int]:
    """Histograms of the largest layers with weights, in the network's order.

    Args:
        run: the run folder.
        most: how many layers at most.

    Returns:
        The histograms, and how many layers there are in all.
    """
    if run.after is None:
        return [], 0
    after, before = _by_name(run.after), {} if run.before is None else _by_name(run.before)
    layers = [row for row in run.metrics["final"]["layers"] if len(row["shape"]) > 1 and row["name"] in after]
    largest = sorted(layers, key=lambda row: -row["params"])[:most]
    chosen = [row for row in layers if any(row is one for one in largest)]
    return [_histogram(row, before, after) for row in chosen], len(layers)


def _by_name(press: Press) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in press.tensors}


def _histogram(row: Mapping[str, Any], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Histogram:
    name = row["name"]
    value = after[name].unpack()
    return count(name, before[name].restore() if name in before else None, stored.restore(value), _ticks(value))


def _ticks(value: Stored) -> list[float]:
    """The few values that all entries share: those of a table, or plus and minus the scales of signs."""
    if value.table is not None:
        return [float(number) for number in value.table]
    if value.form == "signs" and value.side is not None and value.side.scale.size <= MOST_SCALES:
        scales = value.side.scale.ravel()
        return [float(number) for number in np.unique(np.concatenate([scales, 0 - scales]))]
    return []
