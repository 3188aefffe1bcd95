"""What the report of a search reads of its folder: `search.json`, checked, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from netpress.errors import FileError
from netpress.run_folder import read_json

SCHEMA = 1
STATES = ("complete", "halved", "failed", "running")
VERDICTS = ("met", "missed", "unfinished")
COSTS = ("file_bytes", "macs", "nonzero", "params", "peak_activation_bytes", "latency_ms")
_T = TypeVar("_T")
_INSIDE = 1e-9
_FINAL = ("trial", "validation_top1", "top1", "file_bytes", "macs", "nonzero")


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """One dimension of the search: a name, its values from the strongest to none, the layers that it decides for."""

    name: str
    method: str
    values: Sequence[float | None]
    paths: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One trial; a number that was not measured is None."""

    number: int
    policy: Mapping[str, float | None]
    state: str
    top1: float | None
    costs: Mapping[str, float]
    foreseen: Mapping[str, float]
    missing: float | None
    load: float | None
    rung: int
    seconds: float | None
    error: str
    where: str

    @property
    def measured(self) -> bool:
        """Whether it has an accuracy."""
        return self.state in ("complete", "halved") and self.top1 is not None

    @property
    def inside(self) -> bool:
        """Whether it keeps every limit, by what its short retraining showed."""
        return self.measured and self.missing is not None and self.missing <= _INSIDE


@dataclass(frozen=True, slots=True, eq=False)
class Final:
    """A trial that was retrained in full, as its own run; `facts` are its numbers."""

    trial: int
    folder: str
    met: bool
    facts: Mapping[str, Any]
    budget: Sequence[Mapping[str, Any]]

    def cost(self, name: str) -> float | None:
        """A number of it, where it is known."""
        return number(self.facts.get(name))


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """A search as it lies on disk.

    Attributes:
        path: of the folder.
        facts: all of `search.json`.
        dimensions: what was decided.
        trials: in the order in which they began.
        front: numbers of the trials that no other surpasses in both accuracy and load, the lowest load first.
        importance: share of the variance of accuracy, by dimension.
        finals: trials that were retrained in full.
        lost: trials whose full retraining failed: number and error.
        winner: the best of them; None: not chosen.
        limits: by name of a cost, the most that is allowed.
        least: the least top-1 that is allowed, a share.
        most: trials that figures and tables show at most.
    """

    path: Path
    facts: Mapping[str, Any]
    dimensions: Sequence[Decided]
    trials: Sequence[Trial]
    front: Sequence[int]
    importance: Mapping[str, float]
    finals: Sequence[Final]
    winner: Final | None
    limits: Mapping[str, float]
    least: float | None
    lost: Sequence[tuple[int, str]] = ()
    most: int = 100

    @property
    def baseline(self) -> Mapping[str, float]:
        """Numbers of the network as it came: `top1` is on validation, `test_top1` on test."""
        return numbers(self.facts["baseline"])

    @property
    def verdict(self) -> str:
        """`met`, `missed` or `unfinished`."""
        return str(self.facts["verdict"])

    @property
    def unit(self) -> str:
        """The cost that is minimised where none is limited."""
        return str(self.facts["goal"].get("unit", "file_bytes"))

    @property
    def judged(self) -> Final | None:
        """The winner; where there is none, the final that keeps most limits; None: nothing was retrained in full."""
        if self.winner is not None or not self.finals:
            return self.winner
        return max(self.finals, key=lambda f: (f.met, sum(bool(v.get("met")) for v in f.budget), f.cost("top1") or 0.0))

    def ranked(self) -> list[Trial]:
        """Trials with an accuracy, the best first: inside the budget before outside, then what the search optimises."""

        def rank(trial: Trial) -> tuple[float, ...]:
            beyond = trial.missing if trial.missing is not None else math.inf
            load = trial.load if trial.load is not None else math.inf
            wanted = -(trial.top1 or 0.0) if self.limits else load
            return (0.0 if trial.inside else beyond, wanted, load, trial.number)

        return sorted((trial for trial in self.trials if trial.measured), key=rank)


def number(value: Any) -> float | None:
    """A finite number, or None for anything else.

    >>> number(3), number(float("nan")), number("3"), number(True)
    (3, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are finite numbers."""
    return {str(name): value for name, value in values.items() if number(value) is not None}


def read_search(path: Path) -> Search:
    """Read the folder of a search, finished or not.

    Args:
        path: of the folder.

    Raises:
        FileError: no search lies there, its `search.json` is damaged, or a newer version wrote it.
    """
    facts = read_json(path / "search.json")
    if facts is None:
        raise FileError(f"{path}: no search: search.json is missing or damaged; start the same search again")
    if facts.get("schema") != SCHEMA:
        raise FileError(f"{path}: search.json has schema {facts.get('schema')!r}, expected {SCHEMA}; update netpress")
    try:
        return _search(path, facts)
    except _DamagedError as error:
        raise FileError(f"{path}: search.json is damaged: {error}; start the same search again") from error


class _DamagedError(Exception):
    """What is wrong, without the file's name."""


def _part(facts: Mapping[str, Any], name: str, kind: type[_T], default: _T | None = None) -> _T:
    """An entry of a kind; an absent or null one is the default, where there is one."""
    value = facts.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind):
        raise _DamagedError(f"{name!r} is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _objects(facts: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A list of objects, empty where it is absent."""
    found = _part(facts, name, list, [])
    if not all(isinstance(one, dict) for one in found):
        raise _DamagedError(f"{name!r} holds something that is no object")
    return found


def _whole(facts: Mapping[str, Any], name: str) -> int:
    return _part(facts, name, int)


def _search(path: Path, facts: Mapping[str, Any]) -> Search:
    baseline, goal = _part(facts, "baseline", dict), _part(facts, "goal", dict)
    lacking = [name for name in ("top1", "file_bytes", "params", "macs") if number(baseline.get(name)) is None]
    lacking += [] if lacking or baseline["params"] > 0 else ["params"]
    if lacking:
        raise _DamagedError(f"'baseline' lacks {', '.join(lacking)}")
    if _part(facts, "verdict", str, "unfinished") not in VERDICTS:
        raise _DamagedError(f"'verdict' is {facts['verdict']!r}, expected one of {', '.join(VERDICTS)}")
    for name in ("data", "machine"):
        _part(facts, name, dict, {})
    _part(_part(facts, "machine", dict, {}), "versions", dict, {})
    trials = sorted((_trial(row) for row in _objects(facts, "rows")), key=lambda trial: trial.number)
    known = {trial.number for trial in trials}
    finals, lost, winner = _finals(facts)
    return Search(
        path,
        {**facts, "verdict": facts.get("verdict") or "unfinished"},
        [_decided(one) for one in _objects(facts, "dimensions")],
        trials,
        [one for one in _part(facts, "front", list, []) if isinstance(one, int) and one in known],
        numbers(_part(facts, "importance", dict, {})),
        finals,
        winner,
        numbers(_part(goal, "limits", dict, {})),
        number(goal.get("least")),
        lost,
    )


def _decided(facts: Mapping[str, Any]) -> Decided:
    values = [number(value) for value in _part(facts, "values", list)]
    if not values:
        raise _DamagedError("'values' is empty")
    paths = [str(path) for path in _part(facts, "paths", list, [])]
    return Decided(_part(facts, "name", str), _part(facts, "method", str, ""), values, paths)


def _trial(row: Mapping[str, Any]) -> Trial:
    state = _part(row, "state", str)
    if state not in STATES:
        raise _DamagedError(f"'state' is {state!r}, expected one of {', '.join(STATES)}")
    return Trial(
        number=_whole(row, "number"),
        policy={str(name): number(value) for name, value in _part(row, "policy", dict).items()},
        state=state,
        top1=number(row.get("top1")),
        costs=numbers(_part(row, "costs", dict, {})),
        foreseen=numbers(_part(row, "foreseen", dict, {})),
        missing=number(row.get("missing")),
        load=number(row.get("load")),
        rung=_part(row, "rung", int, -1),
        seconds=number(row.get("seconds")),
        error=_part(row, "error", str, ""),
        where=_part(row, "where", str, ""),
    )


def _finals(facts: Mapping[str, Any]) -> tuple[list[Final], list[tuple[int, str]], Final | None]:
    """Those that were retrained, those whose retraining failed, and the winner."""
    told, winner = _objects(facts, "finals"), facts.get("winner")
    if winner is not None and not (isinstance(winner, int) and 0 <= winner < len(told)):
        raise _DamagedError(f"'winner' is {winner!r}, expected the place of one of {len(told)} finals")
    lost = [(_whole(one, "trial"), _part(one, "error", str)) for one in told if one.get("error")]
    if winner is not None and told[winner].get("error"):
        raise _DamagedError(f"'winner' is {winner!r}, whose retraining failed")
    by = {place: _final(one) for place, one in enumerate(told) if not one.get("error")}
    return list(by.values()), lost, None if winner is None else by[winner]


def _final(facts: Mapping[str, Any]) -> Final:
    lacking = [name for name in _FINAL if number(facts.get(name)) is None]
    if lacking:
        raise _DamagedError(f"one of 'finals' lacks {', '.join(lacking)}")
    verdicts = _objects(facts, "budget")
    if not all(number(one.get("allowed")) is not None and isinstance(one.get("limit"), str) for one in verdicts):
        raise _DamagedError("a 'budget' of one of 'finals' lacks what is allowed")
    folder = _part(facts, "folder", str, "")
    return Final(_whole(facts, "trial"), folder, facts.get("met") is True, facts, verdicts)
