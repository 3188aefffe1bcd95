"""Samplers by name. Each is a frozen value without state; what it proposes is a function of the question alone."""

from __future__ import annotations

import importlib
from typing import Any, cast

from netpress.errors import RecipeError
from netpress.search.sampler import Sampler

# name -> (module, class, settings that the name stands for); modules are imported when they are asked for
KNOWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mlp": ("mlp", "Mlp", {}),
    "paper-mlp": ("paper_mlp", "PaperMlp", {}),
    "tpe": ("optuna_based", "OptunaBased", {"name": "tpe"}),
    "cmaes": ("optuna_based", "OptunaBased", {"name": "cmaes"}),
    "nsga2": ("optuna_based", "OptunaBased", {"name": "nsga2"}),
    "greedy": ("greedy", "Greedy", {}),
    "random": ("random", "Random", {}),
    "uniform": ("uniform", "Uniform", {}),
}


def names() -> tuple[str, ...]:
    """All samplers.

    >>> "mlp" in names()
    True
    """
    return tuple(KNOWN)


def sampler(name: str, **settings: Any) -> Sampler:
    """A sampler by its name.

    Args:
        name: one of `names()`.
        settings: fields of the sampler.

    Returns:
        The sampler.

    Raises:
        RecipeError: no sampler has this name, or it has no such setting.

    >>> sampler("uniform").name
    'uniform'
    """
    if name not in KNOWN:
        raise RecipeError(f"sampler: expected one of {', '.join(KNOWN)}, got {name!r}")
    module, kind, fixed = KNOWN[name]
    made = getattr(importlib.import_module(f"netpress.search.samplers.{module}"), kind)
    allowed = [field for field in made.__dataclass_fields__ if field != "name"]
    for setting in settings:
        if setting not in allowed:
            raise RecipeError(
                f"sampler {name}: expected settings among {', '.join(allowed) or 'none'}, got {setting!r}"
            )
    return cast("Sampler", made(**fixed, **settings))
