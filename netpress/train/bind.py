"""Make the forms hold while anybody's loop trains the network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netpress.candidate import Candidate
from netpress.codec.sides import MIN_STEP
from netpress.errors import ModelError
from netpress.forms import (
    Affine,
    Form,
    Free,
    Params,
    Shared,
    Signs,
    encode,
    gather,
    kept,
    on_grid,
    project,
    signed,
    step_share,
    with_step,
)
from netpress.rounding import grids


class Bound(nn.Module):
    """The one parametrization of a formed tensor: what is trained -> the weight.

    The form's tensors are buffers that no state dict holds, so that they follow the network to its device.

    Args:
        form: of the tensor.
        parameter: the tensor.
        order: names of the parameters beside it, in their order.
    """

    def __init__(self, form: Form, parameter: Tensor, order: tuple[str, ...]) -> None:
        super().__init__()
        self.form, self.shape, self.order = form, parameter.shape, order
        self.trained = parameter.requires_grad
        values = form.values
        self.register_buffer("support", form.support, persistent=False)
        index = values.index if isinstance(values, Shared) else None
        # found once: looking for the non-zero places in every forward pass costs more than the layer
        self.register_buffer("positions", form.positions() if index is not None else None, persistent=False)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("pattern", values.pattern if isinstance(values, Signs) else None, persistent=False)
        self.grid = values.grid if isinstance(values, Shared) else values if isinstance(values, Affine) else None
        self.register_buffer("step", None if self.grid is None else self.grid.step, persistent=False)
        self.register_buffer("share", step_share(form, parameter), persistent=False)
        self.support: Tensor | None
        self.positions: Tensor | None
        self.index: Tensor | None
        self.pattern: Tensor | None
        self.step: Tensor | None
        self.share: Tensor | None

    def forward(self, *params: Tensor) -> Tensor:
        """The weight; same as `forms.decode`."""
        floats = params[0]
        if self.pattern is not None:
            return signed(floats, self.pattern, self.support)
        if self.index is None:
            floats = kept(floats, self.support)
        if self.grid is not None:
            step = self.step if len(params) == 1 else params[1]
            assert step is not None
            assert self.share is not None
            floats = on_grid(floats, step, self.share, self.grid.levels)
        return floats if self.index is None else gather(floats, self.index, self.positions, self.shape)

    def right_inverse(self, w: Tensor) -> Params:
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
        parameter = getattr(module, leaf)
        parametrize.register_parametrization(module, leaf, Bound(form, parameter, orders[name]))
        trained = _trained(module, leaf)
        if not trained.is_tensor:  # the weights before rounding stay the object that they were
            parameter.data = trained.original0.data
            trained.original0 = parameter
        elif isinstance(form.values, Signs) and not form.values.trained:
            parameter.requires_grad_(requires_grad=False)


def unbind(net: nn.Module, forms: Mapping[str, Form]) -> dict[str, Form]:
    """Take the forms out in place: plain parameters again, under their old names, in their old order.

    Returns:
        The forms that the tensors hold now: `forms`, with the steps that were trained.

    Raises:
        ModelError: a step is NaN; the network is plain by then.
    """
    steps = {}
    for name in forms:
        module, leaf = owner(net, name)
        trained = _trained(module, leaf)
        installed = trained[0]
        assert isinstance(installed, Bound)
        _own_class(module)
        if not trained.is_tensor:
            steps[name] = trained.original1.detach().cpu().clone()
            _leave_one(module, leaf, trained.original0)
        else:
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
        module.get_parameter(leaf).requires_grad_(installed.trained)
        # removal puts the tensor behind its siblings; the order is part of deterministic files
        parameters = module._parameters
        for n in [n for n in installed.order if n in parameters]:
            parameters[n] = parameters.pop(n)
    if lost := [name for name, step in steps.items() if bool(step.isnan().any())]:
        raise ModelError(f"the step of {lost[0]} is NaN after training: try a lower lr")
    return {name: with_step(form, steps[name]) if name in steps else form for name, form in forms.items()}


def _trained(module: nn.Module, leaf: str) -> Any:
    """What torch keeps of a parametrized tensor: its one `original`, or `original0` and `original1`."""
    return module.parametrizations[leaf]  # type: ignore[index]


def _leave_one(module: nn.Module, leaf: str, parameter: nn.Parameter) -> None:
    """Remove a parametrization of two tensors: its result becomes `parameter`, which torch would replace."""
    with torch.no_grad():
        weight = getattr(module, leaf).clone()
    parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
    module._buffers.pop(leaf, None)  # where nothing was trained
    parameter.data = weight
    module._parameters[leaf] = parameter


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own: a deep copy shares it, and removal takes attributes off it."""
    shared = type(module)
    members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


@contextmanager
def bound(candidate: Candidate) -> Iterator[nn.Module]:
    """The candidate's network with its forms installed, to be trained by anybody's loop.

    The candidate's own network is what is trained: on leaving, its tensors hold their forms to the bit. Where a step
    was trained, this candidate's forms are replaced by those with the new step (the old ones stay as they are).

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
        # frozen, but its network changes here too, and the step of a grid belongs to both
        object.__setattr__(candidate, "forms", unbind(candidate.net, candidate.forms))


def formed(net: nn.Module, forms: Mapping[str, Form]) -> nn.Module:
    """A copy of `net` whose formed tensors are projected onto their forms."""
    copy = deepcopy(net)
    with torch.no_grad():
        for name, form in forms.items():
            parameter = copy.get_parameter(name)
            parameter.copy_(project(form, parameter))
    return copy


def trained_groups(net: nn.Module, weight_decay: float, *, power: int = 0) -> list[dict[str, object]]:
    """Parameter groups of a bound network: decay acts on weights of two or more axes, not on tables, scales, steps.

    Args:
        net: bound.
        weight_decay: of those.
        power: steps of grids come in groups of their own whose `factor` goes with the rate: their size to this power,
            brought to a power of two. 1 for optimizers that move every number by about the rate, whatever its
            gradient (Adam); 2 for those that follow the gradient (SGD): as if logarithms of steps were trained. With
            0 a step of 0.01 is gone, or grows without end, after a few updates at a usual rate.
    """
    tables = {
        id(p)
        for m in net.modules()
        if isinstance(m, parametrize.ParametrizationList) and isinstance(m[0], Bound)
        for p in _undecayed(m, m[0].form)
    }
    trained = [p for p in net.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in tables]
    sized: dict[float, list[Tensor]] = {}
    for p in grid_steps(net) if power else ():
        size = round(math.log2(max(p.detach().abs().mean().item(), MIN_STEP)))
        sized.setdefault(2.0 ** (power * size), []).append(p)
    kept = {id(p) for p in [*decayed, *itertools.chain(*sized.values())]}
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in kept], "weight_decay": 0.0},
        *({"params": held, "weight_decay": 0.0, "factor": factor} for factor, held in sorted(sized.items())),
    ]


def grid_steps(net: nn.Module) -> Iterator[Tensor]:
    """What training moves of grids: steps of weights, scales of activations."""
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], Bound):
            yield from (p for p in [*module.parameters(recurse=False)][1:] if p.requires_grad)
    yield from (grid.scale for grid in grids(net).values() if grid.scale.requires_grad)


def vanished(net: nn.Module, forms: Mapping[str, Form], *, before: Mapping[str, Form]) -> str | None:
    """What training pushed to nothing: a step of a tensor, or the scale of a rounded value; None where all is well.

    >>> vanished(nn.Linear(2, 2), {}, before={})
    """
    for name, form in forms.items():
        step, was = form.step, before[name].step
        if step is not None and was is not None and bool(((step <= MIN_STEP) & (was > MIN_STEP)).any()):
            return f"a step of {name}"
    return next((f"the scale of {at}" for at, grid in grids(net).items() if grid.scale.item() <= MIN_STEP), None)


def _undecayed(trained: parametrize.ParametrizationList, form: Form) -> list[Tensor]:
    tensors = list(trained.parameters(recurse=False))
    match form.values:
        case Free():
            return []
        case Affine():
            return [*tensors[1:]]
        case Shared() | Signs():
            return [*tensors]
