"""Which batch norms do nothing but scale and shift the output of one layer: found by running the network, not by names.

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
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from netpress.errors import ModelError
from netpress.methods.targets import CONVOLUTIONS
from netpress.shadow import array_key, array_reference, dense, observing, shadows


@dataclass(frozen=True, slots=True)
class Pair:
    """A layer and the batch norm behind it. A norm that the network holds under several names has several paths."""

    layer: str
    norms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Pairs that can be folded, in the network's order, and the norms that cannot: path -> why."""

    pairs: tuple[Pair, ...]
    stay: Mapping[str, str]


def norm_pairs(net: nn.Module, shape: tuple[int, ...]) -> Found:
    """Find all batch norms, and the layers that they can be folded into.

    Args:
        net: left untouched.
        shape: of one image (C, H, W).

    Raises:
        ModelError: an image of this shape does not pass.

    >>> norm_pairs(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2)), (1, 8, 8))
    Found(pairs=(Pair(layer='0', norms=('1',)),), stay={'3': 'no convolution or linear layer comes directly before it'})
    """
    norms = [(path, module) for path, module in net.named_modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return Found((), {})
    seen = _watch(net, shape)
    pairs, stay = [], {}
    for path, norm in norms:
        answer = _layer(net, norm, seen)
        if answer.path is None:
            stay[path] = answer.reason
        else:
            names = tuple(n for n, m in net.named_modules(remove_duplicate=False) if m is norm)
            pairs.append(Pair(answer.path, names))
    return Found(tuple(pairs), stay)


COMPUTED = "the weights of the layer before it are computed, or shared by several layers"


class _Answer(NamedTuple):
    path: str | None
    reason: str = ""


def _layer(net: nn.Module, norm: _BatchNorm, seen: _Uses) -> _Answer:
    """The layer that a norm can be folded into, or why there is none."""
    if norm.running_mean is None or norm.running_var is None:
        return _Answer(None, "it has no running statistics")
    if not _only_norm(norm):
        return _Answer(None, f"{type(norm).__name__} may do more than normalise")
    calls = seen.readers_of(norm.running_mean)
    if len(calls) != 1:
        reason = "it is called more than once" if calls else "it is not called in evaluation mode"
        return _Answer(None, reason)
    x = calls[0].inputs[0] if "batch_norm" in calls[0].name else None
    made = seen.makers.get(x.key) if x is not None else None
    if x is None or made is None or made.out != x or made.name not in _PRODUCTS:
        return _Answer(None, "no convolution or linear layer comes directly before it")
    return _owner(net, made, seen)


def _owner(net: nn.Module, made: _Call, seen: _Uses) -> _Answer:
    """The module whose weights a product uses, if it uses them alone, as they are, and for this norm only."""
    product = _PRODUCTS[made.name]
    weight, bias = made.input(product.weight), made.input(product.bias)
    names = seen.names.get(weight.key, []) if weight is not None else []
    path, _, leaf = names[0].rpartition(".") if names else ("", "", "")
    layer = net.get_submodule(path)
    if weight is None or len(names) != 1 or leaf != "weight" or not isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        return _Answer(None, COMPUTED)
    own_bias = [] if layer.bias is None else [f"{path}.bias" if path else "bias"]
    if weight != _view(seen.tensors[names[0]], transposed=product.transposed):
        return _Answer(None, COMPUTED)
    if own_bias != ([] if bias is None else seen.names.get(bias.key)):
        return _Answer(None, f"{path} does not add a bias of its own")
    if len(seen.readers[weight.key]) > 1:
        return _Answer(None, f"{path} is called more than once")
    if len(seen.readers[made.out.key]) > 1 or made.out.key in seen.results:
        return _Answer(None, f"the output of {path} is used elsewhere too")
    return _Answer(path)


def _only_norm(norm: _BatchNorm) -> bool:
    """Whether a norm's class is known to scale and shift, and then at most to call its children one after another."""
    children = [name for name, _ in norm.named_children()]
    if type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return not children
    return children == ["drop", "act"]  # timm's BatchNormAct2d: normalise, dropout, activation


# --- the pass ---


class _Product(NamedTuple):
    """Positions of weight and bias among the arguments, and whether the weight comes with its axes swapped."""

    weight: int
    bias: int
    transposed: bool


_PRODUCTS = {
    "convolution": _Product(1, 2, transposed=False),
    "linear": _Product(1, 2, transposed=False),
    "addmm": _Product(2, 0, transposed=True),
    "mm": _Product(1, 2, transposed=True),
}


class _View(NamedTuple):
    """What part of which storage a tensor shows."""

    key: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Call(NamedTuple):
    """One elementary operation; arguments that are no tensors are None."""

    name: str
    inputs: tuple[_View | None, ...]
    out: _View

    def input(self, position: int) -> _View | None:
        return self.inputs[position] if position < len(self.inputs) else None


def _view(tensor: Tensor, *, transposed: bool = False) -> _View:
    turn = slice(None, None, -1 if transposed else 1)
    return _View(array_key(tensor), int(tensor.storage_offset()), tuple(tensor.shape)[turn], tensor.stride()[turn])


@dataclass(slots=True)
class _Uses:
    """Which operation made a tensor, and which ones read it.

    Attributes:
        tensors: the network's tensors in this pass, by name; a module that has several names is named once.
        names: of the tensors in a storage.
        makers, readers: by storage; taking a view is no reading.
        results: storages of what the network returned.
    """

    tensors: Mapping[str, Tensor]
    own: Mapping[int, str]
    names: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    makers: dict[int, _Call] = field(default_factory=dict)
    readers: dict[int, list[_Call]] = field(default_factory=lambda: defaultdict(list))
    results: frozenset[int] = frozenset()

    def readers_of(self, tensor: Tensor) -> list[_Call]:
        """Operations that read a tensor of the network."""
        return self.readers[array_key(self.tensors[self.own[id(tensor)]])]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, uses: _Uses) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses = uses
        self.kept: list[StorageWeakRef] = []  # keep keys from being used again; the arrays themselves are freed

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        read = {array_key(t) for t in dense((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        outputs = dense(out)
        inputs = tuple(_view(a) if isinstance(a, Tensor) and a.layout is torch.strided else None for a in args)
        if not outputs or (array_key(outputs[0]) in read and not func._schema.is_mutable):
            return out  # nothing dense, or a view
        call = _Call(func.overloadpacket.__name__, inputs, _view(outputs[0]))
        for key in read:
            self.uses.readers[key].append(call)
        for tensor in outputs:
            self.kept.append(array_reference(tensor))
            self.uses.makers.setdefault(array_key(tensor), call)
        return out


def _watch(net: nn.Module, shape: tuple[int, ...]) -> _Uses:
    """Run one zero image through the network: on meta if it can, else for real."""
    real = dict(_tensors(net))
    own = {id(tensor): name for name, tensor in real.items()}
    dtype = next((t.dtype for t in real.values() if t.is_floating_point()), torch.get_default_dtype())
    try:
        return _pass(net, _Uses({**real, **shadows(net)}, own), torch.zeros(1, *shape, dtype=dtype, device="meta"))
    except Exception:  # noqa: BLE001  whatever meta cannot do, the real pass below does or explains
        device = next((t.device for t in real.values()), torch.get_default_device())
        try:
            return _pass(net, _Uses(real, own), torch.zeros(1, *shape, dtype=dtype, device=device))
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(
                f"fold_batch_norm: an image of shape {shape} does not pass {type(net).__name__}: {reason}; "
                "give the shape that the network was made for"
            ) from error


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in net.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            yield f"{path}.{name}" if path else name, tensor


def _pass(net: nn.Module, uses: _Uses, image: Tensor) -> _Uses:
    for name, tensor in uses.tensors.items():
        uses.names[array_key(tensor)].append(name)
    with observing(net), _Watch(uses):
        out = functional_call(net, dict(uses.tensors), (image,), tie_weights=False)
    uses.results = frozenset(array_key(tensor) for tensor in dense(out))
    return uses
