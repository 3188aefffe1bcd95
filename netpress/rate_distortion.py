"""Rounding that counts bits: integers which a coder tells in few, not only the nearest ones."""

import math

import numpy as np
from numpy.typing import NDArray

from netpress.codec import logistic
from netpress.codec import logistic_kernel as kernel
from netpress.codec.compiled import compiled
from netpress.codec.context_tables import given
from netpress.codec.logistic_kernel import Ints


def chosen(weights: NDArray[np.floating], step: float, *, multiplier: float) -> NDArray[np.int32]:
    """Integers that are near the weights and cheap after those before them.

    q = argmin (w / step - q)^2 + multiplier * bits(q | numbers before), one after the other, of the two nearest and 0

    with the bits of logistic coding (`codec.logistic`), fitted to the nearest integers. At high rates a multiplier of
    2 ln(2) / 12 = 0.116 trades error for bits at the price at which a smaller step does.

    >>> chosen(np.float32([[0.2, 0.6], [1.4, -0.5]]), 1.0, multiplier=0.0).tolist()
    [[0, 1], [1, 0]]

    Args:
        weights: any shape, at least one.
        step: of the grid; the integers must span at most 4,096.
        multiplier: steps squared per bit; 0: the nearest.

    Returns:
        int32 of the shape of the weights.

    Raises:
        ValueError: a step so small that the integers span more.
    """
    scaled = np.ascontiguousarray(weights, np.float64) / step
    nearest = np.rint(scaled).astype(np.int32)
    if not multiplier:
        return nearest
    if not logistic.may_hold(nearest):
        raise ValueError(f"step {step}: expected 1 to 4,096 integers, got {np.ptp(nearest) + 1 if nearest.size else 0}")
    settings, work, dims = logistic.opened(nearest)
    values = given(np.zeros(nearest.size, np.int32))
    _choose(logistic.tables(), settings, work, given(scaled.reshape(-1)), values, (*dims, multiplier))
    return np.asarray(values, np.int32).reshape(weights.shape)


@compiled
def _choose(
    tables: Ints, settings: Ints, work: Ints, scaled: Ints, values: Ints, shape: tuple[int, int, int, int, float]
) -> None:
    """One number after the other, as `logistic_kernel.spans` goes."""
    rows, columns, taps, across, multiplier = shape
    n, least, most = 0, settings[kernel.LEAST], settings[kernel.LEAST] + settings[kernel.COUNT] - 1
    for r in range(rows):
        share = (1 << 24) // (r * taps) if r else 0
        for column in range(columns):
            work[kernel.KERNEL], y, x = 0, 0, 0
            for tap in range(taps):
                kernel.look(values, work, n, (y, x, column, r), (across, taps, columns * taps))
                spread = kernel.weigh(tables, settings, work, tap, column, share)
                expected, best, price = kernel.expect(settings, work), 0, math.inf
                floor = math.floor(scaled[n])
                for i in range(3):
                    value = min(max(floor + i if i < 2 else 0, least), most)
                    part = kernel.below(tables, settings, value + 1, expected, spread)
                    part -= kernel.below(tables, settings, value, expected, spread)
                    cost = (scaled[n] - value) ** 2 + multiplier * (16 - math.log2(part))
                    if cost < price:
                        best, price = value, cost
                values[n] = best
                kernel.add(work, column, abs(best))
                n += 1
                x += 1
                if x == across:
                    x, y = 0, y + 1
