"""The channels of a layer's weight: scaled one by one, and how large each is.

A convolution's weight is (out, in / groups, ...), a transposed one's (in, out / groups, ...): along its first axis a
channel is a row, along its second each group has channels of its own.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Side = Literal["outputs", "inputs"]


def scaled(layer: nn.Module, weight: Tensor, scale: Tensor, side: Side = "outputs") -> Tensor:
    """The weight with each channel multiplied by its scale.

    Args:
        layer: a convolution of any kind or a linear layer.
        weight: its weight, or one like it.
        scale: one number per channel of that side.
        side: whose channels.

    >>> import torch
    >>> scaled(nn.Linear(2, 2), torch.ones(2, 2), torch.tensor([2.0, 3.0]), "inputs")
    tensor([[2., 3.],
            [2., 3.]])
    """
    if _first_axis(layer, side):
        return weight * scale.view(-1, *[1] * (weight.dim() - 1))
    groups = _groups(layer)
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    return (parts * scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)


def largest(layer: nn.Module, weight: Tensor, side: Side = "outputs") -> Tensor:
    """max |w| of each channel's part of the weight.

    Args:
        layer: a convolution of any kind or a linear layer.
        weight: its weight, or one like it.
        side: whose channels.

    Returns:
        One number per channel of that side.

    >>> import torch
    >>> largest(nn.Conv2d(4, 4, 1, groups=2), torch.arange(8.0).view(4, 2, 1, 1), "inputs")
    tensor([2., 3., 6., 7.])
    """
    size = weight.abs()
    if _first_axis(layer, side):
        return size.flatten(1).amax(1)
    groups = _groups(layer)
    return size.reshape(groups, -1, weight.shape[1], weight[0, 0].numel()).amax((1, 3)).flatten()


def _first_axis(layer: nn.Module, side: Side) -> bool:
    return (side == "inputs") == isinstance(layer, _ConvTransposeNd)


def _groups(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, _ConvNd) else 1
