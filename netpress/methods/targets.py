"""Which tensors of a network methods act on, and how settings name them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from netpress.errors import ModelError, RecipeError

T = TypeVar("T")

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class Target:
    """One weight tensor: its parameter name, the path of its module, and its kind, "conv" or "linear"."""

    name: str
    path: str
    kind: str


def targets(net: nn.Module) -> Iterator[Target]:
    """The weights of all convolutions and linear layers, in the network's order, each tensor once.

    Raises:
        ModelError: a weight is no plain parameter (weight norm and the like).

    >>> [t.name for t in targets(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)))]
    ['0.weight', '3.weight']
    """
    seen: set[int] = set()
    for path, module in net.named_modules():
        kind = "conv" if isinstance(module, CONVOLUTIONS) else "linear" if isinstance(module, nn.Linear) else None
        if kind is not None and id(module.weight) not in seen:
            seen.add(id(module.weight))
            name = f"{path}.weight" if path else "weight"
            if not isinstance(module.weight, nn.Parameter):
                raise ModelError(f"{name} is computed by a parametrization: remove that before compressing")
            yield Target(name, path, kind)


def choose(setting: T | Mapping[str, T], target: Target) -> T | None:
    """The value a setting holds for one tensor; None where it names other tensors only.

    A plain value is for all. A table is read from the most to the least specific key: the module's path, a pattern
    with `*` or `?`, the kind (`conv`, `linear`), then `default`.
    """
    if not isinstance(setting, Mapping):
        return setting
    if target.path in setting:
        return setting[target.path]
    for key, value in setting.items():
        if fnmatch.fnmatchcase(target.path, key) and any(c in key for c in "*?["):
            return value
    return setting.get(target.kind, setting.get("default"))


def check_patterns(patterns: Sequence[str], paths: Sequence[str], field: str, *, noun: str = "layer") -> None:
    """Refuse a setting with a path or pattern that fits none of the paths.

    Raises:
        RecipeError: with the pattern and the paths there are.
    """
    for pattern in patterns:
        if not fnmatch.filter(paths, pattern):
            raise RecipeError(f"{field}: {pattern!r} names no {noun}; expected one of {_some(paths) or 'none at all'}")


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:12]) + (", ..." if len(paths) > 12 else "")


def check_keys(setting: object, net: nn.Module, field: str) -> None:
    """Refuse a table of a setting that names no tensor of the network.

    Raises:
        RecipeError: with the key and the paths there are.
    """
    if not isinstance(setting, Mapping):
        return
    found = list(targets(net))
    for key in setting:
        if key in ("conv", "linear", "default") or any(fnmatch.fnmatchcase(t.path, key) for t in found):
            continue
        paths = _some([t.path for t in found])
        raise RecipeError(f"{field}: {key!r} names no layer; expected conv, linear, default or one of {paths}")
