"""Networks by name: every module here that has a `VARIANTS` table and a `build` function is a family."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from netpress.errors import ModelError
from netpress.space import Choice, Span
from netpress.zoo.variant import Variant

__all__ = ["Choice", "Span", "Variant", "create", "describe", "family", "names", "settings", "space"]


@cache
def _catalogue() -> Mapping[str, ModuleType]:
    """The family of every variant, found by scanning this package."""
    found: dict[str, ModuleType] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for name in getattr(module, "VARIANTS", {}):
            assert name not in found, f"two zoo families claim {name!r}"
            found[name] = module
    return found


def _find(name: str) -> ModuleType:
    catalogue = _catalogue()
    if name not in catalogue:
        near = difflib.get_close_matches(name, catalogue, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(
            f"zoo: unknown network {name!r}; {hint}`netpress list models` names all {len(catalogue)}, "
            "others are torchvision:NAME, timm:NAME or path.py:factory"
        )
    return catalogue[name]


def names() -> list[str]:
    """Return the name of every network of the zoo, sorted.

    >>> "lenet5" in names()
    True
    """
    return sorted(_catalogue())


def family(name: str) -> str:
    """Return the family of a network: the module of this package that builds it.

    Raises:
        ModelError: the name is unknown.

    >>> family("lenet5") == family("lenet-300-100") == "lenet"
    True
    """
    return _find(name).__name__.rpartition(".")[2]


def describe(name: str) -> Variant:
    """Return the plain numbers of one network: input shape, classes, parameters, MACs, source.

    Args:
        name: a name of `names()`.

    Returns:
        The entry of the family's table; its numbers hold for `create(name)` without settings.

    Raises:
        ModelError: the name is unknown.

    >>> describe("lenet5").params
    431080
    """
    return cast("Variant", _find(name).VARIANTS[name])


def settings(name: str) -> Mapping[str, object]:
    """Return every setting of a network with its default value.

    Raises:
        ModelError: the name is unknown.

    >>> settings("lenet5")["num_classes"], settings("lenet5")["convs"]
    (10, (20, 50))
    """
    parameters = inspect.signature(_find(name).build).parameters
    usual = {key: parameter.default for key, parameter in parameters.items()}
    return {**usual, **describe(name).settings}


def space(name: str) -> Mapping[str, Choice | Span]:
    """Return the design space of a network: for each setting that a sweep may change, the values to draw from.

    Raises:
        ModelError: the name is unknown.

    >>> space("lenet5")
    {}
    """
    return cast("Mapping[str, Choice | Span]", getattr(_find(name), "SPACE", {}))


def create(name: str, /, *, device: str | torch.device | None = None, **changes: object) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's default generator.

    Args:
        name: a name of `names()`.
        device: where; "meta" builds shapes without weights, in no time. None: torch's default device.
        changes: settings to change (`settings(name)` has them all); the others keep the variant's values.

    Returns:
        The network, in training mode, float32.

    Raises:
        ModelError: the name or a setting is unknown, or a value is out of range.

    >>> create("lenet5", num_classes=7).fc2.out_features
    7
    """
    found, allowed = _find(name), settings(name)
    unknown = sorted(set(changes) - set(allowed))
    if unknown:
        raise ModelError(f"zoo: {name!r} has no setting {unknown[0]!r}; it takes {', '.join(allowed)}")
    place = torch.device(device) if device is not None else torch.get_default_device()
    with place, _Undrawn() if place.type == "meta" else nullcontext():
        net: nn.Module = found.build(**{**describe(name).settings, **changes})
    return net


class _Undrawn(TorchFunctionMode):
    """Draws no initial weights: what is on meta has no values, and PyTorch needs a second to find that out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init" or func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_})
