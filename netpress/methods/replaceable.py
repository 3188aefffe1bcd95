"""Which layers of a network can be replaced by others, and why not; in the order in which the network calls them.

A layer stands in a network once, is called once per image, and nothing else reads its weights: only then do other
layers in its place mean what was meant.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from netpress.candidate import Candidate
from netpress.errors import ModelError, RecipeError
from netpress.factor import refusal
from netpress.measure.cost import cost
from netpress.methods.targets import CONVOLUTIONS, check_patterns, targets
from netpress.shadow import array_key, dense, observing
from netpress.train.bind import parametrized
from netpress.train.checkpoint import finite

KINDS = (*CONVOLUTIONS, nn.Linear)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that a method was asked to replace.

    Attributes:
        path: of the module.
        operation: of `factor.structure`, what is to stand in its place.
        inputs: shape of what one image makes it see, with the batch axis; () where it is not called once.
        macs, params: of the layer, one image; its bias counts as parameters.
        reason: why it stays as it is; None where it can be replaced.
    """

    path: str
    operation: str
    inputs: tuple[int, ...]
    macs: int
    params: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which layers a method's settings name: `layers` and `frozen` hold paths or patterns with `*`, frozen wins."""

    method: str
    layers: tuple[str, ...] = ("*",)
    frozen: tuple[str, ...] = ()

    def check(self, net: nn.Module, operation: Callable[[nn.Module], str]) -> None:
        """Refuse what no data are needed for.

        Raises:
            RecipeError: a pattern names no layer, or a layer that is named by its path cannot take the structure.
        """
        paths = [path for path, module in net.named_modules() if isinstance(module, KINDS)]
        for name in ("layers", "frozen"):
            check_patterns(getattr(self, name), paths, f"{self.method}.{name}")
        for path in paths:
            layer = net.get_submodule(path)
            self.insist(path, None if self.frozen_by(path) else refusal(layer, operation(layer)))

    def insist(self, path: str, reason: str | None) -> None:
        """Raise a RecipeError where a layer that is named by its very path has a reason to stay."""
        if reason is not None and path in self.layers:
            raise RecipeError(f"{self.method}.layers: {path} cannot be replaced: {reason}")

    def names(self, path: str) -> bool:
        """Whether `layers` names it."""
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.layers)

    def frozen_by(self, path: str) -> str | None:
        """The pattern of `frozen` that names it."""
        return next((pattern for pattern in self.frozen if fnmatch.fnmatchcase(path, pattern)), None)


# --- which layers ---


def find(
    candidate: Candidate, example: Tensor, operation: Callable[[nn.Module], str], *, chosen: Chosen
) -> tuple[Layer, ...]:
    """The layers that settings name, in the order in which the network calls them; each with its price or its reason.

    Args:
        candidate: its network is run once on the example and left untouched.
        example: images (N, C, H, W).
        operation: what is to stand in a layer's place.
        chosen: which layers.

    Returns:
        All layers named; those that are never called come last.

    Raises:
        ModelError: a weight is not finite, not there yet, or no plain parameter; or the example does not pass.
        RecipeError: a pattern names no layer, or a layer named by its very path cannot be replaced.
    """
    net = candidate.net
    _refuse(net)
    chosen.check(net, operation)
    seen, costs = watched(net, example[:1]), {c.path: c for c in cost(net, tuple(example.shape[1:])).layers}
    twins, found = alike(net), []
    paths = [path for path, module in net.named_modules() if isinstance(module, KINDS)]
    for path in sorted((p for p in paths if chosen.names(p)), key=lambda p: seen.order.get(p, len(paths))):
        layer = net.get_submodule(path)
        frozen, calls = chosen.frozen_by(path), seen.inputs.get(path, [])
        reason = refusal(layer, operation(layer)) or _placed(path, twins, candidate) or seen.reason(path)
        if frozen is None:
            chosen.insist(path, reason)
        price = costs.get(path)
        found.append(
            Layer(
                path=path,
                operation=operation(layer),
                inputs=calls[0] if len(calls) == 1 else (),
                macs=price.macs if price else 0,
                params=price.params if price else 0,
                reason=reason if frozen is None else f"frozen by {frozen!r}",
            )
        )
    return tuple(found)


def _refuse(net: nn.Module) -> None:
    """Raise a ModelError where weights are not there, are computed, or are not finite."""
    for name, parameter in net.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            raise ModelError(f"{name} has no values yet: call the network once on an image, or load its weights")
    for _ in targets(net):
        pass  # raises where a weight is no plain parameter
    if (where := parametrized(net)) is not None:
        raise ModelError(f"{where} is computed by a parametrization: remove that before compressing")
    if (bad := finite(net)) is not None:
        raise ModelError(f"{bad} holds NaN or an infinity: nothing can be fitted to it")


def alike(net: nn.Module) -> dict[str, str]:
    """By path of a layer that shares its module or a tensor with another: why it stays."""
    modules: dict[int, list[str]] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        modules.setdefault(id(module), []).append(path)
    tensors: dict[int, list[str]] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if parameter.numel():
            tensors.setdefault(array_key(parameter), []).append(name)
    found = {}
    for names in tensors.values():
        for name in names if len(names) > 1 else ():
            other = next(n for n in names if n != name)
            found[name.rpartition(".")[0]] = f"{name} is one tensor with {other}: tied weights"
    for paths in modules.values():
        for path in paths if len(paths) > 1 else ():
            found[path] = f"the same module is also {next(p for p in paths if p != path)}"
    return found


def _placed(path: str, twins: Mapping[str, str], candidate: Candidate) -> str | None:
    formed = [name for name in candidate.forms if name.rpartition(".")[0] == path]
    if path and path not in twins and formed:
        return f"{formed[0]} has a form, which other layers would not keep"
    return stuck(candidate.net, path, twins)


def stuck(net: nn.Module, path: str, twins: Mapping[str, str]) -> str | None:
    """Why a layer cannot be taken out of where it stands; None where it can.

    Args:
        net: the network.
        path: of the layer.
        twins: of `alike`.

    >>> stuck(nn.Linear(2, 2), "", {})
    'it is the network itself'
    """
    if not path:
        return "it is the network itself"
    if path in twins:
        return twins[path]
    module = net.get_submodule(path)
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "it has hooks, which other layers would not have"
    return None


@dataclass(slots=True)
class Seen:
    """What one pass showed of each layer: order of calls, shapes of the inputs, and who else read its tensors."""

    order: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)
    dims: dict[str, int] = field(default_factory=dict)

    def reason(self, path: str) -> str | None:
        """Why other layers in a layer's place would not mean the same; None where they would."""
        calls = self.inputs.get(path, [])
        if not calls:
            return "the network never calls it"
        if len(calls) > 1:
            return f"it is called {len(calls)} times per image"
        if path in self.strange:
            return "its weights are read elsewhere than in its own call"
        if len(calls[0]) < self.dims[path]:
            return "what it is called with has no batch axis"
        return None


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which layers' tensors are read while another layer, or none, is being called."""

    def __init__(self, owners: Mapping[int, str], seen: Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owners, self.seen, self.inside = owners, seen, ""

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in dense((args, kwargs)):
            owner = self.owners.get(array_key(tensor))
            if owner is not None and owner != self.inside:
                self.seen.strange.add(owner)
        return func(*args, **(kwargs or {}))


def watched(net: nn.Module, example: Tensor) -> Seen:
    """Run the network once and see how it uses its layers."""
    layers = {path: module for path, module in net.named_modules() if isinstance(module, KINDS)}
    owners = {array_key(p): path for path, module in layers.items() for p in module.parameters(recurse=False)}
    seen = Seen(dims={path: 2 if isinstance(m, nn.Linear) else 2 + len(m.kernel_size) for path, m in layers.items()})
    reads = _Reads(owners, seen)

    def entering(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            reads.inside = path
            seen.order.setdefault(path, len(seen.order))
            seen.inputs.setdefault(path, []).append(tuple(dense((args, kwargs))[0].shape))

        return hook

    def leaving(*_: Any) -> None:
        reads.inside = ""

    handles = [m.register_forward_pre_hook(entering(path), with_kwargs=True) for path, m in layers.items()]
    handles += [module.register_forward_hook(leaving) for module in layers.values()]
    try:
        with reads:
            answers(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def answers(net: nn.Module, example: Tensor) -> list[Tensor]:
    """What a network says to a batch of images, in evaluation mode and on its own device.

    Raises:
        ModelError: the images do not pass.
    """
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(0))
    try:
        with observing(net), torch.random.fork_rng():
            torch.manual_seed(0)  # networks that draw: always the same
            out = net(example.to(device=like.device, dtype=like.dtype))
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"images {tuple(example.shape)} do not pass {type(net).__name__}: {reason}") from error
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
