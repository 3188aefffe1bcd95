"""Make the forms hold while anybody's loop trains the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netpress.candidate import Candidate
from netpress.errors import ModelError
from netpress.forms import Form, Free, Shared, encode, gather, project


class Bound(nn.Module):
    """The one parametrization of a formed tensor: what is trained -> the weight.

    The form's tensors are buffers that no state dict holds, so that they follow the network to its device.
    """

    def __init__(self, form: Form, shape: torch.Size, order: tuple[str, ...]) -> None:
        super().__init__()
        self.form, self.shape, self.order = form, shape, order
        self.register_buffer("support", form.support, persistent=False)
        index = form.values.index if isinstance(form.values, Shared) else None
        # found once: looking for the non-zero places in every forward pass costs more than the layer
        self.register_buffer("positions", form.positions() if index is not None else None, persistent=False)
        self.register_buffer("index", index, persistent=False)
        self.support: Tensor | None
        self.positions: Tensor | None
        self.index: Tensor | None

    def forward(self, params: Tensor) -> Tensor:
        """The weight; same as `forms.decode`."""
        if self.index is not None:
            return gather(params, self.index, self.positions, self.shape)
        if self.support is None:
            return params
        return torch.where(self.support, params, torch.zeros_like(params))

    def right_inverse(self, w: Tensor) -> Tensor:
        """What is trained; same as `forms.encode`."""
        return encode(self.form, w)


def owner(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the parameter `name`, and the parameter's name in it.

    >>> owner(nn.Sequential(nn.Linear(2, 2)), "0.weight")[1]
    'weight'
    """
    path, _, leaf = name.rpartition(".")
    return net.get_submodule(path), leaf


def parametrized(net: nn.Module) -> str | None:
    """Name of the first tensor that has a parametrization, ours or another; None where there is none.

    >>> parametrized(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    'weight'
    """
    for path, module in net.named_modules():
        if parametrize.is_parametrized(module):
            leaf = next(name for name, _ in module.parametrizations.named_children())
            return f"{path}.{leaf}" if path else leaf
    return None


def bind(net: nn.Module, forms: Mapping[str, Form]) -> None:
    """Install the forms in place, before an optimizer is made. `unbind` takes them out again.

    Raises:
        ModelError: a formed tensor is shared by several modules (tied), or already has a parametrization; the network
            is left as it was.
    """
    owners: dict[int, list[str]] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    orders = {}
    for name in forms:
        module, leaf = owner(net, name)
        if parametrize.is_parametrized(module, leaf):
            raise ModelError(f"{name} already has a parametrization: remove it before compressing")
        tied = owners[id(getattr(module, leaf))]
        if len(tied) > 1:
            raise ModelError(f"{name} is one tensor with {', '.join(n for n in tied if n != name)}: tied weights")
        orders[name] = tuple(module._parameters)
    for name, form in forms.items():
        module, leaf = owner(net, name)
        parametrize.register_parametrization(module, leaf, Bound(form, getattr(module, leaf).shape, orders[name]))


def unbind(net: nn.Module, forms: Mapping[str, Form]) -> None:
    """Take the forms out in place: plain parameters again, under their old names, in their old order."""
    for name in forms:
        module, leaf = owner(net, name)
        order = module.parametrizations[leaf][0].order  # type: ignore[union-attr, index]
        _own_class(module)
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
        # removal puts the tensor behind its siblings; the order is part of deterministic files
        parameters = module._parameters
        for n in [n for n in order if n in parameters]:
            parameters[n] = parameters.pop(n)


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own: a deep copy shares it, and removal takes attributes off it."""
    shared = type(module)
    members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


@contextmanager
def bound(candidate: Candidate) -> Iterator[nn.Module]:
    """The candidate's network with its forms installed, to be trained by anybody's loop.

    The candidate's own network is what is trained: on leaving, its tensors hold their forms to the bit.

    >>> w = torch.tensor([[1.0, 0.0]])
    >>> net = nn.Linear(2, 1, bias=False); net.weight.data = w
    >>> with bound(Candidate(net, {"weight": Form(support=w != 0)})) as trainable:
    ...     for p in trainable.parameters(): p.data += 1
    >>> net.weight.data
    tensor([[2., 0.]])
    """
    bind(candidate.net, candidate.forms)
    try:
        yield candidate.net
    finally:
        unbind(candidate.net, candidate.forms)


def formed(net: nn.Module, forms: Mapping[str, Form]) -> nn.Module:
    """A copy of `net` whose formed tensors are projected onto their forms."""
    copy = deepcopy(net)
    with torch.no_grad():
        for name, form in forms.items():
            parameter = copy.get_parameter(name)
            parameter.copy_(project(form, parameter))
    return copy


def trained_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups of a bound network: decay acts on free weights of two or more axes, never on tables."""
    tables = {
        id(p)
        for m in net.modules()
        if isinstance(m, parametrize.ParametrizationList)
        for b in m
        if isinstance(b, Bound) and not isinstance(b.form.values, Free)
        for p in m.parameters(recurse=False)
    }
    trained = [p for p in net.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in tables]
    kept = {id(p) for p in decayed}
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in kept], "weight_decay": 0.0},
    ]
