"""One page per method, made from its data class: nothing on these pages is written a second time."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from netpress import methods, show
from netpress.gains import gains

EDITS = {
    "condense": ("regrouped",),
    "condense_kernels": ("kernel_sums",),
    "filter_prune": ("conv",),
    "fold_batch_norm": ("identity", "scaled"),
    "low_rank": ("svd",),
    "pattern_binarize": ("beside",),
    "quantize": ("identity", "scaled"),
    "rate_quantize": ("scaled",),
    "rate_train": ("scaled",),
    "substitute": ("separable",),
}
"""By method the structure edits that it may make, one of each kind; `tests/test_docs_site.py` looks at what they do."""

GUIDES = {
    "condense": ("condense.md", "Condensing while training"),
    "condense_kernels": ("condense.md", "Condensing while training"),
    "filter_prune": ("recipes.md#filter-pruning", "Filter pruning: amounts, scores, what to expect"),
    "low_rank": ("low-rank.md", "Low rank and substitution: which, at what price"),
    "pattern_binarize": ("quantize.md#sign-patterns-sep-net", "Sign patterns"),
    "quantize": ("quantize.md", "Integers and patterns: when they help"),
    "rate_quantize": ("smallest.md", "The smallest file"),
    "rate_train": ("smallest.md", "The smallest file"),
    "sort_channels": ("smallest.md", "The smallest file"),
    "substitute": ("low-rank.md", "Low rank and substitution: which, at what price"),
}
"""By method the page that goes deeper."""

_EXAMPLES_SHOWN = 4


class Parts(NamedTuple):
    """A method's docstring, taken apart."""

    summary: str
    text: str
    settings: dict[str, str]
    sources: str
    example: str


def own() -> dict[str, type[Any]]:
    """The methods that come with the package, by name; those of other packages have pages elsewhere."""
    found = methods.available()
    return {name: found[name] for name in sorted(found) if found[name].__module__.startswith("netpress.")}


def parts(text: str) -> Parts:
    """Take a docstring apart.

    Args:
        text: summary, text, `Attributes:`, sources and an example, in this order; all but the summary may be missing.

    >>> parts("Do it.\\n\\nWell.\\n\\nAttributes:\\n    a, b: two\\n        things.\\n\\n>>> 1\\n1").settings
    {'a, b': 'two things.'}
    """
    text, _, example = text.partition("\n>>> ")
    before, _, behind = text.partition("\nAttributes:\n")
    summary, _, body = before.partition("\n")
    fields, sources = re.match(r"((?:    [^\n]*\n?|\n(?=    ))*)(.*)", behind, re.DOTALL).groups()  # type: ignore[union-attr]
    entries = re.split(r"^    (?=\S)", fields, flags=re.MULTILINE)[1:]
    settings = {}
    for entry in entries:
        name, _, meaning = " ".join(entry.split()).partition(": ")
        settings[name] = meaning
    return Parts(summary, body.strip("\n"), settings, sources.strip(), f">>> {example}".strip() if example else "")


def accepts(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words; nothing is always allowed where nothing is the default.

    >>> accepts({"type": "integer", "minimum": 1, "maximum": 8}), accepts({"exclusiveMinimum": 0, "type": "number"})
    ('whole number, 1 to 8', 'number, above 0')
    >>> one = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    >>> accepts({"anyOf": [one, {"type": "array", "items": one}, {"type": "null"}]})
    'number, from 0, below 1; or a list of these'
    """
    choices = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    found: list[str] = []
    for one in choices:
        inside = one.get("items", one.get("additionalProperties"))
        known = inside is not None and set(_alternatives(inside)) <= set(map(_key, choices))
        many = {"array": "a list of these", "object": "a table of these by layer"}
        found.append(many[one["type"]] if known else _one(one))
    return "; or ".join(found)


def _key(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True)


def _alternatives(schema: Mapping[str, Any]) -> list[str]:
    return [_key(one) for one in schema.get("anyOf", [schema])]


def _one(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    match schema["type"]:
        case "array" if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} numbers"
        case "array":
            return f"list of {'paths' if (one := accepts(schema['items'])) == 'text' else one}"
        case "object":
            return f"table by layer of: {accepts(schema['additionalProperties'])}"
        case "number" | "integer":
            return ("whole number" if schema["type"] == "integer" else "number") + _range(schema)
        case kind:
            return {"string": "text", "boolean": "`true`, `false`"}[str(kind)]


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    return "".join(f", {text.format(schema[key])}" for key, text in words.items() if key in schema)


def settings(kind: type[Any]) -> list[tuple[str, str, str, str]]:
    """Every setting of a method: its name, what it accepts, its default, its meaning.

    Raises:
        ValueError: a setting has no text, or the text names what is no setting.

    >>> settings(methods.WeightShare)[0][:3]
    ('bits', 'whole number, 1 to 12; or a table of these by layer', '5')
    """
    told: dict[str, str] = {}
    for names, meaning in parts(inspect.cleandoc(kind.__doc__ or "")).settings.items():
        told |= dict.fromkeys(names.split(", "), meaning)
    schema = TypeAdapter(kind).json_schema()["properties"]
    if missing := sorted(set(schema) ^ {name for name, meaning in told.items() if meaning}):
        raise ValueError(f"{kind.__name__}: settings and Attributes of its docstring differ in {', '.join(missing)}")
    return [(name, accepts(one), _default(one), told[name]) for name, one in schema.items()]


def _default(schema: Mapping[str, Any]) -> str:
    if "default" not in schema:
        return "must be given"
    value = schema["default"]
    if isinstance(value, list):
        return ", ".join(f"`{one}`" for one in value) or "–"
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


def examples(kind: type[Any]) -> list[Any]:
    """The settings that the contract tests run this method with."""
    return [one for one in importlib.import_module(kind.__module__).EXAMPLES if type(one) is kind]


def bought(kind: type[Any]) -> list[str]:
    """What the method's results buy at run time, in the words of `netpress inspect`.

    >>> bought(methods.WeightShare)
    ['shared values: size only: no kernel computes with a table']
    """
    found: dict[str, None] = {}
    for example in examples(kind):
        traits = example.gives
        forms = [trait for trait in ("shared", "signs", "affine") if trait in traits]
        tensors = [{"form": form, "parameters": 2, "kept": 2, "shape": (8, 8), "grid_bits": None} for form in forms]
        if "support" in traits:
            tensors.append({"form": "free", "parameters": 2, "kept": 1, "shape": (8, 8)})
        edits: list[tuple[Any, ...]] = [(edit, "layer") for edit in EDITS.get(kind.name, ())]
        edits += [("round", "layer")] if "rounded" in traits else []
        found |= {f"{gain.what}: {gain.buys}": None for gain in gains(tensors, edits, ())}
    return list(found)


def _recipe(example: Any) -> str:
    lines = ["[[step]]", f"method = {_toml(example.name)}"]
    for field in dataclasses.fields(example):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if (value := getattr(example, field.name)) != getattr(default, "default", default):
            lines.append(f"{field.name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """On one line, as people write recipes; `tomli_w` gives a table lines of its own.

    >>> _toml({"conv*": 0.5, "linear": (1, 2)})
    '{ "conv*" = 0.5, linear = [1, 2] }'
    """
    if isinstance(value, Mapping):
        keys = {key: key if key.isidentifier() else json.dumps(key) for key in value}
        return "{ " + ", ".join(f"{keys[key]} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sections(name: str, kind: type[Any]) -> Iterator[str]:
    split = parts(inspect.cleandoc(json.loads(show.show(name, plain=True))["text"]))
    yield f"# {name}\n\n{split.summary}"
    yield split.text
    yield "## Settings"
    rows = [f"| `{n}` | {_cell(a)} | {_cell(d)} | {_cell(m)} |" for n, a, d, m in settings(kind)]
    yield "\n".join(["| setting | accepts | default | meaning |", "|---|---|---|---|", *rows])
    yield "Tables by layer, and how steps follow each other: [recipes](../recipes.md#methods)."
    yield "## When it helps speed"
    yield (
        "\n".join(f"- {line}" for line in bought(kind)) or "At run time nothing changes: the network computes the same."
    )
    yield "Measured, not foretold: `netpress bench A B` ([benchmarks](../benchmarks.md))."
    yield f"## Example\n\n```pycon\n{_imported(split.example, kind)}\n```"
    steps = "\n\n".join(_recipe(one) for one in examples(kind)[:_EXAMPLES_SHOWN])
    yield f"In a recipe, each a step of its own:\n\n```toml\n{steps}\n```"
    if split.sources:
        yield f"## Sources\n\n{split.sources}"
    if name in GUIDES:
        target, title = GUIDES[name]
        yield f"## More\n\n[{title}](../{target})"


def _imported(example: str, kind: type[Any]) -> str:
    """The example with the imports that its module has: it runs as it stands."""
    needed = {"import torch": "torch.", "from torch import nn": "nn.", "from netpress.methods import": kind.__name__}
    lines = []
    for line, use in needed.items():
        whole = f"{line} {kind.__name__}" if line.endswith("import") else line
        if use in example and f">>> {whole}\n" not in example:
            lines.append(f">>> {whole}")
    return "\n".join([*lines, example])


def page(name: str) -> str:
    """The page of a method, in Markdown.

    >>> page("weight_share").splitlines()[0]
    '# weight_share'
    """
    return "\n\n".join(section for section in _sections(name, own()[name]) if section) + "\n"


def overview() -> str:
    """The page that names all methods."""
    rows = [f"| [{n}]({n}.md) | {_cell(parts(inspect.cleandoc(k.__doc__ or '')).summary)} |" for n, k in own().items()]
    table = "\n".join(["| method | what it does |", "|---|---|", *rows])
    return f"# Methods\n\nEach page is made from the method's data class, as `netpress show NAME` is.\n\n{table}\n"
