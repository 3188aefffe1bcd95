"""What a network is trained to do: how it is called, what is minimised, what is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Forward = Callable[[nn.Module, Tensor], Any]
Loss = Callable[[Any, Tensor], Tensor]
Metric = Callable[[Any, Tensor], Tensor]


def _call(net: nn.Module, x: Tensor) -> Any:
    return net(x)


def right(answers: Tensor, labels: Tensor) -> Tensor:
    """1 for each image whose largest answer is its class, else 0.

    >>> import torch
    >>> right(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([1, 1]))
    tensor([ True, False])
    """
    return answers.argmax(1) == labels


@dataclass(frozen=True, slots=True)
class Task:
    """Hooks for tasks other than "one row of logits per image": several outputs, several heads, regression.

    Attributes:
        forward: (network, images (B, C, H, W)) -> what the network answers; the usual call.
        loss: (answers, labels (B,)) -> scalar, the mean over the batch; None: what the settings say.
        metric: (answers, labels) -> one number per image, (B,), whose mean is shown as top-1 is; the usual: whether
            the largest answer is the label.

    >>> heads = Task(loss=lambda answers, y: sum(nn.functional.cross_entropy(a, y) for a in answers),
    ...              metric=lambda answers, y: right(answers[0], y))
    >>> heads.forward is Task().forward
    True
    """

    forward: Forward = _call
    loss: Loss | None = None
    metric: Metric = right
