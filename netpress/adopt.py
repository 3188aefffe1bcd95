"""Take over networks that were pruned with `torch.nn.utils.prune`: their masks become forms."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from netpress.errors import ModelError
from netpress.forms import Form

_ORIGINAL, _MASK = "_orig", "_mask"


def masked(net: nn.Module) -> str | None:
    """Name of the first tensor that has a mask of `torch.nn.utils.prune`; None where there is none.

    >>> from torch.nn.utils import prune
    >>> masked(nn.Sequential(prune.l1_unstructured(nn.Linear(2, 2), "weight", amount=1)))
    '0.weight'
    """
    return next((_full(path, leaf) for path, _, leaf in _masks(net)), None)


def adopt(net: nn.Module) -> tuple[nn.Module, dict[str, Form]]:
    """A plain network that computes what `net` computes, and its masks as forms.

        w = NAME_orig where NAME_mask, else +0.0

    Masks of every kind: of single weights, of whole filters (`ln_structured`), over several layers
    (`global_unstructured`), one on the other. A mask of ones says nothing and gives no form.

    Args:
        net: left untouched. Without masks it is returned itself.

    Returns:
        The network, a copy with the names that tensors had before pruning, and forms by these names.

    Raises:
        ModelError: a tensor has a mask that is missing, or of another shape.

    >>> from torch.nn.utils import prune
    >>> pruned = prune.l1_unstructured(nn.Linear(4, 2), "weight", amount=6)
    >>> net, forms = adopt(pruned)
    >>> [name for name, _ in net.named_parameters()], int(forms["weight"].support.sum())
    (['weight', 'bias'], 2)
    """
    if masked(net) is None:
        return net, {}
    # what the hooks computed last is no leaf and cannot be copied; it is computed from the mask below
    computed = [getattr(module, leaf, None) for _, module, leaf in _masks(net)]
    copy = deepcopy(net, {id(tensor): tensor.detach() for tensor in computed if isinstance(tensor, Tensor)})
    forms = {}
    for path, module, leaf in list(_masks(copy)):
        support = _take_over(module, leaf, _full(path, leaf))
        if not support.all():
            forms[_full(path, leaf)] = Form(support=support)
    return copy, forms


def _masks(net: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Path, module and name of every tensor that a pruning hook computes."""
    for path, module in net.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):
                yield path, module, hook._tensor_name


def _take_over(module: nn.Module, leaf: str, name: str) -> Tensor:
    """Make one tensor plain, in place; its mask."""
    original = module._parameters.pop(leaf + _ORIGINAL, None)
    mask = module._buffers.pop(leaf + _MASK, None)
    if original is None or mask is None or mask.shape != original.shape:
        expected = f"expected {leaf}{_ORIGINAL} and {leaf}{_MASK} of one shape, as torch.nn.utils.prune makes them"
        raise ModelError(f"{name} has a pruning hook, but not its tensors: {expected}")
    hooks = module._forward_pre_hooks
    for key in [k for k, h in hooks.items() if isinstance(h, BasePruningMethod) and h._tensor_name == leaf]:
        del hooks[key]
    module.__dict__.pop(leaf, None)
    support = mask != 0
    plain = torch.where(support, original.detach(), torch.zeros_like(original))
    # a new parameter: where the original is tied to another layer's, that layer goes without the mask
    module.register_parameter(leaf, nn.Parameter(plain, requires_grad=original.requires_grad))
    if set(module._parameters) == {"weight", "bias"}:  # the order that a fresh layer has
        module._parameters["bias"] = module._parameters.pop("bias")
    return support


def _full(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf
