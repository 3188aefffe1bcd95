"""The rows as text, CSV and HTML."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from netpress.reproduce.papers import titles
from netpress.reproduce.sizes import Row
from netpress.reproduce.verdict import DIFFERS, VERDICTS

_HEAD = ("where", "what", "printed", "ours", "runs", "verdict", "note")
_NUMERIC = {"printed", "ours", "runs"}


def shown(value: float | None, unit: str) -> str:
    """Our number as people read it.

    >>> shown(62_378_344, "parameters"), shown(45.704, "times"), shown(0.06007, "share"), shown(None, "share")
    ('62,378,344', '45.704', '6.01 %', '–')
    >>> shown(553_430_176, "bytes"), shown(36, "bytes")
    ('553.4 MB', '36')
    """
    if value is None:
        return "–"
    if unit == "times":
        return f"{value:.5g}"
    if unit == "share":
        return f"{100 * value:.2f} %"
    if unit == "bytes" and value >= 10**5:
        return f"{value / 1e6:#.4g} MB"
    return f"{value:,.0f}"


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Rows of each verdict.

    >>> counts([])
    {'exact': 0, 'rounded': 0, 'differs': 0}
    """
    found = Counter(row.verdict for row in rows)
    return {verdict: found[verdict] for verdict in VERDICTS}


def summary(rows: Sequence[Row]) -> str:
    """One line: how many rows of each verdict.

    >>> summary([])
    '0 numbers: 0 exact, 0 rounded, 0 differ'
    """
    n = counts(rows)
    return f"{len(rows)} numbers: {n['exact']} exact, {n['rounded']} rounded, {n['differs']} differ"


@dataclass(frozen=True, slots=True)
class Paper:
    """The rows of one paper, and its notes: each reason once, numbered from 1."""

    name: str
    title: str
    rows: Sequence[Row]
    notes: Sequence[str]

    def note(self, row: Row) -> int | None:
        """Number of a row's note, if it has one."""
        return self.notes.index(row.reason) + 1 if row.reason else None


def by_paper(rows: Iterable[Row]) -> list[Paper]:
    """Group rows that follow each other in one paper."""
    found = []
    for name, group in groupby(rows, key=lambda row: row.paper):
        some = list(group)
        notes = list(dict.fromkeys(row.reason for row in some if row.reason))
        found.append(Paper(name, titles()[name], some, notes))
    return found


def verdict_words(row: Row) -> str:
    """The verdict and how it came about: "rounded (truncated)", "differs (+0.23 %), not reproducible"."""
    words = row.verdict if row.how in ("", row.verdict) else f"{row.verdict} ({row.how})"
    return f"{words}, {row.label}" if row.label else words


def text(rows: Sequence[Row]) -> str:
    """Every row, paper by paper, the notes below, and the count of verdicts."""
    parts = []
    for paper in by_paper(rows):
        cells = [_cells(row, paper) for row in paper.rows]
        notes = [f"[{number}] {note}" for number, note in enumerate(paper.notes, start=1)]
        parts.append("\n".join([paper.title, summary(paper.rows), "", _aligned([_HEAD, *cells]), *notes]))
    return "\n\n".join(
        [*parts, "MB = 10^6 bytes. runs: the network that runs, where the printed one cannot.", summary(rows)]
    )


def _cells(row: Row, paper: Paper) -> tuple[str, ...]:
    runs = shown(row.runnable, row.unit) if row.runnable is not None else ""
    note = paper.note(row)
    seen = (row.where, row.what, row.printed, shown(row.ours, row.unit), runs, verdict_words(row))
    return (*seen, f"[{note}]" if note else "")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    used = [i for i in range(len(_HEAD)) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    return "\n".join(
        "  ".join(row[i].rjust(widths[i]) if _HEAD[i] in _NUMERIC else row[i].ljust(widths[i]) for i in used).rstrip()
        for row in rows
    )


def to_csv(rows: Iterable[Row]) -> str:
    """Every field of every row; numbers unrounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


def to_html(rows: Sequence[Row]) -> str:
    """One page that needs nothing but itself, in the style of the reports."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("netpress.reproduce", "."), PackageLoader("netpress.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"verdict": verdict_words}
    page = environment.get_template("sizes.html.j2")
    papers = by_paper(rows)
    some = [row for row in rows if row.verdict == DIFFERS]
    differing = [list(group) for _, group in groupby(some, key=lambda row: (row.paper, row.reason))]
    context = {"papers": papers, "rows": rows, "counts": counts, "shown": shown, "differing": differing}
    return page.render(**context, summary=summary(rows))
