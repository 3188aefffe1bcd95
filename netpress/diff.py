"""`netpress diff A B`: two `.press` files or two run folders: structure, forms, values, bytes; for runs also accuracy
and recipes. Needs numpy only.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netpress.codec import container
from netpress.codec.header import Header
from netpress.codec.parts import PARTS
from netpress.errors import FileError
from netpress.inspect import describe, table
from netpress.run_folder import read_json

TOTALS = ("file_bytes", "parameters", "nonzero", "ratio", "overhead_bytes")
MEASURED = ("macs", "top1", "top5", "loss", "latency_ms", "peak_activation_bytes")
MOST = 60
"""Tensors and edits that the text shows; JSON has all."""
_METHOD = re.compile(r"step\.\d+\.method")
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two.

    Attributes:
        path: as it was given.
        facts: of its file, see `inspect.describe`.
        header: of its file.
        values: of the file's tensors.
        numbers: a run's `metrics.json`; None for a file.
        recipe: a run's, dotted key -> value; empty for a file.
    """

    path: Path
    facts: Mapping[str, Any]
    header: Header
    values: Mapping[str, Array]
    numbers: Mapping[str, Any] | None
    recipe: Mapping[str, Any]


def compare(a: str | Path, b: str | Path) -> dict[str, Any]:
    """Compare two files or two runs.

    Args:
        a: a `.press` file or a run folder.
        b: another of the same kind.

    Returns:
        Plain data: `a b` (path, network, input, mean, std, classes) `same totals edits tensors parts around accuracy
        recipe`. totals, parts, around, accuracy: name -> [of A, of B], parts and around in bytes as in
        `inspect.describe`; edits: how many both begin with, and those of each behind them; tensors: one row for each
        name, see `_tensor`; recipe: rows of key and both values, where they differ. same: whether structure, input and
        all tensors agree to the bit.

    Raises:
        FileError: one is missing, damaged, from a newer version or no finished run, or they are of two kinds.
    """
    paths = Path(a), Path(b)
    kinds = ["run folder" if path.is_dir() else "file" for path in paths]
    if kinds[0] != kinds[1] and all(path.exists() for path in paths):
        folder = paths[kinds.index("run folder")]
        raise FileError(
            f"{paths[0]} is a {kinds[0]}, {paths[1]} a {kinds[1]}: name two of one kind; the file of a run is "
            f"{folder / 'model.press'}"
        )
    one, two = (_run(path) if path.is_dir() else _file(path) for path in paths)
    edits, tensors = _edits(one.header.arch.edits, two.header.arch.edits), _tensors(one, two)
    network = [_network(side) for side in (one, two)]
    same = network[0] == network[1] and not edits["a"] + edits["b"] and all(row["same"] for row in tensors)
    return {
        "a": {"path": str(one.path), **network[0]},
        "b": {"path": str(two.path), **network[1]},
        "same": same,
        "totals": {name: [_total(side, name) for side in (one, two)] for name in TOTALS},
        "edits": edits,
        "tensors": tensors,
        "parts": _pairs(one.facts["parts"], two.facts["parts"]),
        "around": _pairs(one.facts["around"], two.facts["around"]),
        "accuracy": _accuracy(one.numbers, two.numbers),
        "recipe": _recipe(one.recipe, two.recipe),
    }


def _file(path: Path) -> Side:
    if not path.exists():
        raise FileError(f"{path}: no such file or folder; expected a .press file or the folder of a run")
    press = container.read(path)
    values = {tensor.name: tensor.restore() for tensor in press.tensors}
    return Side(path, describe(path), press.header, values, None, {})


def _run(path: Path) -> Side:
    numbers = read_json(path / "metrics.json")
    if numbers is None or not isinstance(numbers.get("final"), dict):
        if (path / "search.json").is_file():
            raise FileError(f"{path}: the folder of a search: name one of its runs, for instance {path / 'final-1'}")
        what = "a run that has not finished" if (path / "run.json").is_file() else "no run folder"
        raise FileError(f"{path}: {what}: metrics.json is missing or damaged")
    try:
        recipe = dict(_flat(tomllib.loads((path / "recipe.toml").read_text())))
    except (OSError, ValueError) as error:
        raise FileError(f"{path / 'recipe.toml'}: missing or damaged: {error}") from None
    data = numbers.get("data")
    told = {"seed": numbers.get("seed"), "data set": data.get("name") if isinstance(data, dict) else None}
    return replace(_file(path / "model.press"), path=path, numbers=numbers, recipe=told | recipe)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted keys; a list of tables counts from 0, as `--set` does.

    >>> dict(_flat({"step": [{"bits": 4, "train": {"lr": 0.1}}]}))
    {'step.0.bits': 4, 'step.0.train.lr': 0.1}
    """
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, dict):
        yield key, value
        return
    for name, item in value.items():
        yield from _flat(item, f"{key}.{name}" if key else name)


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [a.get(name), b.get(name)] for name in dict.fromkeys([*a, *b])}


def _network(side: Side) -> dict[str, Any]:
    told = {"mean": side.header.mean, "std": side.header.std, "classes": side.header.classes}
    return {"network": side.facts["network"], "input": side.facts["input"], **{k: list(v) for k, v in told.items()}}


def _total(side: Side, name: str) -> Any:
    """A run's ratio is to its baseline, as everywhere; a file's is to its own tensors in float32."""
    return side.numbers.get("ratio") if name == "ratio" and side.numbers is not None else side.facts[name]


def _edits(a: Sequence[Any], b: Sequence[Any]) -> dict[str, Any]:
    """What both structures begin with, and how each goes on: edits build on each other, so their order counts."""
    alike = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return {"alike": alike, "a": list(map(list, a[alike:])), "b": list(map(list, b[alike:]))}


def _tensors(one: Side, two: Side) -> list[dict[str, Any]]:
    rows = [{row["name"]: row for row in side.facts["tensors"]} for side in (one, two)]
    return [
        _tensor(name, [side.get(name) for side in rows], one.values.get(name), two.values.get(name))
        for name in dict.fromkeys([*rows[0], *rows[1]])
    ]


def _tensor(name: str, rows: Sequence[Any], a: Array | None, b: Array | None) -> dict[str, Any]:
    """One tensor of both: `shape form kept chain bytes` [of A, of B], `parts` of bytes, `same` and `change`.

    same: whether all bits agree; change: norm(B - A) / norm(A), None where one is missing or they cannot be subtracted.
    """
    parts: list[Mapping[str, int]] = [{} if row is None else row["parts"] for row in rows]
    return {
        "name": name,
        **{key: [None if row is None else row[key] for row in rows] for key in ("shape", "chain", "bytes")},
        "form": [None if row is None else _form(row) for row in rows],
        "kept": [None if row is None else row["kept"] / max(row["parameters"], 1) for row in rows],
        "parts": {part: [side.get(part, 0) for side in parts] for part in PARTS if any(part in side for side in parts)},
        "same": a is not None and b is not None and _alike(a, b),
        "change": _change(a, b),
    }


def _form(row: Mapping[str, Any]) -> str:
    """A form in words.

    >>> _form({"form": "affine", "values": 200, "grid_bits": 8})
    'affine 8-bit'
    """
    if row["grid_bits"]:
        return f"{row['form']} {row['grid_bits']}-bit"
    return f"{row['form']} {row['values']}" if row["form"] == "shared" else str(row["form"])


def _alike(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _change(a: Array | None, b: Array | None) -> float | None:
    if a is None or b is None or a.shape != b.shape:
        return None
    if _alike(a, b):
        return 0.0
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        size, apart = float(np.linalg.norm(x)), float(np.linalg.norm(y - x))
    change = apart / size if size else apart
    return change if math.isfinite(change) else None


def _accuracy(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """What runs measured, baseline and result; empty for files."""
    if a is None or b is None:
        return {}
    found: dict[str, list[Any]] = {}
    for stage, names in (("baseline", ("top1",)), ("final", MEASURED)):
        sides = [run[stage] if isinstance(run.get(stage), dict) else {} for run in (a, b)]
        checks = [side["validation"] if isinstance(side.get("validation"), dict) else {} for side in sides]
        found |= {f"{stage} {name}": [side.get(name) for side in sides] for name in names}
        found[f"{stage} validation top1"] = [check.get("top1") for check in checks]
    return {name: pair for name, pair in found.items() if pair != [None, None]}


def _recipe(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What differs, steps last and by number."""
    apart = [{"key": key, "a": x, "b": y} for key, (x, y) in _pairs(a, b).items() if x != y]
    return sorted(apart, key=lambda row: int(row["key"].split(".")[1]) if row["key"].startswith("step.") else -1)


def text(facts: Mapping[str, Any]) -> str:
    """What `compare` found, for people."""
    lines = [f"{side.upper()}  {facts[side]['path']}: {_head(facts[side])}" for side in ("a", "b")]
    if facts["same"]:
        lines.append("the same network to the bit")
    numbers = facts["totals"] | facts["accuracy"]
    lines += ["", table([_numbers(name, *pair) for name, pair in numbers.items()], ["", *_COLUMNS])]
    lines += [f"{key}: {x} -> {y}" for key, x, y in _inputs(facts)]
    lines += ["", *_edit_lines(facts["edits"]), "", *_tensor_lines(facts["tensors"])]
    bytes_ = facts["parts"] | facts["around"]
    if apart := [_numbers(name, x or 0, y or 0) for name, (x, y) in bytes_.items() if x != y]:
        lines += ["", table(apart, ["bytes of", *_COLUMNS])]
    if facts["recipe"]:
        lines += ["", table(_recipe_rows(facts["recipe"]), ["recipe", "A", "B"])]
    elif facts["accuracy"]:
        lines += ["", "recipe: the same"]
    return "\n".join(lines)


_COLUMNS = ("A", "B", "B - A", "B / A")


def _head(side: Mapping[str, Any]) -> str:
    return f"{side['network']}, input {'x'.join(map(str, side['input']))}"


def _numbers(name: str, a: Any, b: Any) -> list[Any]:
    """A row of numbers; shares of right answers in per cent, without a quotient, which means nothing."""
    share = name.endswith(("top1", "top5"))
    if share:
        a, b = (None if x is None else 100 * x for x in (a, b))
        name = f"{name.replace('top', 'top-')} %"
    known = a is not None and b is not None
    quotient = b / a if known and a and not share else None
    return [name.replace("_", " "), a, b, b - a if known else None, quotient]


def _inputs(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What the networks are told of their images and classes, where it differs."""
    for key in ("mean", "std", "classes"):
        x, y = facts["a"][key], facts["b"][key]
        if x != y:
            yield (f"number of {key}", len(x), len(y)) if len(x) != len(y) else (key, x, y)


def _edit_lines(edits: Mapping[str, Any]) -> list[str]:
    if not edits["a"] and not edits["b"]:
        return [f"structure: the same, {edits['alike'] or 'no'} edits"]
    first = "edit is" if edits["alike"] == 1 else f"{edits['alike']} edits are"
    lines = [f"structure: the first {first} the same" if edits["alike"] else "structure"]
    for side in ("a", "b"):
        lines += [f"  {side.upper()} only: {_edit(edit)}" for edit in edits[side][:MOST]]
        if len(edits[side]) > MOST:
            lines.append(f"  {side.upper()} only: and {len(edits[side]) - MOST} more")
    return lines


def _edit(edit: Sequence[Any]) -> str:
    shown = ", ".join(map(str, edit[2:]))
    return f"{' '.join(map(str, edit[:2]))} {shown if len(shown) < 60 else f'{len(edit) - 2} numbers'}".rstrip()


def _tensor_lines(tensors: Sequence[Mapping[str, Any]]) -> list[str]:
    apart = [row for row in tensors if not row["same"]]
    rows = [
        [
            *(row["name"], _both(["-" if s is None else "x".join(map(str, s)) or "()" for s in row["shape"]])),
            _both([x or "-" for x in row["form"]]),
            _both(["-" if x is None else f"{100 * x:.3g}" for x in row["kept"]]),
            *(row["bytes"][0], row["bytes"][1], row["change"]),
        ]
        for row in apart[:MOST]
    ]
    lines = [table(rows, ["tensor", "shape", "form", "kept %", "A bytes", "B bytes", "change"])] if rows else []
    if len(apart) > MOST:
        lines.append(f"and {len(apart) - MOST} tensors more that differ")
    if equal := len(tensors) - len(apart):
        lines.append(f"{equal} tensor{'s are' if equal > 1 else ' is'} the same to the bit")
    return lines


def _both(pair: Sequence[str]) -> str:
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} -> {pair[1]}"


def _recipe_rows(apart: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of the table; of a step that only one has, its method alone."""
    steps = [row for row in apart if _METHOD.fullmatch(row["key"])]
    alone = tuple(row["key"].removesuffix("method") for row in steps if row["a"] is None or row["b"] is None)
    return [
        [row["key"], *("-" if value is None else str(value) for value in (row["a"], row["b"]))]
        for row in apart
        if row in steps or not row["key"].startswith(alone)
    ]
