"""Which batch norms only scale and shift the output of one layer: found by running the network, not by names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.methods.uses import PRODUCTS, Owner, Uses, owner, watch


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


def norm_pairs(net: nn.Module, shape: tuple[int, ...], *, method: str = "fold_batch_norm") -> Found:
    """Find all batch norms, and the layers that they can be folded into.

    Args:
        net: left untouched.
        shape: of one image (C, H, W).
        method: what an error says was tried.

    Raises:
        ModelError: an image of this shape does not pass.

    >>> norm_pairs(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2)), (1, 8, 8))
    Found(pairs=(Pair(layer='0', norms=('1',)),), stay={'3': 'no convolution or linear layer comes directly before it'})
    """
    norms = [(path, module) for path, module in net.named_modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return Found((), {})
    seen = watch(net, shape, method=method)
    pairs, stay = [], {}
    for path, norm in norms:
        answer = foldable(net, norm, seen)
        if answer.path is None:
            stay[path] = answer.reason
        else:
            names = tuple(n for n, m in net.named_modules(remove_duplicate=False) if m is norm)
            pairs.append(Pair(answer.path, names))
    return Found(tuple(pairs), stay)


def foldable(net: nn.Module, norm: _BatchNorm, seen: Uses) -> Owner:
    """The layer that a norm can be folded into, or why there is none.

    Args:
        net: the network that `seen` was found in.
        norm: one of its batch norms.
        seen: of the pass.
    """
    if norm.running_mean is None or norm.running_var is None:
        return Owner(None, "it has no running statistics")
    if not only_norm(norm):
        return Owner(None, f"{type(norm).__name__} may do more than normalise")
    calls = seen.readers_of(norm.running_mean)
    if len(calls) != 1:
        reason = "it is called more than once" if calls else "it is not called in evaluation mode"
        return Owner(None, reason)
    x = calls[0].inputs[0] if "batch_norm" in calls[0].name else None
    made = seen.makers.get(x.key) if x is not None else None
    if x is None or made is None or made.out != x or made.name not in PRODUCTS:
        return Owner(None, "no convolution or linear layer comes directly before it")
    layer = owner(net, made, seen, which="the weights of the layer before it")
    if layer.path is not None and (len(seen.readers[made.out.key]) > 1 or made.out.key in seen.results):
        return Owner(None, f"the output of {layer.path} is used elsewhere too")
    return layer


def only_norm(norm: _BatchNorm) -> bool:
    """Whether a norm's class is known to scale and shift, and then at most to call its children one after another."""
    children = [name for name, _ in norm.named_children()]
    if type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return not children
    return children == ["drop", "act"]  # timm's BatchNormAct2d: normalise, dropout, activation
