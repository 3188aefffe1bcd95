"""Copies of a network in which every tensor is made anew by a function: on another device, in another type, smaller."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from netpress.graph.call import words

Convert = Callable[[str, Tensor], Tensor]

_HOOKS = words(
    "_forward_hooks _forward_pre_hooks _forward_hooks_with_kwargs _forward_pre_hooks_with_kwargs "
    "_forward_hooks_always_called _backward_hooks _backward_pre_hooks _state_dict_hooks _state_dict_pre_hooks "
    "_load_state_dict_pre_hooks _load_state_dict_post_hooks _non_persistent_buffers_set"
)


def tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a network holds, once, under its first name: parameters, buffers, then plain attributes."""
    seen: set[int] = set()
    for path, module in net.named_modules():
        prefix = f"{path}." if path else ""
        for held in (module._parameters, module._buffers, module.__dict__):
            for name, tensor in held.items():
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield prefix + name, tensor


def plain(net: nn.Module) -> set[str]:
    """Names of tensors that are neither parameters nor buffers."""
    return {
        (f"{path}." if path else "") + name
        for path, module in net.named_modules()
        for name, value in module.__dict__.items()
        if isinstance(value, Tensor)
    }


def duplicate(net: nn.Module, convert: Convert) -> nn.Module:
    """A copy of the network with converted tensors; what was shared is shared, hooks of others stay behind.

    Only hooks that PyTorch itself needs to compute a weight (masks, norms of weights) come along.

    Args:
        net: left untouched.
        convert: new tensor for a name and an old tensor; the old one is never copied.
    """
    memo: dict[int, Any] = {}
    for name, tensor in tensors(net):
        memo[id(tensor)] = convert(name, tensor)
    for module in net.modules():
        held = module.__dict__
        for name in _HOOKS:
            if name in held:
                memo[id(held[name])] = _own(held[name])
    return copy.deepcopy(net, memo)


def _own(hooks: Any) -> Any:
    """A container of the same kind with the hooks that PyTorch itself put there."""
    if isinstance(hooks, set):
        return set(hooks)
    if not hooks:
        return OrderedDict()
    kept = OrderedDict()
    for key, hook in hooks.items():
        where = getattr(type(hook), "__module__", "")
        if where.startswith("torch.nn.utils"):
            kept[key] = hook
    return kept
