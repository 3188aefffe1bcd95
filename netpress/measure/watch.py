"""One forward pass, watched: which operations a network does, and which arrays it holds at the same time.

The pass runs on the `meta` device (shapes without values: no arithmetic, no memory, nothing touched); only a network
that looks at values, which meta has not, is run for real on a zero image.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from netpress.errors import ModelError
from netpress.shadow import array_key, array_reference, dense, shadows, smallest_side

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


def _filter_work(args: tuple[Any, ...], out: Tensor) -> int:
    """Each output entry sums over one filter; transposed, each input entry is spread over one filter."""
    x, weight, transposed = args[0], args[1], args[6]
    return int((x if transposed else out).numel() * (weight.numel() // weight.shape[0]))


def _elements(args: tuple[Any, ...], _out: Tensor) -> int:
    return int(args[0].numel())


def _pool_area(args: tuple[Any, ...], out: Tensor) -> int:
    sides = args[1] if isinstance(args[1], list | tuple) else [args[1]]
    return int(out.numel() * (math.prod(sides) if len(sides) == 2 else sides[0] ** 2))


def _entries(*positions: int) -> Callable[[tuple[Any, ...], Tensor], int]:
    return lambda args, _out: sum(args[i].numel() for i in positions if i < len(args) and args[i] is not None)


# What an operation counts, one image, in the tables of CondenseNet (Huang et al. 2018) and CondenseNeXt.
_CONDENSENET: dict[Any, Callable[[tuple[Any, ...], Tensor], int]] = {
    aten.convolution: _filter_work,
    aten.mm: _entries(1),
    aten.addmm: _entries(0, 2),
    aten.linear: _entries(1, 2),
    **dict.fromkeys((aten.relu, aten.relu_, aten.hardtanh, aten.hardtanh_), _elements),
    aten.avg_pool2d: _pool_area,
    **dict.fromkeys((aten._adaptive_avg_pool2d, aten.mean), _elements),
}


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every elementary operation of one pass; follows which arrays depend on the image."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack: list[str] = []  # paths of the modules being called, innermost last
        self.failed: str | None = None  # path of the innermost module that the last exception left
        self.out_shapes: dict[str, tuple[int, ...]] = {}  # in the order of the first call
        self.macs: dict[str, int] = defaultdict(int)
        self.floats: dict[str, int] = defaultdict(int)
        self.operations = 0  # by CondenseNet's convention
        self.time = 0  # elementary operations seen
        # One entry per array that depends on the image: [numbers, first, last operation that needs it]. The weak
        # reference keeps the key from being used again, and frees the array itself.
        self.lives: dict[int, list[int]] = {}
        self._keys: list[StorageWeakRef] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [life for t in dense((args, kwargs)) if (life := self.lives.get(array_key(t)))]
        if inputs:
            self.time += 1
            for life in inputs:
                life[2] = self.time
            outputs = dense(out)
            for position, tensor in enumerate(outputs):
                # Later outputs (indices of a max pool, saved statistics) exist only where something reads them.
                self.follow(tensor, last=self.time if position == 0 else 0)
            self._count(func.overloadpacket, args, outputs)
        return out

    def follow(self, tensor: Tensor, *, last: int) -> None:
        """Note an array that depends on the image; a view shares its base's entry."""
        mine = array_reference(tensor)
        if mine.cdata not in self.lives:
            self._keys.append(mine)
            numbers = tensor.untyped_storage().nbytes() // tensor.element_size()
            self.lives[mine.cdata] = [numbers, self.time, last]

    def _count(self, op: Any, args: tuple[Any, ...], outputs: list[Tensor]) -> None:
        if not outputs:
            return
        path, out = self.stack[-1] if self.stack else "", outputs[0]
        if op in _CONDENSENET and (op is not aten.mean or _is_pool(op, args)):
            self.operations += _CONDENSENET[op](args, out)
        if op is aten.convolution:
            self.macs[path] += _filter_work(args, out)
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


def watch(net: nn.Module, shape: tuple[int, ...]) -> Watch:
    """Run one zero image through the network: on meta if it can, else for real."""
    floats = [p for p in net.parameters() if p.is_floating_point()]
    dtype = floats[0].dtype if floats else torch.get_default_dtype()
    try:
        copies = shadows(net)
        image = torch.zeros(1, *shape, dtype=dtype, device="meta")
        return _pass(net, lambda x: functional_call(net, copies, (x,), tie_weights=False), image)
    except Exception:  # noqa: BLE001  whatever meta cannot do, the real pass below does or explains
        device = floats[0].device if floats else torch.get_default_device()
        return _pass_or_explain(net, torch.zeros(1, *shape, dtype=dtype, device=device))


def _pass(net: nn.Module, forward: Callable[[Tensor], object], image: Tensor, watch: Watch | None = None) -> Watch:
    watch = watch or Watch()
    watch.follow(image, last=0)
    with _following_modules(net, watch), watch:
        out = forward(image)
    for tensor in dense(out):
        if life := watch.lives.get(array_key(tensor)):
            life[2] = watch.time  # the result outlives the pass
    return watch


def _pass_or_explain(net: nn.Module, image: Tensor) -> Watch:
    watch = Watch()
    try:
        return _pass(net, net, image, watch)
    except Exception as error:
        path = watch.failed or ""
        where = f"{path} {net.get_submodule(path)!r}" if path else type(net).__name__
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"cost: an image of shape {tuple(image.shape[1:])} does not pass {_one_line(where)}: {reason[0]}; "
            f"{_advice(net, tuple(image.shape[1:]))}"
        ) from error


def _advice(net: nn.Module, shape: tuple[int, ...]) -> str:
    least = smallest_side(net, shape[0]) if len(shape) == 3 else None
    if least is not None and min(shape[1:]) < least:
        return f"the smallest image that it takes is {shape[0]}x{least}x{least}"
    return "give the shape the network was made for"


def _one_line(text: str, most: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


@contextmanager
def _following_modules(net: nn.Module, watch: Watch) -> Iterator[None]:
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


def _entering(watch: Watch, path: str) -> Callable[[nn.Module, Any], None]:
    def hook(_module: nn.Module, _args: Any) -> None:
        watch.stack.append(path)
        watch.failed = None
        watch.out_shapes.setdefault(path, ())

    return hook


def _leaving(watch: Watch, path: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _args: Any, out: Any) -> None:
        if watch.stack[-1:] == [path]:  # not so where somebody else's hook failed before ours
            watch.stack.pop()
        if out is None and watch.failed is None:
            watch.failed = path
        tensors = dense(out)
        if tensors:
            watch.out_shapes[path] = tuple(tensors[0].shape[1:])

    return hook
