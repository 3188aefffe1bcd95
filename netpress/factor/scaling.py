"""A batch norm whose statistics have gone into its scale and shift: one number each per channel.

| edit | numbers | what stands at the path afterwards |
|---|---|---|
| `scaled` | trained (1 or 0) | `ScaleShift`, before what the norm held behind it |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class ScaleShift(nn.Module):
    """Scale and shift channels.

        y[:, c] = x[:, c] scale[c] + shift[c]

    Computed as a batch norm of mean 0 and variance 1: one pass over the values where a product and a sum take two, in
    PyTorch and in ONNX Runtime. As with every norm, no multiply-adds are counted for it.

    Args:
        like: a tensor whose type and device scale and shift get.
        channels: how many.
        trained: whether they are parameters; else they are buffers, which training leaves as they are.

    >>> layer = ScaleShift(torch.zeros(1), 2, trained=False)
    >>> layer.scale[1] = 0.5; layer.shift[0] = 3
    >>> layer(torch.ones(1, 2)).tolist()
    [[4.0, 0.5]]
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, like: Tensor, channels: int, *, trained: bool) -> None:
        super().__init__()
        for name, fill in (("scale", torch.ones), ("shift", torch.zeros)):
            tensor = fill(channels, dtype=like.dtype, device=like.device)
            if trained:
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=like.requires_grad))
            else:
                self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled and shifted channels (axis 1)."""
        # not in half precision, where an autocast pass is: kernels take values of 16 bits beside numbers of 32
        dtype = torch.promote_types(x.dtype, self.scale.dtype)
        scale, shift = self.scale.to(dtype), self.shift.to(dtype)
        return F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, shift, eps=0.0)

    def extra_repr(self) -> str:
        """Return the number of channels."""
        return f"{self.scale.shape[0]}"


def at(net: nn.Module, path: str) -> ScaleShift:
    """The module that the edit `scaled` put at a path.

    >>> net = nn.Sequential(nn.BatchNorm2d(3))
    >>> EDITS["scaled"](net, "0", 1)
    >>> at(net, "0")
    ScaleShift(3)
    """
    module = net.get_submodule(path)
    found = module if isinstance(module, ScaleShift) else next(module.children())
    assert isinstance(found, ScaleShift)
    return found


def _scaled(net: nn.Module, path: str, trained: int) -> None:
    norm = net.get_submodule(path)
    mean: Any = getattr(norm, "running_mean", None)
    if not isinstance(norm, _BatchNorm) or mean is None:
        raise TypeError(f"expected a batch norm with running statistics, got {type(norm).__name__}")
    if trained not in (0, 1):
        raise TypeError(f"expected 1 (trained) or 0, got {trained!r}")
    like = mean.detach().clone().requires_grad_() if norm.weight is None else norm.weight
    made = ScaleShift(like, norm.num_features, trained=bool(trained)).train(norm.training)
    # some libraries' norms hold what comes behind them, dropout and activation, as children: these stay
    behind = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    chain = nn.Sequential(made, *behind) if behind else made
    chain.training = norm.training
    net.set_submodule(path, chain)


EDITS: Mapping[str, Callable[..., None]] = {"scaled": _scaled}
