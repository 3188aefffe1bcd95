"""What the playground shows of a run: its files by name, and `play.json`, which says what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.codec import container, onnx_bytes
from netpress.errors import FileError
from netpress.play import dictionaries
from netpress.run_folder import file_digest, read_json

Content = Path | bytes

_HERE = Path(__file__).parent
_STEP = re.compile(r"\d\d-[a-z0-9_]+")
_BASELINE = "00-baseline"


@dataclass(frozen=True, slots=True)
class Site:
    """The playground of one run.

    Args:
        files: name, as in an address -> the file, or its bytes.
        problems: what could not be shown and why, one line each.
    """

    files: Mapping[str, Content]
    problems: Sequence[str]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in self.files.values())


def site(run: Path) -> Site:
    """Gather what the playground of a run needs.

    Files that are missing or damaged are left out and named on the page.

    Args:
        run: the folder of a run, finished or not.

    Raises:
        FileError: nothing in the folder can be shown.
    """
    problems: list[str] = []
    steps: list[dict[str, Any]] = []
    files: dict[str, Content] = {}
    shape: tuple[int, ...] | None = None
    for name, label, path in _candidates(run, problems):
        found = _shape(path, run, problems)
        if found is None:
            continue
        if shape is not None and found != shape:
            problems.append(f"{_within(run, path)}: takes images of {list(found)}, the others of {list(shape)}")
            continue
        shape, address = found, f"files/{name}.press"
        files[address] = path
        steps.append({"name": name, "label": label, "file": address, **_numbers(path)})
    if shape is None:
        raise FileError(f"{run}: nothing to play: {problems[0] if problems else 'no .press file'}")
    about = {
        **_titles(run),
        "shape": shape,
        "original": 0 if steps[0]["name"] == _BASELINE else None,
        "steps": steps,
        "problems": problems,
    }
    return Site({**_page(), "play.json": json.dumps(about).encode(), **files}, problems)


def _candidates(run: Path, problems: list[str]) -> list[tuple[str, str, Path]]:
    """Name, label and file of every step in order, and of the result where it is not the last step's file."""
    if (run / "search.json").is_file():
        raise FileError(f"{run}: the folder of a search; play one of its runs, for instance {run / 'final-1'}")
    folders = sorted(p for p in run.iterdir() if p.is_dir() and _STEP.fullmatch(p.name)) if run.is_dir() else []
    result = run / "model.press"
    if not folders and not result.is_file():
        raise FileError(f"{run}: not the folder of a run: neither steps nor a model.press in it")
    found = []
    for folder in folders:
        label = "Original" if folder.name == _BASELINE else folder.name.partition("-")[2].replace("_", " ")
        found.append((folder.name, label, folder / "candidate.press"))
    last = found[-1][2] if found else None
    if not found or found[0][0] != _BASELINE:
        problems.append(f"{_BASELINE}/candidate.press: missing, so there is no original beside the compressed network")
    if not result.is_file():
        problems.append("model.press: missing; the run is not finished")
    elif last is None or not last.is_file() or file_digest(last) != file_digest(result):
        found.append(("model", "result", result))
    return found


def _shape(path: Path, run: Path, problems: list[str]) -> tuple[int, ...] | None:
    """Shape of the images that a file's network takes, or None and a line in `problems`."""
    try:
        press = container.read(path)
        onnx_bytes.check(press.graph)
    except FileError as error:
        text = str(error).removeprefix(f"{path}: ")
        problems.append(f"{_within(run, path)}: {text}")
        return None
    shape = press.header.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3) or 0 in shape:
        problems.append(f"{_within(run, path)}: takes inputs of {list(shape)}; the page has images, grey or colour")
        return None
    return shape


def _within(run: Path, path: Path) -> str:
    return path.relative_to(run).as_posix()


def _numbers(path: Path) -> dict[str, Any]:
    """What is known of a step: bytes, and accuracy where it was measured."""
    metrics = read_json(path.parent / "metrics.json") or {}
    known = metrics.get("final", metrics)  # beside model.press the whole run's numbers lie
    known = known if isinstance(known, dict) else {}
    numbers = {key: known[key] for key, kind in (("top1", float), ("split", str)) if isinstance(known.get(key), kind)}
    return {"bytes": path.stat().st_size, **numbers}


def _titles(run: Path) -> dict[str, str]:
    """Names of the run, its network and its data, as far as they are known."""
    metrics, claim = read_json(run / "metrics.json") or {}, read_json(run / "run.json") or {}
    data = metrics.get("data")
    named = data.get("name") if isinstance(data, dict) else None
    found = {
        "title": metrics.get("title") or "netpress playground",
        "network": metrics.get("network") or claim.get("network") or "a network",
        "data": named or str(claim.get("data", "")).partition(" ")[0],
    }
    return {key: str(value) for key, value in found.items()}


def _page() -> dict[str, Content]:
    """Everything but the run."""
    files: dict[str, Content] = {"index.html": _HERE / "page.html", "style.css": _HERE / "style.css"}
    files |= {path.name: path for path in sorted(_HERE.glob("*.js"))}
    files |= {f"vendor/{path.name}": path for path in sorted((_HERE / "vendor").iterdir()) if path.is_file()}
    return {**files, "dictionaries.js": dictionaries.module().encode()}
