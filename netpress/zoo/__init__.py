"""Networks by name: every module here that has a `VARIANTS` table and a `build` function is a family."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache

from torch import nn

from netpress.errors import ModelError
from netpress.zoo.variant import Variant

__all__ = ["Variant", "create", "describe", "names"]


@cache
def _catalogue() -> Mapping[str, tuple[Variant, Callable[..., nn.Module]]]:
    """Every variant with its family's builder, found by scanning this package."""
    found: dict[str, tuple[Variant, Callable[..., nn.Module]]] = {}
    for info in pkgutil.iter_modules(__path__):
        family = importlib.import_module(f"{__name__}.{info.name}")
        for name, variant in getattr(family, "VARIANTS", {}).items():
            assert name not in found, f"two zoo families claim {name!r}"
            found[name] = (variant, family.build)
    return found


def _find(name: str) -> tuple[Variant, Callable[..., nn.Module]]:
    catalogue = _catalogue()
    if name not in catalogue:
        near = difflib.get_close_matches(name, catalogue, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(f"zoo: unknown network {name!r}; {hint}`netpress list` names all {len(catalogue)}")
    return catalogue[name]


def names() -> list[str]:
    """Return the name of every network of the zoo, sorted.

    >>> "lenet5" in names()
    True
    """
    return sorted(_catalogue())


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
    return _find(name)[0]


def create(name: str, /, **settings: object) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's default generator.

    Args:
        name: a name of `names()`.
        settings: arguments of the family's `build` (such as `classes`, `channels`, `size`, `dropout`) to
            change; the others keep the variant's numbers.

    Returns:
        The network, in training mode, float32, on the current default device.

    Raises:
        ModelError: the name or a setting is unknown, or a value is out of range.

    >>> create("lenet5", classes=7).fc2.out_features
    7
    """
    variant, build = _find(name)
    allowed = inspect.signature(build).parameters
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise ModelError(f"zoo: {name!r} has no setting {unknown[0]!r}; it takes {', '.join(allowed)}")
    return build(**{**variant.settings, **settings})
