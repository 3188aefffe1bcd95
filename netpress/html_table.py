"""Compact HTML tables for notebooks: a title, named values, rows; everything is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

MOST = 30
"""Rows that are shown; a notebook is no place for all layers of a large network."""


def card(title: str, facts: Mapping[str, Any], head: Sequence[str] = (), rows: Sequence[Sequence[Any]] = ()) -> str:
    """One object as HTML.

    Args:
        title: of the whole.
        facts: named values, one line each; those that are None are left out.
        head: names of the columns.
        rows: of the table below; behind the first `MOST` stands how many there are.

    >>> card("A <b>", {"bytes": 1234, "none": None}).count("1,234"), "&lt;b&gt;" in card("A <b>", {})
    (1, True)
    """
    told = [(name, words(value)) for name, value in facts.items() if value is not None]
    lines = "".join(f"<tr>{_cell(name, 'th')}{_cell(value, 'td')}</tr>" for name, value in told)
    parts = [f"<strong>{escape(title)}</strong>", f"<table>{lines}</table>" if lines else ""]
    if rows:
        numeric = [any(_number(row[i]) for row in rows) for i in range(len(head))]
        top = "".join(_cell(name, "th", n) for name, n in zip(head, numeric, strict=True))
        body = "".join(f"<tr>{_row(row, numeric)}</tr>" for row in rows[:MOST])
        parts.append(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")
    if len(rows) > MOST:
        parts.append(f"<div>and {len(rows) - MOST:,} more</div>")
    return f"<div>{''.join(parts)}</div>"


def run_card(folder: Path, numbers: Mapping[str, Any], *, met: bool) -> str:
    """A run: its verdict, and one row per stage.

    Args:
        folder: of the run.
        numbers: what its `metrics.json` holds.
        met: whether every limit of its budget is kept.
    """
    baseline, final = numbers["baseline"], numbers["final"]
    limited = bool(numbers["budget"] or numbers["unmeasured"])
    facts = {
        "network": numbers["network"],
        "data": numbers["data"]["name"],
        "smaller": f"{numbers['ratio']:.1f}x: {4 * baseline['params']:,} -> {final['file_bytes']:,} bytes",
        "top-1, test": f"{final['top1']:.2%}",
        "budget": ("met" if met else "MISSED") if limited else None,
        "folder": str(folder),
    }
    rows = [
        [
            *(stage["name"], stage["file_bytes"], 4 * baseline["params"] / stage["file_bytes"], stage["nonzero"]),
            *(stage["macs"], 100 * stage["top1"], 100 * stage["validation"]["top1"]),
        ]
        for stage in [baseline, *numbers["steps"]]
    ]
    head = ["step", "bytes", "ratio", "nonzero", "multiply-adds", "top-1 %", "validation %"]
    return card(f"Run: {numbers['title'] or numbers['network']}", facts, head, rows)


def found_card(folder: Path, facts: Mapping[str, Any]) -> str:
    """A search: its verdict, and one row per policy that was retrained in full.

    Args:
        folder: of the search.
        facts: what its `search.json` holds.
    """
    asked = ", ".join(f"{name} {value}" for name, value in facts["goal"]["asked"].items())
    named = {
        "network": facts["network"],
        "data": facts["data"]["name"],
        "budget": f"{asked}: {facts['verdict'] if facts['verdict'] == 'met' else facts['verdict'].upper()}",
        "trials": len(facts["rows"]),
        "folder": str(folder),
    }
    rows = [
        [
            *(final["folder"], final["trial"], final.get("file_bytes"), final.get("macs"), final.get("nonzero")),
            *(100 * final[name] if name in final else None for name in ("top1", "validation_top1")),
            final.get("error") or ("met" if final["met"] else "missed"),
        ]
        for final in facts["finals"]
    ]
    head = ["folder", "trial", "bytes", "multiply-adds", "nonzero", "top-1 %", "validation %", "budget"]
    return card(str(facts["title"]), named, head, rows)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _row(row: Sequence[Any], numeric: Sequence[bool]) -> str:
    return "".join(_cell(value, "td", n) for value, n in zip(row, numeric, strict=True))


def _cell(value: Any, tag: str, number: object = None) -> str:
    style = f"text-align:{'right' if number else 'left'};padding:2px 10px 2px 0"
    return f'<{tag} style="{style}">{escape(words(value))}</{tag}>'


def words(value: Any) -> str:
    """A value as people read it.

    >>> words(12345), words(0.98765), words((3, 32, 32)), words(None), words(True)
    ('12,345', '0.9877', '3x32x32', '-', 'yes')
    """
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case tuple() if value and all(isinstance(n, int) for n in value):
            return "x".join(map(str, value))
    return str(value)
