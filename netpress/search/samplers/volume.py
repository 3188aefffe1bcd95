"""The area of (load, accuracy) that trials dominate: what a front is worth as one number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def volume(found: Sequence[tuple[float, float]], floor: float = 0.0, most: float = 1.0) -> float:
    """Area between the front and the corner (most, floor).

    A = integral over l from 0 to `most` of (highest accuracy at loads <= l, at least floor) - floor.

    Args:
        found: (load, accuracy) of each trial.
        floor: accuracies below count for nothing.
        most: so do loads above.

    Returns:
        The area.

    >>> round(volume([(0.5, 0.8), (0.25, 0.4), (0.75, 0.7), (1.5, 1.0)]), 3)
    0.5
    """
    kept = sorted((load, top1) for load, top1 in found if load < most and top1 > floor)
    area, reached = 0.0, floor
    for (load, top1), (end, _) in pairwise([*kept, (most, floor)]):
        reached = max(reached, top1)
        area += (end - load) * (reached - floor)
    return area


def gains(
    found: Sequence[tuple[float, float]], new: Sequence[tuple[float, float]], floor: float = 0.0
) -> NDArray[np.float64]:
    """By how much each new trial alone would enlarge the area.

    >>> gains([(0.5, 0.5)], [(0.6, 0.4), (0.0, 1.0)]).tolist()
    [0.0, 0.75]
    """
    before = volume(found, floor)
    return np.array([volume([*found, one], floor) - before for one in new])
