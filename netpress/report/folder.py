"""What a report reads of a run folder: its numbers, its recipe, and the files of its first and last stage."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netpress.codec import container
from netpress.codec.container import Place, Press
from netpress.errors import FileError
from netpress.run_folder import read_json

_RUN = ("baseline", "steps", "final", "ratio")
_STAGE = ("name", "params", "nonzero", "macs", "file_bytes", "top1", "layers")


@dataclass(frozen=True, slots=True, eq=False)
class RunFolder:
    """A finished run as it lies on disk.

    Attributes:
        path: of the folder.
        metrics: what its `metrics.json` holds.
        recipe: text of `recipe.toml`; empty where it is missing.
        before: the baseline's file, or None where it is missing or damaged.
        after: the result's file, or None.
        places: every byte of the result's file; empty where `after` is None.
        problems: why a file could not be read, one line each.
    """

    path: Path
    metrics: Mapping[str, Any]
    recipe: str = ""
    before: Press | None = None
    after: Press | None = None
    places: Sequence[Place] = ()
    problems: Sequence[str] = field(default=())

    @property
    def stages(self) -> list[Mapping[str, Any]]:
        """The baseline and every step, in order."""
        return [self.metrics["baseline"], *self.metrics["steps"]]

    @property
    def limits(self) -> dict[str, Any]:
        """The budget as the recipe states it, whether it could be measured or not."""
        return self._asked("budget")

    @property
    def untrained(self) -> bool:
        """Whether the baseline is the untrained network: the first step acted in the one training that there was.

        A baseline of no epochs may also have come with weights of its own, which the recipe then names.
        """
        baseline, steps = self.metrics["baseline"], self.metrics["steps"]
        network = self._asked("network")
        if baseline.get("train", {}).get("epochs") != 0 or not network or "weights" in network:
            return False
        return bool(steps) and any("stage" in row for row in steps[0].get("history", []))

    def _asked(self, part: str) -> dict[str, Any]:
        """A table of the recipe; empty where there is none."""
        try:
            found = tomllib.loads(self.recipe).get(part, {})
        except tomllib.TOMLDecodeError:
            return {}
        return found if isinstance(found, dict) else {}


def read_run(path: Path) -> RunFolder:
    """Read a run folder; files that are missing beside `metrics.json` are named, not fatal.

    Args:
        path: of the folder.

    Raises:
        FileError: no finished run lies there, or its files contradict its numbers.
    """
    metrics = read_json(path / "metrics.json")
    if metrics is None:
        raise FileError(f"{path}: no finished run: metrics.json is missing or damaged; run the recipe to its end first")
    _check(path, metrics)
    problems: list[str] = []
    before, _ = _press(path / str(metrics["baseline"]["name"]) / "candidate.press", problems)
    after, places = _press(path / str(metrics["final"]["name"]) / "candidate.press", problems)
    found, expected = sum(place.size for place in places), metrics["final"]["file_bytes"]
    if after is not None and found != expected:
        raise FileError(
            f"{path}: metrics.json says {expected} bytes of {metrics['final']['name']}/candidate.press, "
            f"which has {found}; the folder was changed: run the recipe again"
        )
    recipe = path / "recipe.toml"
    text = recipe.read_text() if recipe.is_file() else ""
    return RunFolder(path, metrics, text, before, after, places, problems)


def _check(path: Path, metrics: Mapping[str, Any]) -> None:
    """All that no report can do without."""
    missing = [name for name in _RUN if name not in metrics]
    if not missing:
        stages = {"baseline": metrics["baseline"], "final": metrics["final"]}
        stages |= {f"steps.{i}": step for i, step in enumerate(metrics["steps"])}
        missing = [f"{where}.{name}" for where, stage in stages.items() for name in _STAGE if name not in stage]
    if missing:
        raise FileError(f"{path}: metrics.json lacks {', '.join(missing[:5])}; run the recipe again with this version")


def _press(path: Path, problems: list[str]) -> tuple[Press | None, list[Place]]:
    """A file and its places, or a line in `problems`, which names no folder of this machine."""
    try:
        press = container.read(path)
        return press, container.layout(path.read_bytes())
    except FileError as error:
        problems.append(str(error).replace(str(path), f"{path.parent.name}/{path.name}"))
        return None, []
