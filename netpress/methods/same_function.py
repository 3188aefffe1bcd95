"""Changes of weights that must not change what a network computes: what they need, and the check in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from netpress.candidate import Candidate, Context
from netpress.errors import ModelError
from netpress.methods.targets import targets
from netpress.shadow import observing, smallest_side
from netpress.train.checkpoint import finite
from netpress.train.schedule import draw


class Change(NamedTuple):
    """What an error calls a change.

    Attributes:
        method: the method that makes it.
        done: what the network is afterwards, e.g. "folded".
        tolerance: of max |a - b| / max |b|, in float64.
        cause: what it may be that one run does not show, and what helps.
    """

    method: str
    done: str
    tolerance: float
    cause: str


def image_shape(candidate: Candidate, context: Context) -> tuple[int, ...]:
    """Shape (C, H, W) of one image."""
    return candidate.inputs.shape or tuple(context.example.shape[1:])


def on_meta(net: nn.Module) -> bool:
    """Whether a network, or a part of it, has shapes without values.

    >>> on_meta(nn.Linear(2, 2)), on_meta(nn.Linear(2, 2, device="meta"))
    (False, True)
    """
    return any(t.is_meta for t in itertools.chain(net.parameters(), net.buffers()))


def insist_on_numbers(net: nn.Module, so_that: str) -> None:
    """Refuse a network whose weights cannot be changed, or are no numbers.

    Args:
        net: the network; one on meta has no values that could be wrong.
        so_that: what cannot be done, e.g. "nothing can be folded into it".

    Raises:
        ModelError: a weight is no plain parameter, or not finite.
    """
    for _ in targets(net):
        pass  # raises where a weight is no plain parameter
    if not on_meta(net) and (bad := finite(net)) is not None:
        raise ModelError(f"{bad} holds NaN or an infinity: {so_that}")


def compare(candidate: Candidate, context: Context, change: Change, make: Callable[[nn.Module], nn.Module]) -> str:
    """Compare a network before and after a change, both in float64, on an image of the least size that it takes.

        max |a - b| / max |b| < tolerance        for every tensor that the network returns

    Args:
        candidate: before the change; left untouched.
        context: whose seed and step the image is drawn from.
        change: what is done.
        make: does it to a network, in place or not, and returns the result.

    Returns:
        What was seen, in words.

    Raises:
        ModelError: they differ by more than rounding, or one of them does not run.
    """
    net, shape = candidate.net, image_shape(candidate, context)
    side = smallest_side(net, shape[0]) if len(shape) == 3 else None
    least = shape if side is None or side > min(shape[1:]) else (shape[0], side, side)
    before = deepcopy(net).double()
    device = next(before.parameters()).device
    rng = torch.Generator().manual_seed(draw(context.seed, context.step))
    image = torch.randn(1, *least, generator=rng, dtype=torch.float64).to(device)
    try:
        expected = _answers(before, image)
        answers = _answers(make(before), image)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{change.method} cannot be checked in float64, nothing was changed: {reason}") from error
    off = max((_off(a, b) for a, b in zip(answers, expected, strict=True)), default=0.0)
    if not off < change.tolerance:  # also where it is NaN
        raise ModelError(
            f"{change.method}: the {change.done} network differs by {off:.1e} (relative, float64), expected less than "
            f"{change.tolerance:.0e}: {change.cause}"
        )
    return f"checked in float64 on one {'x'.join(map(str, least))} image: relative error {off:.0e}"


def _answers(net: nn.Module, image: Tensor) -> list[Tensor]:
    with observing(net), torch.random.fork_rng():
        torch.manual_seed(0)  # networks that draw: both draw the same
        return [leaf.clone() for leaf in tree_leaves(net(image)) if isinstance(leaf, Tensor)]


def _off(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|."""
    if a.numel() == 0:
        return 0.0
    scale = b.double().abs().max().item()
    return (a.double() - b.double()).abs().max().item() / (scale or 1.0)
