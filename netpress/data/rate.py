"""How fast the input side is: time that a loop spends waiting for its batches, and how many images came meanwhile."""

import time
from collections.abc import Callable, Iterator

from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Metered(Iterator[Batch]):
    """Batches handed on, with the time measured that each one kept its user waiting.

    waiting = sum of the time inside `next()`;  seconds = from the first `next()` to the end of the last one;
    the user's own work is the rest. `images / waiting` is the rate of the input side alone where `next()` does all its
    work. Where batches are read ahead it is what that rate looks like from the loop: large as long as the input keeps
    up, and above the workers' own rate, because they went on while the loop was busy. A share of waiting near 0 says
    that the loop is the limit, one near 1 that the input is. Work that was only queued on a GPU is not in it.

    Args:
        batches: pairs of images and labels; `close()` is handed on to it.
        clock: seconds, rising.

    >>> from torch import zeros
    >>> ticks = iter([0.0, 1.0, 5.0, 6.0, 9.0])
    >>> meter = Metered(iter([(zeros(3), zeros(3)), (zeros(2), zeros(2))]), clock=lambda: next(ticks))
    >>> [len(y) for _, y in meter]
    [3, 2]
    >>> meter.images, meter.waiting, meter.seconds, meter.images_per_second_ready
    (5, 2.0, 6.0, 2.5)
    """

    def __init__(self, batches: Iterator[Batch], clock: Callable[[], float] = time.perf_counter) -> None:
        self.images, self.waiting = 0, 0.0
        self._batches, self._clock = batches, clock
        self._first: float | None = None
        self._last = 0.0

    def __next__(self) -> Batch:
        begun = self._clock()
        self._first = begun if self._first is None else self._first
        images, labels = next(self._batches)
        self._last = self._clock()
        self.waiting += self._last - begun
        self.images += len(labels)
        return images, labels

    def close(self) -> None:
        """End the batches, and with them everything that reads ahead."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()

    @property
    def seconds(self) -> float:
        """From asking for the first batch to having the last one."""
        return 0.0 if self._first is None else max(0.0, self._last - self._first)

    @property
    def share(self) -> float:
        """Share of the time that was spent waiting, 0 to 1."""
        return self.waiting / self.seconds if self.seconds else 0.0

    @property
    def images_per_second(self) -> float:
        """What input and loop did together: images / seconds."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def images_per_second_ready(self) -> float:
        """What the input side gave per second of waiting: images / waiting."""
        return self.images / self.waiting if self.waiting else 0.0
