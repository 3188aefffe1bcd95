"""Recipes, methods and networks in words, for `netpress show`."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

from netpress import methods, recipe, zoo
from netpress.errors import RecipeError


def show(name: str, *, plain: bool = False) -> str:
    """What is known of a recipe, a method or a network.

    Args:
        name: of one of them.
        plain: JSON instead of text.

    Raises:
        RecipeError: the name is none of the three.

    >>> show("lenet5").splitlines()[0]
    'lenet5'
    """
    if name in recipe.presets() or name.endswith(".toml"):
        found = recipe.read(name)
        return json.dumps(found.resolved()) if plain else found.to_toml()
    if name in methods.available():
        facts = _method(methods.find(name))
        return json.dumps(facts) if plain else inspect.cleandoc(facts["text"])
    if name in zoo.names():
        variant: Any = zoo.describe(name)
        numbers = dataclasses.asdict(variant)
        return json.dumps(numbers) if plain else "\n".join([name, *(f"  {k}: {v}" for k, v in numbers.items())])
    raise RecipeError(f"{name!r} is no recipe, method or network; netpress list names them all")


def _method(kind: type[Any]) -> dict[str, Any]:
    fields = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    return {"name": kind.name, "text": kind.__doc__ or "", "fields": fields}
