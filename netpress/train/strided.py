"""1 x 1 convolutions with a stride, trained without one: oneDNN's gradient of a narrow one writes past its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

NARROW = 16  # channels in one of oneDNN's blocks where vectors have 512 bits; 8 where they have 256


class Unstrided:
    """A network's narrow strided 1 x 1 convolutions get the pixels they read, and step by one, until `close`.

        conv(x, stride s) = conv(x[..., ::s, ::s], stride 1)

    With channels last, oneDNN copies those pixels itself, to row r of a buffer of as many rows as pixels and as many
    columns as channels; but it finds row r at r * 8 (or 16, with AVX-512) floats, and so with fewer channels it writes
    behind the buffer: heap corruption, wrong gradients, or an abort much later (oneDNN issue 6035, open in 3.12). Only
    the gradient of the weight does this, and the slow layout for the one layer would cost more than the copy.

    Args:
        net: changed in place; `close` changes it back.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2))
    >>> unstrided = Unstrided(net)
    >>> net[0].stride, net(torch.zeros(1, 3, 8, 8)).shape
    ((1, 1), torch.Size([1, 4, 4, 4]))
    >>> unstrided.close()
    >>> net[0].stride
    (2, 2)
    """

    def __init__(self, net: nn.Module) -> None:
        self.layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and _overflows(layer)]
        self.strides = [layer.stride for layer in self.layers]
        self.handles = [
            layer.register_forward_pre_hook(_Thin(*layer.stride), with_kwargs=True) for layer in self.layers
        ]
        for layer in self.layers:
            layer.stride = (1, 1)

    def close(self) -> None:
        """Give the layers their strides back."""
        for layer, stride, handle in zip(self.layers, self.strides, self.handles, strict=True):
            layer.stride = stride
            handle.remove()


class _Thin:
    """Keep every `down`-th row and every `right`-th column of what a layer is called with."""

    def __init__(self, down: int, right: int) -> None:
        self.down, self.right = down, right

    def __call__(
        self, _: nn.Module, args: tuple[Tensor, ...], named: Mapping[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        at = (..., slice(None, None, self.down), slice(None, None, self.right))
        return tuple(x[at] for x in args), {name: x[at] for name, x in named.items()}


def _overflows(layer: nn.Conv2d) -> bool:
    """Whether oneDNN may take the path of the error; it does for whole multiples of the stride only."""
    return (
        layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.padding in ((0, 0), "valid")
        and layer.groups == 1
        and layer.in_channels < NARROW
    )
