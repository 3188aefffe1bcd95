"""Constants of context coding: the logistic curve and its inverse, rates of learning, levels of sizes."""

from functools import cache
from typing import Any

import numpy as np

from netpress.codec import context_kernel as k
from netpress.codec.compiled import given

PRIOR = 25000, 25000, -12500
"""What a prediction starts with: weights of the taps at the left, above, and above at the left, of 65,536."""
WEIGHT = 11000
"""What every predictor's vote weighs at first, of 65,536."""


@cache
def tables() -> Any:
    """All tables, one behind the other.

    >>> t = tables()
    >>> [int(t[k.LEVEL + size]) for size in (0, 7, 8, 9, 10, 4095)]
    [0, 7, 8, 8, 9, 43]
    """
    out = np.zeros(k.TABLES, np.int32)
    x, share, seen = np.arange(-k.TOP, k.TOP + 1) / 256, (np.arange(4096) + 0.5) / 4096, np.arange(1024)
    out[k.STRETCH : k.STRETCH + 4096] = np.rint(256 * np.log(share / (1 - share)))
    out[k.SQUASH : k.SQUASH + x.size] = np.maximum(np.floor(65536 / (1 + np.exp(-x))), 1)
    out[k.TRUST : k.TRUST + 1024] = np.where(seen, 256 * (5 * seen + 4) // (5 * seen + 6), 0)
    out[k.RATE : k.RATE + 1024] = 655360 // (10 * seen + 16)
    out[k.LEVEL : k.LEVEL + 4096] = [_level(size) for size in range(4096)]
    out[k.SHARE + 1 : k.SHARE + 64] = (16 << 16) // np.arange(1, 64)
    return given(out)


def _level(size: int) -> int:
    octave = max(size.bit_length() - 3, 0)
    return 4 * octave + (size >> octave)


def fresh(columns: int) -> tuple[Any, Any]:
    """A model that knows nothing, and the work beside it."""
    model = np.full(k.SLOTS, (1 << 31) - k.BASE, np.int32)
    work = np.zeros(k.COUNTS + columns + 2, np.int64)
    work[k.RANGE] = 1 << 32
    work[k.WEIGHT : k.STEPS] = WEIGHT
    work[k.STEPS : k.COUNTS].reshape(k.MAX_TAPS, 8)[:, :3] = PRIOR
    return given(model), given(work)
