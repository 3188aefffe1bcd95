"""Structure of condensed layers: an index of the inputs that they read, a convolution of those alone, no values.

| edit | numbers | what stands at the path afterwards |
|---|---|---|
| `indexed` | channels | `index`, `layer`: a batch norm or a linear layer of that many channels |
| `condensed` | groups, inputs per group | `index`, `layer` (a convolution in groups), `interleave` |
| `regrouped` | groups, inputs per group | `layer`, `interleave`; the index stands elsewhere |
| `kernel_sums` | kernels | `KernelSums`: `index`, `conv` (depthwise), sums |

Weights are zeros and an index counts from 0 on, over and over, until values are put in: by the method, or from a file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.graph.structure import EDITS as CUTS
from netpress.zoo.dense_blocks import Index, Interleave, KernelSums


def grouped_kernel(weight: Tensor, kept: Tensor) -> Tensor:
    """The weight of the grouped convolution that a dense 1 x 1 one becomes.

        row j of group g  =  W[g + j G, kept[g]]

    Args:
        weight: (O, I, 1, 1), or anything laid out like it, e.g. a support.
        kept: int64 (G, n): the inputs of each group.

    Returns:
        (O, n, 1, 1), the rows of group 0 first.

    >>> grouped_kernel(torch.arange(8).view(4, 2, 1, 1), torch.tensor([[0], [1]])).flatten()
    tensor([0, 4, 3, 7])
    """
    groups = len(kept)
    return torch.cat([weight[g::groups].index_select(1, inputs) for g, inputs in enumerate(kept)])


def by_group(outputs: int, groups: int, device: torch.device | None = None) -> Tensor:
    """The outputs group by group: o belongs to group o mod G.

    >>> by_group(6, 3).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return torch.arange(outputs, device=device).view(-1, groups).T.flatten()


def _indexed(net: nn.Module, path: str, channels: int) -> None:
    layer: Any = net.get_submodule(path)
    if isinstance(layer, _BatchNorm):
        inputs = layer.num_features
    elif isinstance(layer, nn.Linear):
        inputs = layer.in_features
    else:
        raise TypeError(f"expected a batch norm or a linear layer, got {type(layer).__name__}")
    _within("channels", channels, inputs)
    numbers = (channels,) if isinstance(layer, _BatchNorm) else (channels, layer.out_features)
    CUTS["norm" if isinstance(layer, _BatchNorm) else "linear"](net, path, *numbers)
    own: Any = layer.running_mean if isinstance(layer, _BatchNorm) else layer.weight
    _stand(net, path, layer, index=_index(channels, inputs, own), layer=layer)


def _condensed(net: nn.Module, path: str, groups: int, inputs: int) -> None:
    layer, made = _divided(net, path, groups, inputs)
    index = _index(groups * inputs, layer.in_channels, layer.weight)
    _stand(net, path, layer, index=index, layer=made, interleave=Interleave(groups))


def _regrouped(net: nn.Module, path: str, groups: int, inputs: int) -> None:
    layer, made = _divided(net, path, groups, inputs)
    _stand(net, path, layer, layer=made, interleave=Interleave(groups))


def _divided(net: nn.Module, path: str, groups: int, inputs: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The convolution at a path, and one in groups with its numbers."""
    layer = _plain(net, path)
    if layer.kernel_size != (1, 1):
        raise TypeError(f"expected 1 x 1 filters, got {' x '.join(map(str, layer.kernel_size))}")
    _within("groups", groups, layer.out_channels)
    _within("inputs per group", inputs, layer.in_channels)
    if layer.out_channels % groups:
        raise TypeError(f"{layer.out_channels} outputs do not make {groups} groups")
    return layer, _conv(layer, groups * inputs, layer.out_channels, groups, bias=layer.bias is not None)


def _kernel_sums(net: nn.Module, path: str, kernels: int) -> None:
    layer = _plain(net, path)
    _within("kernels", kernels, layer.in_channels * layer.out_channels)
    weight = layer.weight
    made = KernelSums(layer.in_channels, layer.out_channels, 1, bias=layer.bias is not None)
    made.index = _index(kernels, layer.in_channels, weight)
    made.conv = _conv(layer, kernels, kernels, kernels, bias=False)
    made.register_buffer("outputs", torch.arange(kernels, device=weight.device) * layer.out_channels // kernels)
    if made.bias is not None:
        made.bias = nn.Parameter(weight.new_zeros(layer.out_channels), requires_grad=weight.requires_grad)
    net.set_submodule(path, made.train(layer.training))


def _plain(net: nn.Module, path: str) -> nn.Conv2d:
    layer = net.get_submodule(path)
    if type(layer) is not nn.Conv2d or layer.groups != 1:
        raise TypeError(f"expected a plain convolution without groups, got {layer}")
    return layer


def _within(what: str, count: int, most: int) -> None:
    if type(count) is not int or not 1 <= count <= most:
        raise TypeError(f"expected 1 to {most} {what}, got {count!r}")


def _index(count: int, inputs: int, like: Tensor) -> Index:
    return Index([i % inputs for i in range(count)]).to(like.device)


def _conv(layer: nn.Conv2d, inputs: int, outputs: int, groups: int, *, bias: bool) -> nn.Conv2d:
    """A convolution with a layer's filters, stride and padding, and weights of zero; draws nothing."""
    numbers: Any = (layer.stride, layer.padding, layer.dilation, groups, bias, layer.padding_mode)
    with torch.device("meta"):
        made = nn.Conv2d(inputs, outputs, layer.kernel_size, *numbers).to(layer.weight.dtype)  # type: ignore[arg-type]
    made = made.to_empty(device=layer.weight.device)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made.requires_grad_(layer.weight.requires_grad)


def _stand(net: nn.Module, path: str, before: nn.Module, **parts: nn.Module) -> None:
    """Put layers, one after another, where one stood."""
    chain = nn.Sequential(OrderedDict(parts))
    for module in _fresh(chain, before):
        module.training = before.training
    net.set_submodule(path, chain)


def _fresh(chain: nn.Module, before: nn.Module) -> Iterable[nn.Module]:
    """All modules of a chain but those of the layer that stood there: these keep their flags."""
    old = set(map(id, before.modules()))
    return (module for module in chain.modules() if id(module) not in old)


EDITS: Mapping[str, Callable[..., None]] = {
    "indexed": _indexed,
    "condensed": _condensed,
    "regrouped": _regrouped,
    "kernel_sums": _kernel_sums,
}
