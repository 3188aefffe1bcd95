"""The sentences of a search's report: its verdict, policies in words, costs with their units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from netpress.report import words
from netpress.report.search_folder import Decided, Final, Search, Trial

_SPACE = "\u00a0"
COSTS = {
    "file_bytes": "File, bytes",
    "macs": "Multiply-adds",
    "nonzero": "Weights not zero",
    "params": "Parameters",
    "peak_activation_bytes": "Memory of activations, bytes",
    "latency_ms": "Time per image",
}
STATES = {
    "complete": "complete",
    "halved": "stopped early",
    "failed": "failed",
    "running": "running",
}
_LIMITS = {
    "file_bytes": "File size, at most",
    "macs": "Multiply-adds, at most",
    "nonzero": "Weights not zero, at most",
    "params": "Parameters, at most",
    "peak_activation_bytes": "Memory of activations, at most",
    "latency_ms": "Time per image, at most",
}
_MOST_WIDE, _MOST_LINES = 44, 5


def cost(name: str, value: float | None) -> str:
    """A cost with its unit; a dash where it is not known.

    >>> cost("file_bytes", 20480).replace("\\u00a0", " "), cost("macs", 1e6), cost("latency_ms", None)
    ('20,480 bytes', '1,000,000', '–')
    """
    if value is None:
        return "–"
    if name == "latency_ms":
        return words.milliseconds(value)
    return words.count(value) + ("\u00a0bytes" if name.endswith("_bytes") else "")


def limit(name: str) -> str:
    """A limit on a cost as the head of a line.

    >>> limit("macs"), limit("watts")
    ('Multiply-adds, at most', 'watts, at most')
    """
    return _LIMITS.get(name, f"{name}, at most")


def noun(name: str) -> str:
    """A cost within a sentence.

    >>> noun("file_bytes"), noun("macs")
    ('file', 'multiply-adds')
    """
    return COSTS.get(name, name).partition(",")[0].lower()


def amount(value: float | None) -> str:
    """A value of a dimension.

    >>> amount(0.25), amount(4), amount(None)
    ('0.25', '4', 'left alone')
    """
    return "left alone" if value is None else f"{value:.4g}"


def policy(values: Mapping[str, float | None], dimensions: Sequence[Decided]) -> str:
    """A policy in words, by method; what it leaves as it was is only counted.

    >>> both = [Decided(f"rank:{n}", "rank", (0.5, 1.0), (n,)) for n in "ab"]
    >>> policy({"rank:a": 0.5, "rank:b": 1.0}, both).replace("\\u00a0", " "), policy({"rank:a": 1.0}, both)
    ('rank: a 0.5; 1 of 2 left as it was', 'nothing is compressed')
    """
    done: dict[str, list[str]] = {}
    kept = 0
    for one in dimensions:
        if one.name not in values:
            continue
        value = values[one.name]
        if value is None or (one.values and value == one.values[-1]):
            kept += 1
        else:
            place = one.name.removeprefix(f"{one.method}:")
            done.setdefault(one.method.replace("_", " "), []).append(f"{place}{_SPACE}{amount(value)}")
    if not done:
        return "nothing is compressed"
    parts = [f"{method}: {', '.join(places)}" for method, places in done.items()]
    rest = f"{kept} of {len(dimensions)} left as {'it was' if kept == 1 else 'they were'}"
    return "; ".join(parts + ([rest] if kept else []))


def lines(text: str) -> list[str]:
    """A text broken for the box at the pointer, which does not break lines itself; a long one ends early.

    >>> lines("a b"), len(lines("word " * 99)), lines("word " * 99)[-1]
    (['a b'], 5, '…')
    """
    found = wrap(text, _MOST_WIDE)
    return found if len(found) <= _MOST_LINES else [*found[: _MOST_LINES - 1], "…"]


def cut(text: str, most: int) -> str:
    """A text of a bounded length.

    >>> cut("abcdef", 4), cut("abc", 4)
    ('abc…', 'abc')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def verdict(search: Search) -> str:
    """The search in one sentence."""
    final = search.judged
    if search.verdict == "unfinished" or final is None:
        head = {"met": "Budget met", "missed": "Budget missed"}.get(search.verdict, "Unfinished")
        return f"{head}: {_so_far(search)}"
    head = "Budget met: trial" if search.verdict == "met" else "Budget missed; the nearest result is trial"
    return f"{head} {final.trial}, {_result(search, final)}"


def _result(search: Search, final: Final) -> str:
    baseline = search.baseline
    size, top1 = final.facts["file_bytes"], final.facts["top1"]
    ratio = 4 * baseline["params"] / max(size, 1)
    sizes = f"{words.smaller(ratio)}: {words.count(4 * baseline['params'])} → {words.count(size)} bytes"
    fewer = f"{words.percent(final.facts['macs'] / max(baseline['macs'], 1), 0)} of the multiply-adds"
    against = ""
    if "test_top1" in baseline:
        before = baseline["test_top1"]
        against = f" (baseline {words.percent(before)}, {words.points(top1 - before)})"
    return f"{sizes}, {fewer}; top-1 {words.percent(top1)}{against} on test"


def _so_far(search: Search) -> str:
    ended = [trial for trial in search.trials if trial.state != "running"]
    ranked = search.ranked()
    if not ranked:
        return f"{words.many(len(ended), 'trial')} ended, none has an accuracy yet."
    return f"{words.many(len(ended), 'trial')} ended; the best so far is {trial(search, ranked[0])}."


def trial(search: Search, one: Trial) -> str:
    """A trial in one phrase: whether it fits, its accuracy on validation, what it costs of the limits."""
    fits = "inside the budget" if one.inside else "outside the budget"
    shown = list(search.limits) or [search.unit]
    costs = [f"{noun(name)} {cost(name, one.costs[name])}" for name in shown if name in one.costs]
    return ", ".join([f"trial {one.number}, {fits}: top-1 {words.percent(one.top1 or 0.0)} on validation", *costs])


def counts(search: Search) -> str:
    """How many trials there were, and how they ended."""
    by = [(sum(trial.state == state for trial in search.trials), name) for state, name in STATES.items()]
    return f"{words.many(len(search.trials), 'trial')}: {', '.join(f'{words.count(n)} {name}' for n, name in by if n)}"
