"""Accuracy of a network on a split."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from netpress.candidate import Images, Inputs
from netpress.data.batches import batches
from netpress.errors import ModelError
from netpress.shadow import evaluating
from netpress.train.layout import channels_last
from netpress.train.task import Task


@dataclass(frozen=True, slots=True)
class Scores:
    """Top-1 and top-5 accuracy as fractions, mean cross-entropy in nats."""

    top1: float
    top5: float
    loss: float


def logits(
    net: nn.Module, split: Images, inputs: Inputs, *, batch: int = 128, device: torch.device | str = "cpu"
) -> Tensor:
    """Answers of `net` in evaluation mode, float32 (N, C) on the CPU, in the split's order; `net` is left as it was.

    Raises:
        ModelError: the network does not take the images, or does not answer with one row per image.
    """
    rows = []
    try:
        with torch.no_grad(), evaluating(net):
            for x, _ in batches(split, size=batch, mean=inputs.mean, std=inputs.std, device=device):
                rows.append(_answers(net, x).float().cpu())
    except RuntimeError as error:
        shape = tuple(split.images.shape[1:])
        raise ModelError(f"the network does not take images of shape {shape}: {str(error).splitlines()[0]}") from error
    answers = torch.cat(rows)
    if answers.ndim != 2:
        raise ModelError(f"expected logits of shape (images, classes), the network gave {tuple(answers.shape)}")
    return answers


def _answers(net: nn.Module, x: Tensor) -> Tensor:
    """The network's answers; on a CPU with channels last, where it takes images that lie so."""
    if x.device.type == "cpu" and x.ndim == 4:
        with suppress(RuntimeError):  # one that views its maps; if it is something else, the plain call says so
            answers: Tensor = net(channels_last(x))
            return answers
    plain: Tensor = net(x)
    return plain


def score(answers: Tensor, labels: Tensor) -> Scores:
    """Accuracy and loss of logits (N, C) against labels (N,).

    >>> score(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([1, 1])).top1
    0.5
    """
    top = answers.topk(min(5, answers.shape[1]), dim=1).indices
    right = top == labels[:, None]
    return Scores(
        top1=right[:, 0].double().mean().item(),
        top5=right.any(1).double().mean().item(),
        loss=F.cross_entropy(answers.double(), labels).item(),
    )


def evaluate(net: nn.Module, split: Images, inputs: Inputs, *, device: torch.device | str = "cpu") -> Scores:
    """Top-1, top-5 and loss of `net` on a split."""
    return score(logits(net, split, inputs, device=device), split.labels)


def judge(
    net: nn.Module, split: Images, inputs: Inputs, task: Task, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Mean loss and mean metric of `net` on a split; cross-entropy and top-1 where the task has no hooks of its own."""
    if task == Task():
        scores = evaluate(net, split, inputs, device=device)
        return scores.loss, scores.top1
    loss, score = 0.0, 0.0
    with torch.no_grad(), evaluating(net):
        for x, y in batches(split, size=1000, mean=inputs.mean, std=inputs.std, device=device):
            answers = task.forward(net, x)
            value = task.loss(answers, y) if task.loss is not None else F.cross_entropy(answers.float(), y)
            loss += value.item() * len(y)
            score += task.metric(answers, y).sum().item()
    return loss / len(split), score / len(split)
