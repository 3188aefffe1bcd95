"""Recipes: which network, which data, which methods with which retraining. TOML or a Python value, checked whole."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_serializer, field_validator

from netpress import methods
from netpress.budget import Budget
from netpress.candidate import Method
from netpress.errors import RecipeError
from netpress.train.settings import Training


class NetworkSpec(BaseModel):
    """`[network]`: what `open_network` takes, settings of the builder, and a file with weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None


class DataSpec(BaseModel):
    """`[data]`: what `data.open` takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str


class StepSpec(BaseModel):
    """One `[[step]]`: a method with its settings, and its retraining."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    method: Any
    train: Training = Training()

    @field_serializer("method")
    def _plain(self, method: Any) -> dict[str, Any]:
        return {"method": method.name, **asdict(method)}


@dataclass(frozen=True, slots=True)
class Step:
    """One round of a method, as it runs: its number from 1, the method, its retraining."""

    number: int
    method: Method
    train: Training

    @property
    def name(self) -> str:
        """Of its folder, e.g. `01-weight_prune`."""
        return f"{self.number:02d}-{self.method.name}"


class Recipe(BaseModel):
    """An ordered list of methods, each with its retraining, plus network, data and budget.

    >>> recipe = read("deep-compression-lenet-5")
    >>> [step.name for step in recipe.steps()][-1].endswith("weight_share")
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str = ""
    network: NetworkSpec | None = None
    data: DataSpec | None = None
    baseline: Training = Training()
    step: tuple[StepSpec, ...] = ()
    budget: Budget = Budget()

    @field_validator("step", mode="before")
    @classmethod
    def _methods(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        steps, problems = [], []
        for i, entry in enumerate(value):
            try:
                steps.append(_step(i, entry))
            except RecipeError as error:  # collected: all mistakes are told at once
                problems.append(str(error))
        if problems:
            raise RecipeError("; ".join(problems))
        return steps

    def steps(self) -> Iterator[Step]:
        """All rounds of all methods, in order."""
        number = 0
        for spec in self.step:
            for method in spec.method.expand():
                number += 1
                yield Step(number, method, spec.train)

    def resolved(self) -> dict[str, Any]:
        """Plain data with every default written out; what `recipe.toml` of a run folder holds."""
        plain = self.model_dump(mode="json", exclude={"step"})
        plain["step"] = [
            {**spec.model_dump(mode="json")["method"], "train": spec.train.model_dump(mode="json")}
            for spec in self.step
        ]
        result: dict[str, Any] = _without_none(plain)
        return result

    def to_toml(self) -> str:
        """The resolved recipe as TOML; `read` of it gives an equal recipe."""
        return tomli_w.dumps(self.resolved())


def _step(i: int, entry: Any) -> StepSpec:
    if isinstance(entry, StepSpec):
        return entry
    if not isinstance(entry, Mapping) or "method" not in entry:
        raise RecipeError(f"step[{i}]: expected a table with method = '...'")
    fields = {k: v for k, v in entry.items() if k not in ("method", "train")}
    name, problems = entry["method"], []
    method: Any = None
    try:
        kind = methods.find(str(name))
        method = TypeAdapter(kind).validate_python(fields)
    except RecipeError as error:
        problems.append(f"step[{i}]: {error}")
    except ValidationError as error:
        problems += mistakes(error, f"step[{i}] ({name})", known=kind.__dataclass_fields__)
    train = Training()
    try:
        train = Training.model_validate(entry.get("train", {}))
    except ValidationError as error:
        problems += mistakes(error, f"step[{i}].train", known=Training.model_fields)
    if problems:
        raise RecipeError("; ".join(problems))
    return StepSpec(method=method, train=train)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value


def mistakes(error: ValidationError, where: str, *, known: Iterable[str] = ()) -> list[str]:
    """One phrase per mistake of a pydantic model: the key's path, what is expected, what was given."""
    phrases = []
    for entry in error.errors():
        path = ".".join(str(part) for part in entry["loc"] if not _branch(part))
        place = f"{where}.{path}" if where and path else where or path
        if entry["type"] == "extra_forbidden" or entry["type"] == "unexpected_keyword_argument":
            near = difflib.get_close_matches(str(entry["loc"][-1]), list(known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(known)}" if known else ""
            phrases.append(f"{place}: unknown key{hint}")
        elif isinstance(entry.get("ctx", {}).get("error"), RecipeError):
            said = str(entry["ctx"]["error"])  # names the method, and its place where all steps are checked together
            phrases.append(f"{where.partition(' ')[0]}: {said}" if where else said)
        else:
            message = entry["msg"].removeprefix("Value error, ")
            given = f", got {entry['input']!r}" if entry["type"] != "value_error" else ""
            phrases.append(f"{place}: {message}{given}" if path or where else f"{message}")
    return list(dict.fromkeys(phrases))


def _branch(part: Any) -> bool:
    """Whether a part of a location names a branch of a union rather than a key."""
    return isinstance(part, str) and ("[" in part or part in ("float", "int", "constrained-float", "constrained-int"))


def presets() -> dict[str, str]:
    """The recipes that come with the package: name -> what its first line says.

    >>> "prune" in presets()
    True
    """
    folder = files("netpress") / "recipes"
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): f.read_text().splitlines()[0].removeprefix("# ") for f in found}


def read(source: str | Path | Recipe, *, overrides: Mapping[str, str] | None = None) -> Recipe:
    """A recipe by preset name, by path, or as it is; checked whole.

    Args:
        source: a preset's name, the path of a TOML file, or a `Recipe`.
        overrides: `--set`: dotted key -> TOML value, e.g. {"step.0.sparsity": "[0.5, 0.9]", "baseline.epochs": "3"}.

    Raises:
        RecipeError: all mistakes at once, each with the path of its key.
    """
    if isinstance(source, Recipe):
        return _ordered(source) if not overrides else parse(source.resolved(), overrides=overrides)
    path = Path(source)
    if str(source) in presets():
        text, where = (files("netpress") / "recipes" / f"{source}.toml").read_text(), str(source)
    elif path.suffix == ".toml":
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file")
        text, where = path.read_text(), str(path)
    else:
        near = difflib.get_close_matches(str(source), presets(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(
            f"unknown recipe {str(source)!r}; {hint}expected a .toml file or one of {', '.join(presets())}"
        )
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not TOML: {error}") from error
    try:
        return parse(plain, overrides=overrides)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def parse(plain: Mapping[str, Any], *, overrides: Mapping[str, str] | None = None) -> Recipe:
    """A recipe from plain data, checked whole; see `read`."""
    for key, text in (overrides or {}).items():
        plain = with_value(plain, key, toml_value(key, text))
    try:
        return _ordered(Recipe.model_validate(plain))
    except ValidationError as error:
        raise RecipeError("; ".join(mistakes(error, "", known=Recipe.model_fields))) from error


def toml_value(key: str, text: str) -> Any:
    """What a `--set` writes: a TOML value, else a bare word as a string.

    Raises:
        RecipeError: it looks like TOML and is none.

    >>> toml_value("bits", "[4, 5]"), toml_value("score", "saliency")
    ([4, 5], 'saliency')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if any(c in text for c in "[]{}\"'=\n"):
            raise RecipeError(f"--set {key}: {text!r} is no TOML value") from None
        return text  # a bare word is a string


def with_value(plain: Any, key: str, value: Any) -> Any:
    """Plain data with one value changed.

    Args:
        plain: left untouched.
        key: dotted; places of a list are numbers from 0.
        value: plain data.

    Raises:
        RecipeError: the key leads nowhere.

    >>> with_value({"step": [{"train": {"epochs": 3}}]}, "step.0.train.epochs", 5)
    {'step': [{'train': {'epochs': 5}}]}
    """
    return _set(plain, key.split("."), value, key)


def _set(node: Any, path: list[str], value: Any, key: str) -> Any:
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            raise RecipeError(f"--set {key}: {head!r} is no place of a list of {len(node)} (counted from 0)")
        i = int(head)
        return [*node[:i], _set(node[i], rest, value, key) if rest else value, *node[i + 1 :]]
    if not isinstance(node, Mapping):
        raise RecipeError(f"--set {key}: {head!r} lies below a plain value")
    return {**node, head: _set(node.get(head, {}), rest, value, key) if rest else value}


def _ordered(recipe: Recipe) -> Recipe:
    """Refuse an order in which a method breaks what an earlier one gave."""
    given: dict[str, str] = {}
    for i, spec in enumerate(recipe.step):
        method = spec.method
        for trait in sorted(given.keys() - method.preserves):
            raise RecipeError(
                f"step[{i}] ({method.name}) would break the {trait!r} form that {given[trait]} gave: put it before"
            )
        given |= dict.fromkeys(method.gives, f"step[{i}] ({method.name})")
    return recipe


def quoted(text: str) -> str:
    """`text` as a TOML value: a number as it is, anything else as a string.

    >>> quoted("0.5"), quoted("20kB")
    ('0.5', '"20kB"')
    """
    try:
        float(text)
    except ValueError:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text
