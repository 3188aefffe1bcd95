"""Run a network to observe it: on shapes alone (torch's `meta` device: no arithmetic, no memory), left untouched."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves


def shadows(net: nn.Module) -> dict[str, Tensor]:
    """Return a meta tensor for each parameter and float buffer; indices and masks keep their values.

    Every module is named once: where one module sits at two paths, torch's own handling of ties would put back the
    shadow instead of the weight.
    """
    memo: dict[int, Tensor] = {}
    copies = {}
    for path, module in net.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if tensor.is_floating_point() or tensor.is_complex():
                shadow = memo.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))
                copies[f"{path}.{name}" if path else name] = shadow
    return copies


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own flag back, also those that were frozen.

    >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(net): net[0].training
    False
    >>> net[0].training, net[1].training
    (True, False)
    """
    flags = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def observing(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, attention written out in matrix products; all put back at the end."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with evaluating(net), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def dense(tree: object) -> list[Tensor]:
    """Return the dense tensors in nested arguments; sparse ones have no single array to follow."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout is torch.strided]


def array_reference(tensor: Tensor) -> StorageWeakRef:
    """A weak reference to the array behind a tensor; while it lives, nothing else gets that array's key."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def array_key(tensor: Tensor) -> int:
    """Identify the array behind a tensor: views of one array have the same key.

    >>> x = torch.zeros(4)
    >>> array_key(x) == array_key(x.view(2, 2)), array_key(x) == array_key(x.clone())
    (True, False)
    """
    return int(array_reference(tensor).cdata)


def takes(net: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether one image of a shape passes; never raises.

    >>> takes(nn.Conv2d(3, 4, 5), (3, 5, 5)), takes(nn.Conv2d(3, 4, 5), (3, 4, 4))
    (True, False)
    """
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.get_default_dtype())
    try:
        with observing(net):
            functional_call(net, shadows(net), (torch.zeros(1, *shape, dtype=dtype, device="meta"),), tie_weights=False)
    except Exception:  # noqa: BLE001  whatever stops a pass: the answer is no
        return False
    return True


def smallest_side(net: nn.Module, channels: int, *, most: int = 1024) -> int | None:
    """The least side of a square image that a network takes, or None where none up to `most` passes.

    Found by doubling and halving: a network that takes some size is taken to take larger ones as well. One that takes
    a single size only (a linear layer after a flatten) is found only if that is a power of two.

    >>> smallest_side(nn.Sequential(nn.Conv2d(3, 4, 7, stride=2), nn.MaxPool2d(3)), 3)
    11
    """
    high = 1
    while not takes(net, (channels, high, high)):
        high *= 2
        if high > most:
            return None
    low = high // 2  # does not pass, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(net, (channels, middle, middle)) else (middle, high)
    return high
