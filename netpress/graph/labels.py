"""Channel labels: integers along the axes of tensors, and what is known about them.

An axis carries an array of labels, one per position, or `None`: it has no channels and keeps its size. What a network
does to its channels becomes edges between labels (they go together) and pins (they stay), solved at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Axis = IntArray | None
Axes = list[Axis]

UNSEEN: IntArray = np.empty(0, np.int64)  # the axis of a parameter that nothing has used yet; compared by identity


@dataclass(slots=True)
class Equations:
    """Labels are handed out, equated and pinned: what tracing collects.

    Attributes:
        count: labels handed out so far.
        edges: pairs of equally long arrays whose labels go together, position by position.
        pins: labels that stay, and why.
        mixes: labels that an operation mixes, so that removing one changes what the others see, and how.
    """

    count: int = 0
    edges: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    pins: list[tuple[IntArray, str]] = field(default_factory=list)
    mixes: list[tuple[IntArray, str]] = field(default_factory=list)

    def fresh(self, size: int) -> IntArray:
        """Hand out `size` new labels."""
        start = self.count
        self.count += size
        return np.arange(start, self.count)

    def equate(self, a: IntArray, b: IntArray) -> None:
        """Both go together, position by position."""
        if a is not b:
            self.edges.append((a.ravel(), np.broadcast_to(b, a.shape).ravel()))

    def pin(self, labels: IntArray, reason: str) -> None:
        """These stay."""
        self.pins.append((labels, reason))

    def mix(self, labels: IntArray, how: str) -> None:
        """Removing one of these changes what the others see."""
        self.mixes.append((labels, how))


@dataclass(slots=True)
class Replay:
    """The labels are classes found before, nothing is learnt; a new label is -1, which always stays.

    Attributes:
        mixed: an operation that mixes labels has run since this was last set to False.
    """

    mixed: bool = False

    def fresh(self, size: int) -> IntArray:
        """Positions that always stay."""
        return np.full(size, -1, np.int64)

    def equate(self, a: IntArray, b: IntArray) -> None:
        """Known already."""

    def pin(self, labels: IntArray, reason: str) -> None:
        """Known already."""

    def mix(self, labels: IntArray, how: str) -> None:  # noqa: ARG002
        """Remember that the operation must be run on what is kept."""
        self.mixed = True
