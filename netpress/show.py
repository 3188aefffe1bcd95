"""Recipes, methods and networks in words, for `netpress show`."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

from netpress import data, methods, recipe, zoo
from netpress.errors import ModelError, RecipeError
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


def channels(spec: str, shape: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
    """Which channels of a network go together, and which cannot go: what filter pruning works on.

    Args:
        spec: a zoo name, `torchvision:NAME`, `timm:NAME` or `path.py:factory`.
        shape: one image (C, H, W); None: that which a zoo network is made for.

    Returns:
        Per group of channels, in the network's order: `name`, `layers` (that make them), `channels`, `cost`
        (parameters that go with one, on average), `stays` (why none can go, or "") and `changes` (what sees them all,
        so that the others change when one goes, or "").

    Raises:
        ModelError: the network cannot be built or followed, or its image shape is not known.

    >>> [(row["name"], row["channels"], row["stays"]) for row in channels("lenet5")]
    [('conv1', 20, ''), ('conv2', 50, ''), ('fc1', 500, ''), ('fc2', 10, 'network output')]
    """
    import torch

    from netpress import graph
    from netpress.arch import open_network

    classes = None
    if ":" not in spec:
        variant = zoo.describe(spec)
        shape, classes = shape or variant.shape, variant.num_classes
    if shape is None:
        raise ModelError(f"{spec}: say the shape of one image, for instance --input 3x224x224")
    net = open_network(spec, shape=shape, classes=classes).net.eval()
    found: dict[str, dict[str, Any]] = {}
    for row in graph.explain(graph.couple(net, torch.zeros(1, *shape))):
        facts = {"channels": row.channels, "cost": row.cost, "stays": row.stays, "changes": row.changes}
        found.setdefault(row.group, {"name": row.group, "layers": [], **facts})["layers"].append(row.layer)
    return list(found.values())


def channels_text(rows: list[dict[str, Any]], most: int = 3) -> str:
    """The same as an aligned table and a line of sums.

    Args:
        rows: of `channels`.
        most: tied layers that are named; the others are counted.

    >>> print(channels_text(channels("lenet5")))
    channels of  number  parameters each  tied to  remark
    conv1            20            1,276
    conv2            50            8,501
    fc1             500              811
    fc2              10              501           stays: network output
    <BLANKLINE>
    570 of 580 channels can go, 3 of 4 groups
    """
    lines = []
    for row in rows:
        tied = [layer for layer in row["layers"] if layer != row["name"].partition("#")[0]]
        more = [f"and {len(tied) - most} more"] if len(tied) > most else []
        remark = f"stays: {row['stays']}" if row["stays"] else f"changes: {row['changes']}" if row["changes"] else ""
        lines.append([row["name"], row["channels"], round(row["cost"]), ", ".join([*tied[:most], *more]), remark])
    free = [row for row in rows if not row["stays"]]
    count, whole = (sum(row["channels"] for row in some) for some in (free, rows))
    head = ["channels of", "number", "parameters each", "tied to", "remark"]
    return f"{table(lines, head)}\n\n{count:,} of {whole:,} channels can go, {len(free)} of {len(rows)} groups"


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
