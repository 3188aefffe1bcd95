"""netpress: make a convolutional network small and fast, and prove it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netpress import data, errors, measure, methods, zoo
    from netpress.budget import Budget
    from netpress.candidate import Candidate
    from netpress.job import run
    from netpress.methods import apply
    from netpress.opening import Options
    from netpress.recipe import Recipe
    from netpress.search import compress
    from netpress.store import load, save
    from netpress.train import bound

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Candidate",
    "Options",
    "Recipe",
    "apply",
    "bound",
    "compress",
    "data",
    "errors",
    "load",
    "measure",
    "methods",
    "run",
    "save",
    "zoo",
]

# Where each public name lives; None: it is a module of that name. Looked up when first used, so that the runtime and
# `netpress inspect` need numpy and ONNX Runtime only.
_HOMES: dict[str, str | None] = {
    "Budget": "budget",
    "Candidate": "candidate",
    "Options": "opening",
    "Recipe": "recipe",
    "apply": "methods",
    "bound": "train",
    "compress": "search",
    "data": None,
    "errors": None,
    "load": "store",
    "measure": None,
    "methods": None,
    "run": "job",
    "save": "store",
    "zoo": None,
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'netpress' has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f"netpress.{home or name}")
    return module if home is None else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
