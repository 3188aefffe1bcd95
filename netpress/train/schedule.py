"""Seeds and rates: what of a training is a function of the place in it alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from netpress.errors import RecipeError
from netpress.train.settings import Training


def draw(seed: int, *place: int) -> int:
    """The seed of one place of a run (step, epoch, ...), independent of every other place's.

    >>> draw(0, 1, 2) != draw(0, 2, 1)
    True
    """
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def reseed(seed: int, device: torch.device) -> None:
    """Seed what draws on the CPU and on `device`. `torch.manual_seed` also notes a call stack for every absent GPU.

    >>> reseed(7, torch.device("cpu")); torch.initial_seed()
    7
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def learning_rate(settings: Training, done: float) -> float:
    """Learning rate after the share `done` (0 to 1) of all updates.

    >>> learning_rate(Training(lr=0.1), 0.5)
    0.05
    """
    if done < settings.warmup:
        return settings.lr * done / settings.warmup
    match settings.schedule:
        case "cosine":
            rest = (done - settings.warmup) / (1 - settings.warmup)
            return settings.lr * 0.5 * (1 + math.cos(math.pi * rest))
        case "step":
            return settings.lr * settings.gamma ** sum(done >= m for m in settings.milestones)
        case "constant":
            return settings.lr


def due(moments: Sequence[float], updates: int) -> tuple[int, ...]:
    """Numbers of the updates, from 0, before which a method acts: the first at or behind each moment.

        u_s = ceil(t_s U)

    Args:
        moments: t_s, shares of the training, ascending.
        updates: U, of the whole training.

    Raises:
        RecipeError: two moments fall on one update, or one on none: the training is too short.

    >>> due((1 / 6, 1 / 3, 1 / 2), 600)
    (100, 200, 300)
    """
    # a share times a count may lie a hair above the whole number that it is
    found = tuple(math.ceil(round(t * updates, 6)) for t in moments)
    if any(b <= a for a, b in zip((0, *found), (*found, updates), strict=True)):
        raise RecipeError(
            f"the {len(found)} stages at {', '.join(f'{t:.3g}' for t in moments)} of the training need updates of "
            f"their own, but it has {updates} in all: train for more epochs"
        )
    return found
