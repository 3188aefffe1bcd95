"""An average of the weights over the updates, which is judged and kept in place of the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of everything that is trained.

        a <- d a + (1 - d) w       d = min(decay, (1 + t) / (10 + t)),   t updates done

    The average is of what the optimizer moves, so the forms hold for it too: a masked weight's average is masked.
    Running statistics of batch norms are averages already and are taken as they are. `torch.optim.swa_utils` copies
    the whole network for it; here a list of tensors is kept.

    Args:
        net: bound, on its device.
        decay: d, 0 to 1; 0.999 remembers about 1,000 updates.

    Source: Polyak and Juditsky 1992; the warm-up as in TensorFlow's ExponentialMovingAverage.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> average = Average(net, 0.5)
    >>> average.update(0); bool(average.tensors[0] == net.weight)
    True
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.source: list[Tensor] = [p for p in net.parameters() if p.requires_grad]
        self.tensors: list[Tensor] = [p.detach().clone() for p in self.source]

    def update(self, done: int) -> None:
        """Take the weights after `done` earlier updates in."""
        decay = min(self.decay, (1 + done) / (10 + done))
        with torch.no_grad():
            torch._foreach_lerp_(self.tensors, self.source, 1 - decay)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """The network with the averaged weights, for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def keep(self) -> None:
        """The averaged weights for good."""
        self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self.tensors, self.source, strict=True):
                kept = theirs.detach().clone()
                theirs.copy_(mine)
                mine.copy_(kept)
