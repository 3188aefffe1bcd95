"""Distillation of layer outputs: what a replaced layer gives is pulled towards what the original gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from netpress.errors import RecipeError
from netpress.shadow import evaluating

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def matched(student: nn.Module, teacher: nn.Module, example: Tensor) -> list[str]:
    """Paths of the layers whose outputs can be compared between two networks.

    These are the convolutions and linear layers of the teacher in whose place the student has something else, another
    module or other groups, with outputs of the same shape; where there is none, all convolutions and linear layers
    that both have, again with outputs of the same shape.

    Args:
        student, teacher: left untouched.
        example: images that both take, on their device.

    Returns:
        Paths in the teacher's order; empty where nothing fits.

    >>> teacher, student = (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)) for _ in range(2))
    >>> matched(student, teacher, torch.zeros(1, 4))
    ['0', '1']
    >>> student[0] = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 3))
    >>> matched(student, teacher, torch.zeros(1, 4))
    ['0']
    """
    ours = dict(student.named_modules())
    paths = [path for path, module in teacher.named_modules() if isinstance(module, LAYERS) and path in ours]
    wanted, given = _shapes(teacher, paths, example), _shapes(student, paths, example)
    fits = [path for path in paths if wanted[path] and wanted[path] == given[path]]
    replaced = [path for path in fits if _replaced(ours[path], teacher.get_submodule(path))]
    return replaced or [path for path in fits if isinstance(ours[path], LAYERS)]


class Matching:
    """How far a network's layers are from its teacher's, read off by hooks while both run.

        L = mean over layers of ||y - t||^2 / ||t||^2,   norms over the whole batch

    The teacher runs first, then the student, on the same images; then `loss` gives L and starts afresh. A student that
    runs without its teacher before it, as in evaluation, is let alone. A layer called several times counts as one with
    all its outputs.

    Args:
        student, teacher: hooks are added; `close` takes them out again.
        example: images that both take, on their device.

    Raises:
        RecipeError: no layer of the teacher has a counterpart with outputs of the same shape.

    Source: Romero et al. 2015 (FitNets) teach a student by the outputs of one layer through a learned regressor; here
    the shapes are equal, so none is needed, and each layer is divided by its own size, so that all weigh the same.

    >>> teacher, student = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> _ = student.load_state_dict({k: 2 * v for k, v in teacher.state_dict().items()})
    >>> matching, x = Matching(student, teacher, torch.ones(1, 2)), torch.randn(5, 2)
    >>> _ = teacher(x), student(x)
    >>> round(matching.loss().item(), 6)
    1.0
    >>> matching.close()
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, example: Tensor) -> None:
        self.paths = matched(student, teacher, example)
        if not self.paths:
            raise RecipeError(
                "distill_layers: no convolution or linear layer of the baseline has a counterpart of the same path and "
                "output shape here; expected at least one; leave distill_layers out of this step, or use distill"
            )
        self.wanted: dict[str, list[Tensor]] = {}
        self.lost: dict[str, list[Tensor]] = {}
        self.whole: dict[str, list[Tensor]] = {}
        self.handles = [
            *_listen(teacher, self.paths, self._keep),
            *_listen(student, self.paths, self._compare),
        ]

    def _keep(self, path: str, out: Tensor) -> None:
        # a copy: what follows may write into the output
        self.wanted.setdefault(path, []).append(out.detach().clone())

    def _compare(self, path: str, out: Tensor) -> None:
        if not self.wanted.get(path):
            return
        target = self.wanted[path].pop(0).float()
        # at once, and by a difference, whose gradient needs no outputs: what follows may write into them
        self.lost.setdefault(path, []).append((out.float() - target).square().sum())
        self.whole.setdefault(path, []).append(target.square().sum())

    def loss(self) -> Tensor:
        """L of the last pass of both networks; a scalar, differentiable by the student's weights."""
        smallest = torch.finfo(torch.float32).tiny
        ratios = [
            torch.stack(lost).sum() / torch.stack(self.whole[path]).sum().clamp_min(smallest)
            for path, lost in self.lost.items()
        ]
        for kept in (self.wanted, self.lost, self.whole):
            kept.clear()
        return torch.stack(ratios).mean()

    def close(self) -> None:
        """Take the hooks out."""
        for handle in self.handles:
            handle.remove()


def _replaced(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether something else stands in a layer's place; one with a parametrization is still the layer."""
    return not isinstance(ours, LAYERS) or getattr(ours, "groups", 1) != getattr(theirs, "groups", 1)


def _listen(net: nn.Module, paths: Sequence[str], take: Callable[[str, Tensor], None]) -> list[RemovableHandle]:
    def hook(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _args, out: take(path, out)

    return [net.get_submodule(path).register_forward_hook(hook(path)) for path in paths]


def _shapes(net: nn.Module, paths: Sequence[str], example: Tensor) -> dict[str, list[tuple[int, ...]]]:
    """By path the output's shape at each call."""
    found: dict[str, list[tuple[int, ...]]] = {path: [] for path in paths}
    handles = _listen(net, paths, lambda path, out: found[path].append(tuple(out.shape)))
    try:
        with torch.no_grad(), evaluating(net):
            net(example)
    finally:
        for handle in handles:
            handle.remove()
    return found
