"""What filter pruning did, from the records of a run: every group of channels over all rounds, as rows and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.report import words
from netpress.report.folder import RunFolder
from netpress.report.tables import Cell, Column, Table, number

MOST_ROWS = 300
MOST_SCORES = 24
_TIED = 4
_COUNTS = 6


@dataclass(frozen=True, slots=True)
class Scores:
    """How the scores of one group lay in the last round that looked at them, in equal bins from `low` to `high`.

    Attributes:
        step: name of the round.
        kind: the criterion.
        relative: whether each layer's scores were divided by their mean, as they are for the order of removal.
        low, high: ends of the bins.
        stay, go: filters per bin that stayed and that went.
        cut: between those that went and those that stayed; None where none went or the two overlap.
    """

    step: str
    kind: str
    relative: bool
    low: float
    high: float
    stay: tuple[int, ...]
    go: tuple[int, ...]
    cut: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that go together, over the rounds.

    Attributes:
        name: the first layer that makes them; `#2` and so on where a layer's channels are tied in several ways.
        tied: the other layers that make them.
        counts: filters before the first round and after each.
        at_once: filters that only go together.
        held: what keeps them: "pinned" by the network, "frozen" by the recipe, or "".
        remark: why none went, or what else is to be said.
        scores: of the last round that scored them.
    """

    name: str
    tied: tuple[str, ...]
    counts: tuple[int, ...]
    at_once: int
    held: str
    remark: str
    scores: Scores | None

    @property
    def before(self) -> int:
        """Filters before the first round."""
        return self.counts[0]

    @property
    def after(self) -> int:
        """Filters after the last."""
        return self.counts[-1]


@dataclass(frozen=True, slots=True)
class Round:
    """One step of filter pruning: its stage, the settings and the rows of its record."""

    stage: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """Of the step."""
        return str(self.stage["name"])

    def total(self, when: str) -> int:
        """All filters `before` or `after`; those of tied layers count once."""
        return sum(row[when] for row in self.rows)


def rounds(run: RunFolder) -> list[Round]:
    """The steps of a run whose records tell of filters, in order."""
    found = []
    for stage in run.metrics["steps"]:
        for record in stage.get("records", []):
            rows = record.get("facts", {}).get("filters")
            if rows:
                found.append(Round(stage, record["settings"], rows))
    return found


def followed(found: Sequence[Round]) -> Sequence[Round]:
    """The last rounds through which every group can be followed: each took up what the one before it had left."""
    start = len(found) - 1
    while start > 0 and _counts(found[start - 1], "after") == _counts(found[start], "before"):
        start -= 1
    return found[max(start, 0) :]


def _counts(one: Round, when: str) -> dict[str, int]:
    return {row["name"]: row[when] for row in one.rows}


def groups(found: Sequence[Round]) -> list[Group]:
    """Every group of channels through some rounds, in the network's order.

    Args:
        found: of `followed`.
    """
    if not found:
        return []
    each = [{row["name"]: row for row in one.rows} for one in found]
    return [_group([rows[name] for rows in each], found) for name in each[-1]]


def _group(rows: Sequence[Mapping[str, Any]], found: Sequence[Round]) -> Group:
    first, last = rows[0], rows[-1]
    counts = (first["before"], *(row["after"] for row in rows))
    scored = [_scores(row["scores"], one) for row, one in zip(rows, found, strict=True) if row.get("scores")]
    name, makers = str(last["name"]), [str(path) for path in last["makers"]]
    return Group(
        name=name,
        tied=tuple(path for path in makers if path != re.sub(r"#\d+$", "", name)),
        counts=counts,
        at_once=last["at_once"],
        held="pinned" if last["pinned"] else "frozen" if last["frozen"] else "",
        remark=_remark(last, scored=bool(scored), went=counts[-1] < counts[0]),
        scores=scored[-1] if scored else None,
    )


def _remark(row: Mapping[str, Any], *, scored: bool, went: bool) -> str:
    if row["pinned"]:
        return f"cannot go: {row['pinned']}"
    if row["frozen"]:
        return "frozen by the recipe"
    if not scored:
        return "no round reached it"
    if row["at_once"] == row["before"]:
        return f"all {row['before']} only together, and some must stay" if row["before"] > 1 else "the last one stays"
    if not went:
        return "the recipe's settings leave all of them"
    return f"{row['at_once']} go at a time" if row["at_once"] > 1 else ""


def _scores(found: Mapping[str, Any], one: Round) -> Scores:
    kind = str(one.settings.get("score", "score"))
    ends = found["low"], found["high"]
    return Scores(one.name, kind, found["relative"], *ends, tuple(found["stay"]), tuple(found["go"]), found["cut"])


def summary(found: Sequence[Group]) -> str:
    """How many filters went, and how many could not."""
    before, after = _sums(found)
    held = {kind: sum(group.before for group in found if group.held == kind) for kind in ("pinned", "frozen")}
    return words.filters(before, after, **held)


def largest(found: Sequence[Group], most: int) -> list[Group]:
    """The groups with most filters, in the network's order."""
    chosen = sorted(range(len(found)), key=lambda i: -found[i].before)[:most]
    return [found[i] for i in sorted(chosen)]


def group_table(found: Sequence[Group], most: int = MOST_ROWS) -> Table:
    """Every group: layers, filters before and after, share kept, what it is tied to, or why it cannot go.

    Args:
        found: of `groups`.
        most: rows; smaller groups are added up in one more.
    """
    shown = largest(found, most)
    columns = [Column("Layer", numeric=False), *map(Column, ("Before", "After", "Kept"))]
    more = {title: text for title, text in _MORE.items() if any(text(group) for group in shown)}
    columns += [Column(title, numeric=False) for title in more]
    rows = [
        [
            Cell(group.name, group.name),
            *_numbers(group.before, group.after),
            *(Cell(text(group), text(group)) for text in more.values()),
        ]
        for group in shown
    ]
    blank = [Cell("")] * len(more)
    foot = []
    if rest := [group for group in found if not any(group is one for one in shown)]:
        foot.append([Cell(f"{words.count(len(rest))} smaller groups"), *_numbers(*_sums(rest)), *blank])
    foot.append([Cell("All, tied ones once"), *_numbers(*_sums(found)), *blank])
    return Table(columns, rows, foot)


def _sums(found: Sequence[Group]) -> tuple[int, int]:
    return sum(group.before for group in found), sum(group.after for group in found)


def _numbers(before: int, after: int) -> list[Cell]:
    share = after / max(before, 1)
    return [number(before), number(after), Cell(words.percent(share, 1), share)]


def _path(counts: Sequence[int]) -> str:
    """Filters through the rounds; rounds that changed nothing are left out, the middle of many too.

    >>> [_path(counts).replace("\\u00a0", " ") for counts in ([20, 15, 15, 12], [9, 8, 7, 6, 5, 4, 3], [10, 10])]
    ['20 → 15 → 12', '9 → 8 → 7 → … → 4 → 3', '10']
    """
    seen = [value for i, value in enumerate(counts) if i == 0 or value != counts[i - 1]]
    texts = list(map(words.count, seen))
    if len(texts) > _COUNTS:
        texts = [*texts[: _COUNTS // 2], "…", *texts[1 - _COUNTS // 2 :]]
    return "\u00a0→ ".join(texts)


def _some(names: Sequence[str], most: int = _TIED) -> str:
    """Names in a row, the first few.

    >>> _some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    text = ", ".join(names[:most])
    return f"{text} and {words.count(len(names) - most)} more" if len(names) > most else text


_MORE: Mapping[str, Callable[[Group], str]] = {
    "Round by round": lambda group: _path(group.counts) if len(set(group.counts)) > 2 else "",
    "Tied to": lambda group: _some(group.tied),
    "Remark": lambda group: group.remark,
}
"""Columns that stand where some group has something to say in them."""


def round_table(found: Sequence[Round]) -> Table:
    """Every round: filters before and after, how many groups lost some, and what the network is then."""
    columns = [Column("Step", numeric=False), Column("Filters before"), Column("After"), Column("Kept")]
    columns += [Column("From", numeric=False), *map(Column, ("Parameters", "Multiply-adds", "Top-1 test"))]
    rows = []
    for one in found:
        changed = [str(row["name"]) for row in one.rows if row["after"] < row["before"]]
        rows.append(
            [
                Cell(one.name),
                *_numbers(one.total("before"), one.total("after")),
                Cell(changed[0] if len(changed) == 1 else f"{words.count(len(changed))} groups"),
                number(one.stage["params"]),
                number(one.stage["macs"]),
                Cell(words.percent(one.stage["top1"])),
            ]
        )
    return Table(columns, rows)


def scored(found: Sequence[Group], most: int = MOST_SCORES) -> tuple[list[Group], int]:
    """The largest groups that have a histogram of scores, and how many there are in all; those that lost some first."""
    free = [group for group in found if group.scores is not None]
    cut = [group for group in free if group.after < group.before]
    return largest(cut or free, most), len(cut or free)
