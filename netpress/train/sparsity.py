"""A penalty that makes whole channels small while training, so that removing them later costs little."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netpress.graph import Coupling, couple


class GroupLasso:
    """The sum of the norms of all channels that can be removed.

        sum over classes c of sqrt(sum of w² over every filter and every input slice that c owns)

    Coupled channels (a residual stream, a depthwise filter and what feeds it) shrink together, because they can only go
    together. Norms' scales and biases are left out.

    Args:
        net: the network that will be trained; its channels are found once.
        example: one image.

    Source: Wen et al. 2016, Learning Structured Sparsity in Deep Neural Networks, filter-wise; here over classes.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 3, 1, bias=False))
    >>> for p in net.parameters(): _ = nn.init.ones_(p)
    >>> GroupLasso(net, torch.zeros(1, 1, 4, 4))(net).item()  # two classes of 1 + 3 weights
    4.0
    """

    def __init__(self, net: nn.Module, example: Tensor) -> None:
        coupling: Coupling = couple(net, example)
        parameters = {name for name, _ in net.named_parameters()}
        self.groups = [
            [
                (slot.tensor, slot.axis, torch.from_numpy(slot.positions))
                for slot in group.slots
                if slot.role in ("filter", "input") and slot.tensor in parameters
            ]
            for group in coupling.free
        ]

    def __call__(self, net: nn.Module) -> Tensor:
        """The penalty, a scalar that can be differentiated; `net` has the structure of the one given before."""
        total = torch.zeros(())
        for slots in self.groups:
            squares = [_live(net, name).movedim(axis, 0)[at].flatten(1).square().sum(1) for name, axis, at in slots]
            if squares:
                total = total + torch.stack(squares).sum(0).clamp_min(1e-12).sqrt().sum().to(total.device)
        return total


def _live(net: nn.Module, name: str) -> Tensor:
    """The tensor that the layer computes with, also where it has a parametrization."""
    path, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(net.get_submodule(path), leaf)
    return tensor
