"""Structure edits: what a file says about a pruned network, and how a fresh network is cut to it. No values.

An edit is (operation, path, *numbers): `conv` in and out channels and groups of a layer, `linear` in and out features,
`norm` its channels, `crop` the shape of any other tensor, `take` (axis, positions...) of a buffer that state
dictionaries leave out, `size` and `sizes` numbers that a module holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Edit = tuple[Any, ...]


# --- numbers made true ---


def true_counts(net: nn.Module) -> None:
    """Make the numbers that PyTorch's own layers hold agree with the shapes of their tensors."""
    for module in net.modules():
        weight = getattr(module, "weight", None) if isinstance(module, _COUNTED) else None
        if isinstance(module, nn.modules.batchnorm._NormBase) and weight is None:
            weight = module.running_mean
        if isinstance(weight, Tensor):
            for kind, count in _COUNTS.items():
                if isinstance(module, kind):
                    count(module, weight)


def _count_conv(module: Any, weight: Tensor) -> None:
    first, second = weight.shape[:2]
    if module.transposed:
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        module.in_channels, module.out_channels = second * module.groups, first


def _count_linear(module: Any, weight: Tensor) -> None:
    module.out_features, module.in_features = weight.shape


def _count_norm(module: Any, weight: Tensor) -> None:
    module.num_features = weight.shape[0]


def _count_group_norm(module: Any, weight: Tensor) -> None:
    module.num_channels = weight.shape[0]


def _count_layer_norm(module: Any, weight: Tensor) -> None:
    module.normalized_shape = tuple(weight.shape)


def _count_prelu(module: Any, weight: Tensor) -> None:
    module.num_parameters = weight.shape[0]


_COUNTS: dict[Any, Callable[[Any, Tensor], None]] = {
    nn.modules.conv._ConvNd: _count_conv,
    nn.Linear: _count_linear,
    nn.modules.batchnorm._NormBase: _count_norm,
    nn.GroupNorm: _count_group_norm,
    nn.LayerNorm: _count_layer_norm,
    nn.RMSNorm: _count_layer_norm,
    nn.PReLU: _count_prelu,
}
_COUNTED = tuple(_COUNTS)


def set_number(net: nn.Module, name: str, numbers: tuple[int, ...], kind: str) -> None:
    """Set a whole number ("int") or several ("tuple", "list") that a module holds under `name`."""
    path, _, attribute = name.rpartition(".")
    module = net.get_submodule(path)
    before = vars(module).get(attribute)
    fits = type(before) is int if kind == "int" else isinstance(before, list | tuple) and len(before) == len(numbers)
    if not fits or attribute.startswith("_") or not all(type(n) is int and n > 0 for n in numbers):
        raise TypeError(f"{name} is {before!r} and cannot become {numbers}")
    values: Any = numbers[0] if kind == "int" else list(numbers) if isinstance(before, list) else tuple(numbers)
    setattr(module, attribute, values)


# --- edits applied: a fresh network is cut to shape ---


def _conv(net: nn.Module, path: str, inputs: int, outputs: int, groups: int) -> None:
    module = _of_kind(net, path, nn.modules.conv._ConvNd)
    _whole(inputs, outputs, groups)
    if inputs % groups or outputs % groups:
        raise TypeError(f"{inputs} inputs and {outputs} outputs do not make {groups} groups")
    first, second = (inputs, outputs // groups) if module.transposed else (outputs, inputs // groups)
    module.in_channels, module.out_channels, module.groups = inputs, outputs, groups
    _crop_own(net, path, weight=(first, second), bias=(outputs,))


def _linear(net: nn.Module, path: str, inputs: int, outputs: int) -> None:
    module = _of_kind(net, path, nn.Linear)
    _whole(inputs, outputs)
    module.in_features, module.out_features = inputs, outputs
    _crop_own(net, path, weight=(outputs, inputs), bias=(outputs,))


def _norm(net: nn.Module, path: str, channels: int) -> None:
    module = _of_kind(net, path, nn.modules.batchnorm._NormBase, nn.GroupNorm)
    _whole(channels)
    setattr(module, "num_channels" if isinstance(module, nn.GroupNorm) else "num_features", channels)
    _crop_own(net, path, weight=(channels,), bias=(channels,), running_mean=(channels,), running_var=(channels,))


def _whole(*numbers: int) -> None:
    if not all(type(n) is int and n > 0 for n in numbers):
        raise TypeError(f"expected whole numbers above zero, got {numbers}")


def _of_kind(net: nn.Module, path: str, *kinds: type[nn.Module]) -> Any:
    module = net.get_submodule(path)
    if not isinstance(module, kinds):
        raise TypeError(f"expected {' or '.join(k.__name__.strip('_') for k in kinds)}, got {type(module).__name__}")
    return module


def _crop_own(net: nn.Module, path: str, **shapes: tuple[int, ...]) -> None:
    module = net.get_submodule(path)
    for name, shape in shapes.items():
        tensor = module._parameters.get(name, module._buffers.get(name))
        if tensor is not None:
            _crop(net, f"{path}.{name}" if path else name, *shape, *tensor.shape[len(shape) :])


def _crop(net: nn.Module, name: str, *shape: int) -> None:
    old = _tensor(net, name)
    _whole(*shape)
    if len(shape) != old.dim() or not all(n <= have for n, have in zip(shape, old.shape, strict=True)):
        raise TypeError(f"{name} of shape {tuple(old.shape)} cannot be cut to {shape}")
    if tuple(shape) != tuple(old.shape):
        _replace(net, old, old.detach()[tuple(slice(n) for n in shape)].clone())


def _take(net: nn.Module, name: str, axis: int, *index: int) -> None:
    old = _tensor(net, name)
    whole = all(type(k) is int for k in (axis, *index))
    if not (whole and index and 0 <= axis < old.dim() and all(0 <= k < old.shape[axis] for k in index)):
        raise TypeError(f"{name} of shape {tuple(old.shape)} has no such positions on axis {axis}")
    _replace(net, old, old.detach().index_select(axis, torch.tensor(index, device=old.device)))


def _tensor(net: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    module = net.get_submodule(path)
    found = module._parameters.get(last, module._buffers.get(last))
    if found is None:
        raise AttributeError(f"no parameter or buffer {name}")
    return found


def _replace(net: nn.Module, old: Tensor, new: Tensor) -> None:
    """Put a tensor in the place of another, wherever it is used."""
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for module in net.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is old:
                    held[name] = new  # type: ignore[assignment]


def _number(net: nn.Module, name: str, number: int) -> None:
    set_number(net, name, (number,), "int")


def _numbers(net: nn.Module, name: str, *numbers: int) -> None:
    set_number(net, name, numbers, "tuple")


EDITS: dict[str, Callable[..., None]] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "crop": _crop,
    "take": _take,
    "size": _number,
    "sizes": _numbers,
}


# --- edits derived ---


def differences(
    net: nn.Module,
    small: nn.Module,
    taken: Mapping[str, Mapping[int, Sequence[int]]],
    held: Iterable[tuple[str, Numbers]],
) -> list[Edit]:
    """Edits that cut a network to the shape of a smaller one.

    Args:
        net: as built afresh.
        small: the pruned one.
        taken: per buffer that state dictionaries leave out the positions kept on each axis.
        held: other numbers that modules of `small` hold: name and values.
    """
    edits: list[Edit] = []
    covered: set[str] = set(taken)
    before = dict(net.named_modules())
    for path, module in small.named_modules():
        edit = _edit(path, before[path], module)
        edits += [edit] if edit else []
        if edit and edit[0] in ("conv", "linear", "norm"):
            covered |= {f"{path}.{name}" if path else name for name in _OWN}
    old = dict(_state(net))
    edits += [
        ("crop", name, *x.shape) for name, x in _state(small) if name not in covered and x.shape != old[name].shape
    ]
    for name, axes in taken.items():
        edits += [("take", name, axis, *index) for axis, index in axes.items()]
    for name, value in held:
        edits.append(("size", name, value) if isinstance(value, int) else ("sizes", name, *value))
    return edits


Numbers = int | tuple[int, ...]
_OWN = ("weight", "bias", "running_mean", "running_var")


def _state(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters()
    yield from net.named_buffers()


def _edit(path: str, old: Any, new: Any) -> Edit | None:
    """The edit of one layer, or None where it is as before."""
    if isinstance(new, nn.modules.conv._ConvNd):
        names = ("in_channels", "out_channels", "groups")
        kind = "conv"
    elif isinstance(new, nn.Linear):
        names, kind = ("in_features", "out_features"), "linear"  # type: ignore[assignment]
    elif isinstance(new, nn.GroupNorm):
        names, kind = ("num_channels",), "norm"  # type: ignore[assignment]
    elif isinstance(new, nn.modules.batchnorm._NormBase):
        names, kind = ("num_features",), "norm"  # type: ignore[assignment]
    elif isinstance(new, nn.PReLU):
        names, kind = ("num_parameters",), "size"  # type: ignore[assignment]
        path = f"{path}.num_parameters" if path else "num_parameters"
    else:
        return None
    numbers = [getattr(new, name) for name in names]
    return None if numbers == [getattr(old, name) for name in names] else (kind, path, *numbers)
