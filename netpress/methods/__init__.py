"""Compression methods: one file each, found by scanning this package and the entry points `netpress.methods`.

A module of this package is a method's if it has `METHODS` (the classes) and `EXAMPLES` (settings for the contract
tests). Other packages register theirs under the entry point group `netpress.methods`: name = "module:Class".
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from netpress.adopt import adopt
from netpress.candidate import Candidate, Context, Inputs, Method
from netpress.errors import RecipeError
from netpress.methods.condense import Condense
from netpress.methods.condense_kernels import CondenseKernels
from netpress.methods.filter_prune import FilterPrune
from netpress.methods.fold_batch_norm import FoldBatchNorm
from netpress.methods.low_rank import LowRank
from netpress.methods.pattern_binarize import PatternBinarize
from netpress.methods.quantize import Quantize
from netpress.methods.rate_quantize import RateQuantize
from netpress.methods.rate_train import RateTrain
from netpress.methods.sort_channels import SortChannels
from netpress.methods.substitute import Substitute
from netpress.methods.weight_prune import WeightPrune
from netpress.methods.weight_share import WeightShare

__all__ = [
    "Condense",
    "CondenseKernels",
    "FilterPrune",
    "FoldBatchNorm",
    "LowRank",
    "PatternBinarize",
    "Quantize",
    "RateQuantize",
    "RateTrain",
    "SortChannels",
    "Substitute",
    "WeightPrune",
    "WeightShare",
    "apply",
    "available",
    "examples",
    "find",
]


_PARTS = ("name", "revision", "gives", "preserves", "expand", "check", "apply")


def _modules() -> list[Any]:
    found = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return [module for module in found if hasattr(module, "METHODS")]


@cache
def available() -> Mapping[str, type[Any]]:
    """All methods by the name that recipes use.

    >>> sorted(available())[-2:]
    ['weight_prune', 'weight_share']

    Raises:
        RecipeError: another package registers something that is no method, or a name that is taken.
    """
    found: dict[str, type[Any]] = {method.name: method for module in _modules() for method in module.METHODS}
    for entry in entry_points(group="netpress.methods"):
        method = entry.load()
        missing = [n for n in _PARTS if not hasattr(method, n)]
        if missing:
            raise RecipeError(f"entry point {entry.value}: not a method: it has no {', '.join(missing)}")
        if method.name in found:
            raise RecipeError(f"entry point {entry.value}: the name {method.name!r} is taken")
        found[method.name] = method
    return found


def examples() -> list[Any]:
    """One method object per kind of settings, for the contract tests."""
    return [example for module in _modules() for example in module.EXAMPLES]


def find(name: str) -> type[Any]:
    """The method that recipes call `name`.

    Raises:
        RecipeError: there is none; says which are near.
    """
    methods = available()
    if name not in methods:
        near = difflib.get_close_matches(name, methods, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"unknown method {name!r}; {hint}expected one of {', '.join(sorted(methods))}")
    return methods[name]


def apply(
    method: Method, net: nn.Module, *, example: torch.Tensor, inputs: Inputs | None = None, **context: Any
) -> Candidate:
    """Apply one method to any network.

    Args:
        method: e.g. `WeightPrune(sparsity=0.9)`.
        net: left untouched; masks of `torch.nn.utils.prune` become forms of the candidate.
        example: one batch of normalised images (N, C, H, W).
        inputs: shape and normalisation of the images; needed where the method looks at `train` or `validation`.
        context: further fields of `Context`, e.g. `train`, `seed`.

    Returns:
        The compressed candidate.

    Raises:
        RecipeError: the method would break what the masks promise.

    >>> small = apply(WeightPrune(sparsity=0.5), nn.Linear(4, 2), example=torch.zeros(1, 4))
    >>> int((small.net.weight == 0).sum())
    4
    """
    plain, forms = adopt(net)
    candidate = Candidate(plain, forms, inputs=inputs or Inputs(tuple(example.shape[1:])))
    if lost := sorted(candidate.traits - method.preserves):
        raise RecipeError(f"{method.name} would break the {lost[0]!r} form that the network came with")
    for part in method.expand():
        candidate = part.apply(candidate, Context(example=example[:1], **context))
    return candidate
