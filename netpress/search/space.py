"""What a search decides: dimensions of ordered values; a policy is one value for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Value = float | int | None
"""An amount of a method; None: the method leaves these layers alone."""
Policy = Mapping[str, Value]
"""By name of a dimension, one of its values."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing that is decided.

    Attributes:
        name: `method:layer`, unique.
        values: what it can be, ordered from the strongest compression to none.
        method: name of the method whose amount it is.
        paths: the layers it decides for, as the method's settings name them.
    """

    name: str
    values: tuple[Value, ...]
    method: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """All dimensions of a search, and the cube of numbers from 0 (strongest) to 1 (none) that samplers work in.

    >>> space = Space((Dimension("a", (0.2, 0.6, 1.0), "m", ("a",)), Dimension("b", (4, 8, None), "m", ("b",))))
    >>> space.policy(np.array([0.4, 0.9]))
    {'a': 0.6, 'b': None}
    >>> space.point({"a": 0.6, "b": None}).tolist(), len(space)
    ([0.5, 1.0], 9)
    """

    dimensions: tuple[Dimension, ...]

    def __len__(self) -> int:
        """How many policies there are."""
        count = 1
        for dimension in self.dimensions:
            count *= len(dimension.values)
        return count

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self.dimensions)

    def point(self, policy: Policy) -> NDArray[np.float64]:
        """A policy as a point of the unit cube, one coordinate per dimension."""
        places = [d.values.index(policy[d.name]) / max(1, len(d.values) - 1) for d in self.dimensions]
        return np.array(places, np.float64)

    def policy(self, point: Sequence[float] | NDArray[np.float64]) -> dict[str, Value]:
        """The policy nearest to a point; coordinates outside the cube are clipped."""
        places = np.clip(np.asarray(point, np.float64), 0.0, 1.0)
        return {
            d.name: d.values[round(place * (len(d.values) - 1))]
            for d, place in zip(self.dimensions, places.tolist(), strict=True)
        }

    def whole(self) -> dict[str, Value]:
        """The policy that compresses nothing."""
        return {d.name: d.values[-1] for d in self.dimensions}

    def strongest(self) -> dict[str, Value]:
        """The policy that compresses most."""
        return {d.name: d.values[0] for d in self.dimensions}
