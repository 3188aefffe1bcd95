"""Which operation made a tensor, and which ones read it: found by running the network once, not by names.

The pass runs on the `meta` device (shapes without values); a network that looks at values is run for real on a zero
image. Tensors are followed by their storage; a view counts as the tensor that it looks into.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from netpress.errors import ModelError
from netpress.methods.targets import CONVOLUTIONS
from netpress.shadow import array_key, array_reference, dense, observing, shadows


class Product(NamedTuple):
    """Positions of input, weight and bias among the arguments, and whether the weight comes with its axes swapped."""

    x: int
    weight: int
    bias: int
    transposed: bool


PRODUCTS = {
    "convolution": Product(0, 1, 2, transposed=False),
    "linear": Product(0, 1, 2, transposed=False),
    "addmm": Product(1, 2, 0, transposed=True),
    "mm": Product(0, 1, 2, transposed=True),
}


class View(NamedTuple):
    """What part of which storage a tensor shows."""

    key: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Call(NamedTuple):
    """One elementary operation; `inputs` are None where an argument is no tensor, `plain` where it is one.

    A list of tensors is among `plain` as a tuple of views.
    """

    name: str
    inputs: tuple[View | None, ...]
    plain: tuple[Any, ...]
    out: View

    def input(self, position: int) -> View | None:
        """What the tensor at a position shows, or None."""
        return self.inputs[position] if position < len(self.inputs) else None


class Owner(NamedTuple):
    """The path of a layer, or None and why no layer is one."""

    path: str | None
    reason: str = ""


@dataclass(slots=True)
class Uses:
    """Which operation made a tensor, and which ones read it.

    Attributes:
        tensors: the network's tensors in this pass, by name; a module that has several names is named once.
        own: their names, by the identity of the real tensor.
        names: of the tensors in a storage.
        makers, readers: by storage, readers in order; taking a view is no reading, changing in place is.
        results: storages of what the network returned.
    """

    tensors: Mapping[str, Tensor]
    own: Mapping[int, str]
    names: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    makers: dict[int, Call] = field(default_factory=dict)
    readers: dict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))
    results: frozenset[int] = frozenset()

    def readers_of(self, tensor: Tensor) -> list[Call]:
        """Operations that read a tensor of the network."""
        return self.readers[array_key(self.tensors[self.own[id(tensor)]])]


def owner(net: nn.Module, made: Call, uses: Uses, *, which: str) -> Owner:
    """The convolution or linear layer whose weights a product uses, if it uses them once, alone, and as they are.

    Args:
        net: the network that `uses` was found in.
        made: an operation whose name is among `PRODUCTS`.
        uses: of the pass.
        which: what a reason calls the weights.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    >>> uses = watch(net, (1, 8, 8), method="example")
    >>> owner(net, uses.readers_of(net[0].weight)[0], uses, which="its weights")
    Owner(path='0', reason='')
    """
    product = PRODUCTS[made.name]
    weight, bias = made.input(product.weight), made.input(product.bias)
    names = uses.names.get(weight.key, []) if weight is not None else []
    path, _, leaf = names[0].rpartition(".") if names else ("", "", "")
    layer = net.get_submodule(path)
    computed = Owner(None, f"{which} are computed, or shared by several layers")
    if weight is None or len(names) != 1 or leaf != "weight" or not isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        return computed
    own_bias = [] if layer.bias is None else [f"{path}.bias" if path else "bias"]
    if weight != _view(uses.tensors[names[0]], transposed=product.transposed):
        return computed
    if own_bias != ([] if bias is None else uses.names.get(bias.key)):
        return Owner(None, f"{path} does not add a bias of its own")
    if len(uses.readers[weight.key]) > 1:
        return Owner(None, f"{path} is called more than once")
    return Owner(path)


# --- the pass ---


def watch(net: nn.Module, shape: tuple[int, ...], *, method: str) -> Uses:
    """Run one zero image through the network: on meta if it can, else for real.

    Args:
        net: left untouched.
        shape: of one image (C, H, W).
        method: what an error says was tried.

    Raises:
        ModelError: an image of this shape does not pass.

    >>> [call.name for calls in watch(nn.Linear(3, 2), (3,), method="example").readers.values() for call in calls][:1]
    ['addmm']
    """
    real = dict(_tensors(net))
    own = {id(tensor): name for name, tensor in real.items()}
    dtype = next((t.dtype for t in real.values() if t.is_floating_point()), torch.get_default_dtype())
    try:
        return _pass(net, Uses({**real, **shadows(net)}, own), torch.zeros(1, *shape, dtype=dtype, device="meta"))
    except Exception:  # noqa: BLE001  whatever meta cannot do, the real pass below does or explains
        device = next((t.device for t in real.values()), torch.get_default_device())
        try:
            return _pass(net, Uses(real, own), torch.zeros(1, *shape, dtype=dtype, device=device))
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(
                f"{method}: an image of shape {shape} does not pass {type(net).__name__}: {reason}; "
                "give the shape that the network was made for"
            ) from error


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in net.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            yield f"{path}.{name}" if path else name, tensor


def _pass(net: nn.Module, uses: Uses, image: Tensor) -> Uses:
    for name, tensor in uses.tensors.items():
        uses.names[array_key(tensor)].append(name)
    with observing(net), _Watch(uses):
        out = functional_call(net, dict(uses.tensors), (image,), tie_weights=False)
    uses.results = frozenset(array_key(tensor) for tensor in dense(out))
    return uses


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, uses: Uses) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses = uses
        self.kept: list[StorageWeakRef] = []  # keep keys from being used again; the arrays themselves are freed

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        read = {array_key(t) for t in dense((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        outputs = dense(out)
        if not outputs or (array_key(outputs[0]) in read and not func._schema.is_mutable):
            return out  # nothing dense, or a view
        inputs = tuple(_view(a) if isinstance(a, Tensor) and a.layout is torch.strided else None for a in args)
        plain = tuple(_plain(a) for a in args)
        call = Call(func.overloadpacket.__name__, inputs, plain, _view(outputs[0]))
        for key in read:
            self.uses.readers[key].append(call)
        for tensor in outputs:
            self.kept.append(array_reference(tensor))
            self.uses.makers.setdefault(array_key(tensor), call)
        return out


def _plain(argument: Any) -> Any:
    """An argument without its tensors, of which none is kept alive."""
    if isinstance(argument, list | tuple) and argument and all(isinstance(t, Tensor) for t in argument):
        return tuple(_view(t) if t.layout is torch.strided else None for t in argument)
    return None if dense(argument) else argument


def _view(tensor: Tensor, *, transposed: bool = False) -> View:
    turn = slice(None, None, -1 if transposed else 1)
    return View(array_key(tensor), int(tensor.storage_offset()), tuple(tensor.shape)[turn], tensor.stride()[turn])
