"""Recipes, methods and networks in words, for `netpress show`."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

from netpress import data, methods, recipe, zoo
from netpress.errors import RecipeError
from netpress.inspect import table


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
        facts = _network(name)
        return json.dumps(facts) if plain else _network_text(facts)
    raise RecipeError(f"{name!r} is no recipe, method or network; netpress list names them all")


def _method(kind: type[Any]) -> dict[str, Any]:
    fields = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    return {"name": kind.name, "text": kind.__doc__ or "", "fields": fields}


def _network(name: str) -> dict[str, Any]:
    variant = dataclasses.asdict(zoo.describe(name))
    spaces = {key: list(values.values()) for key, values in zoo.space(name).items()}
    return {"name": name, "family": zoo.family(name), **variant, "settings": dict(zoo.settings(name)), "space": spaces}


def _network_text(facts: dict[str, Any]) -> str:
    lines = [facts["name"]]
    for key, value in facts.items():
        if key in ("name", "settings", "space") or value in (None, ""):
            continue
        lines.append(f"  {key}: {value:,}" if isinstance(value, int) else f"  {key}: {value}")
    lines.append("  settings (change with --set):")
    for key, value in facts["settings"].items():
        drawn = facts["space"].get(key)
        lines.append(f"    {key} = {value}" + (f"   design space: {', '.join(map(str, drawn))}" if drawn else ""))
    return "\n".join(lines)


def listing() -> dict[str, dict[str, Any]]:
    """All that has a name: models (with their numbers), data sets, methods, recipes.

    >>> listing()["models"]["lenet5"]["params"]
    431080
    """
    keys = ("params", "macs", "shape", "status", "source")
    models = {}
    for name in zoo.names():
        variant = zoo.describe(name)
        models[name] = {key: getattr(variant, key) for key in keys}
    return {
        "models": models,
        "data": dict.fromkeys(data.names(), "") | dict.fromkeys(("folder:PATH", "npz:PATH", "path.py:factory"), ""),
        "methods": {name: (kind.__doc__ or "").splitlines()[0] for name, kind in methods.available().items()},
        "recipes": recipe.presets(),
    }


def listing_text(chosen: dict[str, dict[str, Any]]) -> str:
    """The same as aligned text."""
    parts = []
    for title, entries in chosen.items():
        if title == "models":
            rows = [
                [name, v["params"], v["macs"], "x".join(map(str, v["shape"])), v["status"], v["source"]]
                for name, v in entries.items()
            ]
            parts.append(table(rows, ["models", "params", "macs", "input", "status", "source"]))
        else:
            parts.append("\n".join([title, *(f"  {name:<32} {line}".rstrip() for name, line in entries.items())]))
    return "\n\n".join(parts)
