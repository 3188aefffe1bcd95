"""The folder of a run: where things lie, what is finished, and to which network and data it belongs.

    recipe.toml  run.json  NN-step/{candidate.press, metrics.json, history.csv}  model.press  model.onnx
    metrics.json  report.html  log.jsonl  tensorboard/

A step is finished when its `metrics.json` names its key and the content of its `candidate.press`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from netpress import atomic
from netpress.errors import FileError, RecipeError

_STEP = re.compile(r"\d\d-[a-z0-9_]+")
_OURS = ("recipe.toml", "run.json", "model.press", "model.onnx", "metrics.json", "report.html", "log.jsonl")


def digest(value: Any) -> str:
    """SHA-256 of plain data, independent of the order of keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where the file is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object, whole or not at all."""
    atomic.write(path, json.dumps(value, indent=1) + "\n")


def claim(out: Path, identity: Mapping[str, str], *, fresh: bool) -> None:
    """Make `out` the folder of this run, or refuse: it belongs to another network or data set.

    Args:
        out: of the run; made if need be.
        identity: what must agree with an earlier run in the folder: "network", "data".
        fresh: throw an earlier run away first.

    Raises:
        RecipeError: says what differs and how to go on.
        FileError: the folder cannot be made, or holds other people's files.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{out}: cannot be made a run folder: {error.strerror}") from error
    earlier = read_json(out / "run.json")
    if fresh and earlier is not None:
        _clear(out)  # run.json stays until it is replaced: killed here, the folder is still ours
        earlier = dict(identity)
        write_json(out / "run.json", earlier)
    if earlier is None:
        if any(not p.name.startswith(".") for p in out.iterdir()):
            raise FileError(f"{out}: not empty and not a run folder; choose another --out")
        atomic.sweep(out)
        write_json(out / "run.json", dict(identity))
        return
    atomic.sweep(out)
    for what, mine in identity.items():
        if earlier.get(what) != mine:
            raise RecipeError(
                f"{out} holds a run of another {what}: {earlier.get(what)}, now {mine}; "
                f"choose another --out, or --fresh to throw that run away"
            )


def _clear(out: Path) -> None:
    for path in sorted(out.iterdir()):
        if path.is_dir() and (_STEP.fullmatch(path.name) or path.name in ("tensorboard", "mlruns", "wandb")):
            shutil.rmtree(path)
        elif path.name in _OURS and path.name != "run.json":
            path.unlink()


def finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The metrics of a finished step with this key; None where it must be (re)done."""
    numbers = read_json(folder / "metrics.json")
    file = folder / "candidate.press"
    if numbers is None or numbers.get("key") != key or not file.is_file():
        return None
    return numbers if numbers.get("sha256") == file_digest(file) else None


def start_step(folder: Path) -> None:
    """Make the folder of a step ready to be (re)done: what says that it is finished goes first."""
    try:
        folder.mkdir(exist_ok=True)
        (folder / "metrics.json").unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made a step's folder: {error.strerror}") from error
    atomic.sweep(folder)


def drop_stale(out: Path, keep: Iterable[str]) -> None:
    """Remove folders of steps that the recipe no longer has."""
    names = set(keep)
    for path in out.iterdir():
        if path.is_dir() and _STEP.fullmatch(path.name) and path.name not in names:
            shutil.rmtree(path)


def write_history(path: Path, history: Iterable[Mapping[str, float]]) -> None:
    """One CSV row per epoch."""
    rows = list(history)
    if not rows:
        return
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, fieldnames=names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write(path, text.getvalue())


def log(out: Path, event: str, **facts: Any) -> None:
    """Append one line to the run's log."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **facts}
    atomic.append(out / "log.jsonl", json.dumps(line))
