"""The static cost of a network: parameters, multiply-adds, activation memory, counted and not timed.

One forward pass of one image is watched at the level of torch's elementary operations, so functional calls count as
layers do.

Counted as multiply-adds: convolution (grouped, depthwise, transposed, 1-d to 3-d), linear, matrix products, attention.
Not counted: biases, activations, normalisation, pooling. An operation counts where it works on something that depends
on the image: decoding a parametrized weight is free, as it is done once, before the network is used.

`operations` is the second convention, that of the tables of CondenseNet and CondenseNeXt: multiply-adds of convolutions
without biases, weights and biases of linear layers, one per element that goes into a ReLU or ReLU6, kernel area per
element that leaves an average pool; nothing for normalisation, joins and max pools.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from netpress.errors import ModelError
from netpress.html_table import card
from netpress.measure.watch import Watch, watch
from netpress.shadow import observing


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The cost of one module, without its children.

    Args:
        path: the module's path in the network; "" is the network itself.
        kind: name of the module's class.
        params: entries of its own parameters; 0 where another layer owns them (tied).
        nonzero: entries of those that are not zero; None on the meta device, where weights have no values.
        macs: multiply-adds, one image, of all its calls.
        out_shape: shape of its (first) output without the batch axis; () where the pass never called it.
    """

    path: str
    kind: str
    params: int
    nonzero: int | None
    macs: int
    out_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The static cost of a network for one image; the layers' params, nonzero and macs add up to the totals.

    Args:
        params: entries of all parameters, frozen ones included, buffers not, tied ones once; a parametrized or
            masked tensor counts by the tensor the layer computes with.
        nonzero: entries of those that are not zero; None on the meta device.
        macs: multiply-adds of convolutions, linear layers and matrix products.
        operations: by CondenseNet's convention, see above.
        activation_floats: numbers in the input and in the output of every convolution, linear layer, matrix
            product and pool (a mean or maximum over all pixels is a pool); activations, joins, normalisation and
            flatten are not counted again.
        peak_activation_floats: most numbers held at the same time, when each operation writes a new array
            (unless it works in place) and an array is freed after its last use.
        layers: modules that own parameters or did counted work, in the order of their first call; those that own
            parameters but were never called come last.
    """

    params: int
    nonzero: int | None
    macs: int
    operations: int
    activation_floats: int
    peak_activation_floats: int
    layers: tuple[LayerCost, ...]

    def _repr_html_(self) -> str:
        facts = {
            "parameters": self.params,
            "not zero": self.nonzero,
            "multiply-adds": self.macs,
            "operations": self.operations,
            "peak of activations": f"{4 * self.peak_activation_floats:,} bytes, one image, float32",
        }
        head = ["layer", "kind", "parameters", "not zero", "multiply-adds", "output"]
        rows = [
            [row.path or "(itself)", row.kind, row.params, row.nonzero, row.macs, row.out_shape or None]
            for row in self.layers
        ]
        return card("Cost of one image", facts, head, rows)


def cost(net: nn.Module, shape: Sequence[int]) -> Cost:
    """Count what one image costs a network, in evaluation mode.

    Args:
        net: any network that takes one float tensor; neither its tensors nor its training flags are changed.
        shape: one image without the batch axis, usually (channels, height, width).

    Returns:
        Totals and one line per layer.

    Raises:
        ModelError: the shape is no list of positive integers, or the network does not take such an image.

    Differs from common FLOP counters: one multiply-add counts 1 (Han et al. 2015 count 2), biases are free.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(64, 10))
    >>> cost(net, (1, 6, 6)).macs == 9 * 4 * 16 + 640
    True
    >>> [(layer.kind, layer.params) for layer in cost(net, (1, 6, 6)).layers]
    [('Conv2d', 40), ('Linear', 650)]
    """
    if not shape or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ModelError(f"cost: the image's shape must be positive integers without the batch axis, got {shape!r}")
    with observing(net):
        owned = _owned_tensors(net)
        seen = watch(net, tuple(shape))
    layers = _layers(net, seen, owned)
    return Cost(
        params=sum(layer.params for layer in layers),
        nonzero=_sum(layer.nonzero for layer in layers),
        macs=sum(layer.macs for layer in layers),
        operations=seen.operations,
        activation_floats=math.prod(shape) + sum(seen.floats.values()),
        peak_activation_floats=seen.peak(),
        layers=layers,
    )


def _owned_tensors(net: nn.Module) -> dict[str, list[Tensor]]:
    """Per module path its parameters as the layer computes with them; a tied tensor belongs to its first owner."""
    seen: set[int] = set()
    owned: dict[str, list[Tensor]] = {}
    for path, module in net.named_modules():
        if "parametrizations" in path.split("."):
            continue  # counted at the module whose tensor they decode
        for identity, tensor in _own_tensors(module):
            if identity not in seen:
                seen.add(identity)
                owned.setdefault(path, []).append(tensor)
    return owned


def _own_tensors(module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    buffers = dict(module.named_buffers(recurse=False))
    for name, parameter in module.named_parameters(recurse=False):
        if is_lazy(parameter):
            raise ModelError(
                f"cost: {type(module).__name__} has no {name} yet; call the network once on an image first"
            )
        mask = buffers.get(f"{name.removesuffix('_orig')}_mask") if name.endswith("_orig") else None
        # torch.nn.utils.prune keeps the dense tensor as NAME_orig and multiplies by NAME_mask at each call.
        yield id(parameter), parameter if mask is None else parameter * mask
    if parametrize.is_parametrized(module):
        for name, chain in cast("nn.ModuleDict", module.parametrizations).items():
            original = next(chain.parameters(recurse=False), None)
            if original is not None:  # else it is a buffer
                yield id(original), getattr(module, name)


def _sum(counts: Iterator[int | None]) -> int | None:
    """Sum, or None where one is not known."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _layers(net: nn.Module, seen: Watch, owned: Mapping[str, list[Tensor]]) -> tuple[LayerCost, ...]:
    called = [path for path in seen.out_shapes if path in owned or path in seen.floats]
    uncalled = [path for path in owned if path not in seen.out_shapes]
    return tuple(
        LayerCost(
            path=path,
            kind=parametrize.type_before_parametrizations(net.get_submodule(path)).__name__,
            params=sum(tensor.numel() for tensor in owned.get(path, [])),
            nonzero=_sum(
                None if tensor.is_meta else int(torch.count_nonzero(tensor)) for tensor in owned.get(path, [])
            ),
            macs=seen.macs.get(path, 0),
            out_shape=seen.out_shapes.get(path, ()),
        )
        for path in called + uncalled
    )
