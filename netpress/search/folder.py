"""The folder of a search: whose it is, its result as plain data, and the winner's files beside it.

run.json  plan.json  baseline/  study.log  final-1/ ...  search.json  report.html
recipe.toml  model.press  model.onnx        of the winner
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from netpress import atomic, run_folder
from netpress.candidate import Candidate
from netpress.errors import FileError
from netpress.search.drawing import Drawn
from netpress.search.goal import Goal
from netpress.search.study import Study, Tried

LOCK = ".lock"
BASELINE, STAGE = "baseline", "00-baseline"
_FILES = ("plan.json", "study.log", "study.log.lock", "search.json", "report.html", "recipe.toml", "model.press")
_PATIENCE_S = 2.0
_WINNERS = ("recipe.toml", "model.press", "model.onnx")


def claim(out: Path, identity: Mapping[str, str], *, fresh: bool) -> None:
    """Make `out` the folder of this search, or refuse; see `run_folder.claim`."""
    if fresh and run_folder.read_json(out / "run.json") is not None:
        for path in (*out.glob("final-*"), out / BASELINE):
            shutil.rmtree(path, ignore_errors=True)
        for name in (*_FILES, "model.onnx"):
            (out / name).unlink(missing_ok=True)
    run_folder.claim(out, identity, fresh=fresh)


def lock(out: Path) -> FileLock:
    """What one process at a time may hold while it writes into the folder; a killed one holds nothing."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{out}: cannot be made a folder: {error.strerror}") from error
    return FileLock(out / LOCK)


def held(lock: FileLock, say: Callable[[str], None]) -> AcquireReturnProxy[Any]:
    """The lock, held; says so where another process has it for long."""
    try:
        return lock.acquire(timeout=_PATIENCE_S)
    except Timeout:
        say("waiting for another process of this search to finish what it does for both")
        return lock.acquire()


def with_baseline(out: Path, folder: Path) -> None:
    """Give a run folder the trained baseline of the search, so that the run does not train it again."""
    source, goal = out / BASELINE, folder / STAGE
    if goal.exists():
        return
    folder.mkdir(exist_ok=True)
    atomic.write(folder / "run.json", (source / "run.json").read_bytes())
    waiting = folder / f".{STAGE}.tmp"
    shutil.rmtree(waiting, ignore_errors=True)
    shutil.copytree(source / STAGE, waiting)
    waiting.rename(goal)


def keep_winner(out: Path, folder: Path) -> None:
    """Put the winner's files beside `search.json`."""
    for name in _WINNERS:
        (out / name).unlink(missing_ok=True)
        if (folder / name).is_file():
            atomic.write(out / name, (folder / name).read_bytes())


def rows(tried: Sequence[Tried], goal: Goal) -> list[dict[str, Any]]:
    """Trials as plain data."""
    found = []
    for one in tried:
        row = one.row
        numbers: dict[str, Any] = {
            "number": row.number,
            "policy": dict(row.policy),
            "state": row.state,
            "rung": row.rung,
            "top1": row.top1,
            "costs": dict(row.costs),
            "foreseen": dict(one.foreseen or {}),
            "seconds": one.seconds,
            "error": one.error,
            "where": one.where,
        }
        if row.measured:
            numbers["missing"] = goal.missing(row.top1, row.costs)
            numbers["load"] = goal.load(row.costs)
        found.append(numbers)
    return found


def dimensions(drawn: Drawn) -> list[dict[str, Any]]:
    """What was decided, as plain data."""
    return [{"name": d.name, "method": d.method, "values": list(d.values), "paths": list(d.paths)} for d in drawn.space]


def importance(study: Study) -> dict[str, float]:
    """The share of the variance of accuracy that each dimension explains (functional ANOVA); empty for few trials."""
    import optuna

    try:
        found = optuna.importance.get_param_importances(
            study.optuna, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0), target=lambda t: t.values[0]
        )
    except (ValueError, RuntimeError):  # fewer than two complete trials, or all alike
        return {}
    return {name: float(share) for name, share in found.items()}


def size_of(candidate: Candidate) -> int:
    """Bytes of a candidate's file without its graph."""
    import tempfile

    from netpress import store

    with tempfile.TemporaryDirectory() as folder:
        return store.save(candidate, Path(folder) / "plain.press", graph=False).file_bytes
