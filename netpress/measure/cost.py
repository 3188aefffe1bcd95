"""The static cost of a network: parameters, multiply-adds, activation memory, counted and not timed.

One forward pass of one image is watched at the level of torch's elementary operations, so functional calls count as
layers do. The pass runs on the `meta` device (shapes without values: no arithmetic, no memory, nothing touched); only
a network that looks at values, which meta has not, is run for real on a zero image.

Counted as multiply-adds: convolution (grouped, depthwise, transposed, 1-d to 3-d), linear, matrix products, attention.
Not counted: biases, activations, normalisation, pooling. An operation counts where it works on something that depends
on the image: decoding a parametrized weight is free, as it is done once, before the network is used.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from netpress.errors import ModelError

aten = torch.ops.aten

# Position of the left operand among an operation's arguments: its last axis is what each output sums over.
_PRODUCTS = {
    aten.mm: 0,
    aten.bmm: 0,
    aten.mv: 0,
    aten.dot: 0,
    aten.linear: 0,
    aten.addmm: 1,
    aten.addmv: 1,
    aten.addbmm: 1,
    aten.baddbmm: 1,
}


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The cost of one module, without its children.

    Args:
        path: the module's path in the network; "" is the network itself.
        kind: name of the module's class.
        params: entries of its own parameters; 0 where another layer owns them (tied).
        nonzero: entries of those that are not zero.
        macs: multiply-adds, one image, of all its calls.
        out_shape: shape of its (first) output without the batch axis; () where the pass never called it.
    """

    path: str
    kind: str
    params: int
    nonzero: int
    macs: int
    out_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The static cost of a network for one image; the layers' params, nonzero and macs add up to the totals.

    Args:
        params: entries of all parameters, frozen ones included, buffers not, tied ones once; a parametrized or
            masked tensor counts by the tensor the layer computes with.
        nonzero: entries of those that are not zero.
        macs: multiply-adds of convolutions, linear layers and matrix products.
        activation_floats: numbers in the input and in the output of every convolution, linear layer, matrix
            product and pool (a mean or maximum over all pixels is a pool); activations, joins, normalisation and
            flatten are not counted again.
        peak_activation_floats: most numbers held at the same time, when each operation writes a new array
            (unless it works in place) and an array is freed after its last use.
        layers: modules that own parameters or did counted work, in the order of their first call; those that own
            parameters but were never called come last.
    """

    params: int
    nonzero: int
    macs: int
    activation_floats: int
    peak_activation_floats: int
    layers: tuple[LayerCost, ...]


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
    with _evaluating(net):
        owned = _owned_tensors(net)
        watch = _watch(net, tuple(shape))
    layers = _layers(net, watch, owned)
    return Cost(
        params=sum(layer.params for layer in layers),
        nonzero=sum(layer.nonzero for layer in layers),
        macs=sum(layer.macs for layer in layers),
        activation_floats=math.prod(shape) + sum(watch.floats.values()),
        peak_activation_floats=watch.peak(),
        layers=layers,
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every elementary operation of one pass; follows which arrays depend on the image."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack: list[str] = []  # paths of the modules being called, innermost last
        self.failed: str | None = None  # path of the innermost module that the last exception left
        self.out_shapes: dict[str, tuple[int, ...]] = {}  # in the order of the first call
        self.macs: dict[str, int] = defaultdict(int)
        self.floats: dict[str, int] = defaultdict(int)
        self.time = 0  # operations seen
        # One entry per array that depends on the image: [numbers, first, last operation that needs it]. The weak
        # reference keeps the key from being used again, and frees the array itself.
        self.lives: dict[int, list[int]] = {}
        self._keys: list[StorageWeakRef] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [life for t in _tensors((args, kwargs)) if (life := self.lives.get(_key(t)))]
        if inputs:
            self.time += 1
            for life in inputs:
                life[2] = self.time
            outputs = _tensors(out)
            for position, tensor in enumerate(outputs):
                # Later outputs (indices of a max pool, saved statistics) exist only where something reads them.
                self.follow(tensor, last=self.time if position == 0 else 0)
            self._count(func.overloadpacket, args, outputs)
        return out

    def follow(self, tensor: Tensor, *, last: int) -> None:
        """Note an array that depends on the image; a view shares its base's entry."""
        reference = _reference(tensor)
        if reference.cdata not in self.lives:
            self._keys.append(reference)
            numbers = tensor.untyped_storage().nbytes() // tensor.element_size()
            self.lives[reference.cdata] = [numbers, self.time, last]

    def _count(self, op: Any, args: tuple[Any, ...], outputs: list[Tensor]) -> None:
        if not outputs:
            return
        path, out = self.stack[-1] if self.stack else "", outputs[0]
        if op is aten.convolution:
            x, weight, transposed = args[0], args[1], args[6]
            # Each output entry sums over one filter; transposed, each input entry is spread over one filter.
            self.macs[path] += (x if transposed else out).numel() * (weight.numel() // weight.shape[0])
        elif op in _PRODUCTS:
            self.macs[path] += out.numel() * args[_PRODUCTS[op]].shape[-1]
        elif not _is_pool(op, args):
            return
        self.floats[path] += out.numel()

    def peak(self) -> int:
        """Return the largest sum of arrays that are needed at one time."""
        changes: dict[int, int] = defaultdict(int)
        for numbers, first, last in self.lives.values():
            if last >= first:
                changes[first] += numbers
                changes[last + 1] -= numbers
        held, most = 0, 0
        for time in sorted(changes):
            held += changes[time]
            most = max(most, held)
        return most


def _is_pool(op: Any, args: tuple[Any, ...]) -> bool:
    """Pools by name; a mean or maximum over every axis after the channels is global pooling."""
    name = op.__name__
    if "pool" in name:
        return "unpool" not in name
    if op not in {aten.mean, aten.amax} or len(args) < 2 or not isinstance(args[1], list | tuple):
        return False
    rank = args[0].dim()
    return rank > 2 and {axis % rank for axis in args[1]} == set(range(2, rank))


def _tensors(tree: object) -> list[Tensor]:
    """Return the dense tensors in nested arguments (sparse ones have no single array to follow)."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout is torch.strided]


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _key(tensor: Tensor) -> int:
    """Identify the array behind a tensor: views of one array have the same key."""
    return int(_reference(tensor).cdata)


def _watch(net: nn.Module, shape: tuple[int, ...]) -> _Watch:
    """Run one zero image through the network: on meta if it can, else for real."""
    floats = [p for p in net.parameters() if p.is_floating_point()]
    dtype = floats[0].dtype if floats else torch.get_default_dtype()
    try:
        shadows = _shadows(net)
        image = torch.zeros(1, *shape, dtype=dtype, device="meta")
        return _pass(net, lambda x: functional_call(net, shadows, (x,), tie_weights=False), image)
    except Exception:  # noqa: BLE001  whatever meta cannot do, the real pass below does or explains
        device = floats[0].device if floats else torch.get_default_device()
        return _pass_or_explain(net, torch.zeros(1, *shape, dtype=dtype, device=device))


def _shadows(net: nn.Module) -> dict[str, Tensor]:
    """Return a meta tensor for each parameter and float buffer; indices and masks keep their values.

    Every module is named once: where one module sits at two paths, torch's own handling of ties would put back the
    shadow instead of the weight.
    """
    memo: dict[int, Tensor] = {}
    shadows = {}
    for path, module in net.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if tensor.is_floating_point() or tensor.is_complex():
                shadow = memo.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))
                shadows[f"{path}.{name}" if path else name] = shadow
    return shadows


def _pass(net: nn.Module, forward: Callable[[Tensor], object], image: Tensor, watch: _Watch | None = None) -> _Watch:
    watch = watch or _Watch()
    watch.follow(image, last=0)
    with _following_modules(net, watch), watch:
        out = forward(image)
    for tensor in _tensors(out):
        if life := watch.lives.get(_key(tensor)):
            life[2] = watch.time  # the result outlives the pass
    return watch


def _pass_or_explain(net: nn.Module, image: Tensor) -> _Watch:
    watch = _Watch()
    try:
        return _pass(net, net, image, watch)
    except Exception as error:
        path = watch.failed or ""
        where = f"{path} {net.get_submodule(path)!r}" if path else type(net).__name__
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"cost: an image of shape {tuple(image.shape[1:])} does not pass {_one_line(where)}: {reason[0]}; "
            "give the shape the network was made for"
        ) from error


def _one_line(text: str, most: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, attention written out in matrix products; all put back at the end."""
    flags = [(module, module.training) for module in net.modules()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        net.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module, flag in flags:
            module.training = flag


@contextmanager
def _following_modules(net: nn.Module, watch: _Watch) -> Iterator[None]:
    """Keep `watch.stack` at the path of the module being called; hooks are removed whatever happens."""
    handles = []
    try:
        for path, module in net.named_modules():
            handles.append(module.register_forward_pre_hook(_entering(watch, path)))
            handles.append(module.register_forward_hook(_leaving(watch, path), always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entering(watch: _Watch, path: str) -> Callable[[nn.Module, Any], None]:
    def hook(_module: nn.Module, _args: Any) -> None:
        watch.stack.append(path)
        watch.failed = None
        watch.out_shapes.setdefault(path, ())

    return hook


def _leaving(watch: _Watch, path: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _args: Any, out: Any) -> None:
        if watch.stack[-1:] == [path]:  # not so where somebody else's hook failed before ours
            watch.stack.pop()
        if out is None and watch.failed is None:
            watch.failed = path
        tensors = _tensors(out)
        if tensors:
            watch.out_shapes[path] = tuple(tensors[0].shape[1:])

    return hook


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


def _nonzero(path: str, tensor: Tensor) -> int:
    if tensor.is_meta:
        raise ModelError(f"cost: the weights of {path or 'the network'} are on the meta device: they have no values")
    return int(torch.count_nonzero(tensor))


def _layers(net: nn.Module, watch: _Watch, owned: Mapping[str, list[Tensor]]) -> tuple[LayerCost, ...]:
    called = [path for path in watch.out_shapes if path in owned or path in watch.floats]
    uncalled = [path for path in owned if path not in watch.out_shapes]
    return tuple(
        LayerCost(
            path=path,
            kind=parametrize.type_before_parametrizations(net.get_submodule(path)).__name__,
            params=sum(tensor.numel() for tensor in owned.get(path, [])),
            nonzero=sum(_nonzero(path, tensor) for tensor in owned.get(path, [])),
            macs=watch.macs.get(path, 0),
            out_shape=watch.out_shapes.get(path, ()),
        )
        for path in called + uncalled
    )
