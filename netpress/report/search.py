"""The folder of a search as one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from netpress import atomic
from netpress.report import search_figures, search_strips, search_tables, search_words, words
from netpress.report.figures import MOST_BARS
from netpress.report.page import rendered
from netpress.report.search_folder import COSTS, Final, Search, read_search

MOST_BYTES = 5_000_000
_MOST = (100, 50, 25)


def write_search_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a search, finished or not; the same folder gives the same bytes.

    The page is one file: styles, figures and plotly's own code are inside, and it forbids itself to load anything.

    Args:
        folder: of the search; it holds `search.json`.

    Returns:
        Path of the page.

    Raises:
        FileError: no search lies there, its `search.json` is damaged, or the disk is full.
    """
    path, search = folder / "report.html", read_search(folder)
    for most in _MOST:
        page = render(replace(search, most=most))
        if len(page.encode()) < MOST_BYTES:
            break
    atomic.write(path, page)
    return path


def render(search: Search) -> str:
    """The page as text."""
    return rendered("search.html.j2", _context(search), legend=search_figures.legend)


def _context(search: Search) -> dict[str, Any]:
    """Everything the template shows."""
    facts, judged, ranked = search.facts, search.judged, search.ranked()
    return {
        "title": str(facts.get("title") or f"Search for {facts.get('network', 'a network')}"),
        "verdict": search_words.verdict(search),
        "met": {"met": True, "missed": False}.get(search.verdict),
        "judged": judged,
        "asked": words.settings((facts["goal"].get("asked") or {}) if _told(facts["goal"]) else {}),
        "cards": _cards(search, judged) if judged is not None else _far(search),
        "limits": search_tables.limits(search),
        "finals": search_tables.finals(search) if search.finals or search.lost else None,
        "lost": search_tables.lost(search),
        "counts": search_words.counts(search),
        "drawn": len(search_figures.drawn(search)),
        "measured": len(ranked),
        "pareto": [(name, search_figures.pareto_figure(search, name)) for name in search_figures.costs(search)],
        "spots": _embedded(search_figures.spots(search)),
        "names": search_words.COSTS,
        "choices": _choices(search),
        "strips": search_strips.strips(search) if ranked else [],
        "dimensions_all": len(search.dimensions),
        "progress": search_strips.progress_figure(search),
        "failed": search_tables.failed(search),
        "trials": search_tables.trials(search),
        "trials_all": len(search.trials),
        "foreseen": search_tables.foreseen(search),
        "foreseen_figures": _foreseen(search),
        "environment": search_tables.environment(search),
        "command": str(facts.get("command") or ""),
    }


def _embedded(values: dict[str, str]) -> Markup:
    """Words for the points of figures as JSON that nothing in it can end."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))  # noqa: S704  (escaped in this line)


def _told(goal: Any) -> bool:
    return isinstance(goal.get("asked"), dict)


def _cards(search: Search, final: Final) -> list[tuple[str, str, str]]:
    """(what, number, what it was) of the final that the verdict is about."""
    base, facts = search.baseline, final.facts
    size, macs = facts["file_bytes"], facts["macs"]
    plain = f"{words.count(base['params'])} parameters × 4 bytes = {words.count(4 * base['params'])} before"
    test, valid = facts["top1"], facts["validation_top1"]
    on_test = "on test"
    if "test_top1" in base:
        on_test = f"{words.points(test - base['test_top1'])} against {words.percent(base['test_top1'])}, on test"
    on_valid = f"{words.points(valid - base['top1'])} against {words.percent(base['top1'])}; decides"
    share = words.percent(macs / max(base["macs"], 1), 1)
    cards = [
        ("File, bytes", words.count(size), f"baseline {words.count(base['file_bytes'])}"),
        ("Ratio", words.times(4 * base["params"] / max(size, 1)), plain),
        ("Top-1 on test", words.percent(test), on_test),
        ("Top-1 on validation", words.percent(valid), on_valid),
        ("Multiply-adds", words.count(macs), f"{share} of {words.count(base['macs'])}"),
    ]
    time = final.cost("latency_ms")
    if time is not None and "latency_ms" in base:
        cards.append(("Time", words.milliseconds(time), f"baseline {words.milliseconds(base['latency_ms'])}"))
    return cards


def _far(search: Search) -> list[tuple[str, str, str]]:
    """The same of a search without any final: its best trial so far, none of it measured on test."""
    base = search.baseline
    best = next(iter(search.ranked()), None)
    if best is None:
        cards = [("Top-1 of the baseline", words.percent(base["top1"]), "on validation")]
        return cards + [(f"{search_words.COSTS[n]}", words.count(base[n]), "of the baseline") for n in COSTS[:2]]
    top1 = best.top1 or 0.0
    against = f"{words.points(top1 - base['top1'])} against {words.percent(base['top1'])}, after short retraining"
    cards = [("Top-1 on validation", words.percent(top1), against)]
    for name in COSTS:
        if name in best.costs and name in base:
            share = f"{words.percent(best.costs[name] / base[name], 1)} of " if base[name] else "baseline "
            told = search_words.cost(name, best.costs[name]).removesuffix("\u00a0bytes")
            was = f"{share}{search_words.cost(name, base[name])}"
            cards.append((search_words.COSTS[name], told, was))
    return cards


def _choices(search: Search) -> dict[str, Any]:
    """What was decided for each layer."""
    shares = [(one.name, search.importance[one.name]) for one in search.dimensions if one.name in search.importance]
    shares.sort(key=lambda pair: -pair[1])
    columns = search_figures.columns(search)
    shown = search.dimensions
    if len(shown) > search_figures.MOST_ROWS:
        most = search_figures.MOST_ROWS
        kept = {name for name, _ in shares[:most]} or {one.name for one in shown[:most]}
        shown = [one for one in shown if one.name in kept]
    return {
        "importance": search_figures.importance_figure(shares) if shares else None,
        "bars": min(len(shares), MOST_BARS),
        "heat": search_figures.choices_figure(shown, columns) if columns and shown else None,
        "width": 230 + search_figures.CELL * len(columns),
        "rows": len(shown),
        "best": columns[0][1].number if columns else None,
        "thinned": len(columns) >= search_figures.MOST_COLUMNS,
        "table": search_tables.dimensions(search),
    }


def _foreseen(search: Search) -> list[tuple[str, Any]]:
    """Figures of the costs that were not foreseen exactly."""
    found = []
    for name in COSTS:
        pairs = search_strips.pairs(search, name)
        if len(pairs) > 1 and any(abs(before - after) > 1e-9 * abs(after) for before, after in pairs):
            found.append((name, search_strips.foreseen_figure(search, name)))
    return found
