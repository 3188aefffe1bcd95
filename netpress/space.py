"""Ranges that a sweep or a search draws a network's settings from: plain data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """All numbers from `low` to `high`, both included, in steps of `step`.

    >>> 0.25 in Span(0.125, 1.0, step=0.125), 0.3 in Span(0.125, 1.0, step=0.125)
    (True, False)
    """

    low: float
    high: float
    step: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and any(abs(value - each) < 1e-9 for each in self.values())

    def values(self) -> tuple[float, ...]:
        """Return every value, ascending; integers where low and step are.

        >>> Span(64, 256, step=64).values()
        (64, 128, 192, 256)
        """
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + i * self.step for i in range(count))


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values.

    >>> "simple" in Choice(("none", "simple", "complex"))
    True
    """

    options: tuple[object, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def values(self) -> tuple[object, ...]:
        """Return every value, in order."""
        return self.options
