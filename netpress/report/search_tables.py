"""The tables of a search's report as plain rows of cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from netpress.report import search_words, tables, words
from netpress.report.folder import RunFolder
from netpress.report.search_figures import columns
from netpress.report.search_folder import COSTS, Final, Search, Trial, number
from netpress.report.search_strips import pairs
from netpress.report.tables import Cell, Column, Limit, Table

MOST_FAILED, MOST_DIMENSIONS, MOST_WIDE = 20, 60, 140
_OURS = re.compile(r"final-\d+")


class Link(NamedTuple):
    """A final's row: where its own report lies, empty where there is none, and its cells."""

    name: str
    href: str
    cells: Sequence[Cell]


def limits(search: Search) -> list[Limit]:
    """The budget line by line: as the judged final measured it, else as the best trial so far does."""
    final = search.judged
    if final is not None and final.budget:
        return _measured(search, final)
    best = next(iter(search.ranked()), None)
    lines = []
    if search.least is not None:
        top1 = None if best is None else best.top1
        shown = "not measured" if top1 is None else words.percent(top1)
        met = None if top1 is None else top1 >= search.least
        lines.append(Limit("Top-1 accuracy, at least", words.percent(search.least), shown, "validation", met))
    for name, most in search.limits.items():
        value = None if best is None else best.costs.get(name)
        told = "not measured" if value is None else search_words.cost(name, value)
        met = None if value is None else value <= most
        lines.append(Limit(search_words.limit(name), search_words.cost(name, most), told, "the trial", met))
    return lines


def _measured(search: Search, final: Final) -> list[Limit]:
    """Verdicts of a final in the words that the report of a run has for them."""
    baseline = {**search.baseline, "top1": search.baseline.get("test_top1", search.baseline["top1"])}
    lines = []
    for verdict in final.budget:
        unknown = number(verdict.get("measured")) is None
        filled = {"limit": "", **verdict, "measured": 0 if unknown else verdict["measured"], "met": verdict.get("met")}
        run = RunFolder(search.path, {"baseline": baseline, "steps": [], "final": final.facts, "budget": [filled]})
        lines += [one._replace(measured="not measured", met=None) if unknown else one for one in tables.limits(run)]
    return lines


def finals(search: Search) -> tuple[Sequence[Column], list[Link]]:
    """The baseline and every trial that was retrained in full, with a link to its own report."""
    known = [name for name in COSTS if any(final.cost(name) is not None for final in search.finals)]
    heads = [Column("Network", numeric=False), Column("Budget", numeric=False), Column("Top-1 test")]
    heads += [Column("Top-1 validation"), *(Column(search_words.COSTS[name]) for name in known), Column("Ratio")]
    heads += [Column("Time spent")]
    base = search.baseline
    test = Cell(words.percent(base["test_top1"])) if "test_top1" in base else Cell("–")
    sizes = [Cell(_plain(name, base.get(name))) for name in known]
    rows = [Link("Baseline", "", [Cell("–"), test, Cell(words.percent(base["top1"])), *sizes, Cell("1"), Cell("–")])]
    for final in search.finals:
        name = f"Trial {final.trial}{', the result' if final is search.winner else ''}"
        rows.append(Link(name, _href(search, final), _final(search, final, known)))
    for trial, _ in search.lost:
        rows.append(Link(f"Trial {trial}", "", [Cell("✗ failed"), *[Cell("–")] * (len(heads) - 2)]))
    return heads, rows


def _final(search: Search, final: Final, known: Sequence[str]) -> list[Cell]:
    spent, size = final.cost("seconds"), final.facts["file_bytes"]
    return [
        Cell("✓ met" if final.met else "✗ missed"),
        Cell(words.percent(final.facts["top1"])),
        Cell(words.percent(final.facts["validation_top1"])),
        *(Cell(_plain(name, final.cost(name))) for name in known),
        Cell(words.times(4 * search.baseline["params"] / max(size, 1))),
        Cell("–" if spent is None else words.seconds(spent)),
    ]


def _href(search: Search, final: Final) -> str:
    """The final's own report, if it is there; a name of another kind is not followed."""
    if not _OURS.fullmatch(final.folder) or not (search.path / final.folder / "report.html").is_file():
        return ""
    return f"{final.folder}/report.html"


def lost(search: Search) -> list[str]:
    """Why a trial could not be retrained in full, one line each."""
    return [
        f"Trial {trial} could not be retrained in full: {search_words.cut(error, 400)}" for trial, error in search.lost
    ]


def dimensions(search: Search) -> Table:
    """What was decided: its values, how much it matters, what the result and the front chose."""
    shown = columns(search)
    head = f"Trial {shown[0][1].number}, the best" if shown else "The best"
    heads = [Column("Decision", numeric=False), Column("Layers", numeric=False), Column("Values", numeric=False)]
    heads += [Column("Importance"), Column(head, numeric=False), Column("On the front", numeric=False)]
    rows = []
    for one in search.dimensions[:MOST_DIMENSIONS]:
        share = search.importance.get(one.name)
        chosen = [trial.policy[one.name] for _, trial in shown if one.name in trial.policy]
        front = [value for value in one.values if value in chosen[1:]]
        rows.append(
            [
                Cell(search_words.cut(one.name, 80), one.name),
                Cell(search_words.cut(", ".join(one.paths), 80)),
                Cell(search_words.cut(", ".join(map(search_words.amount, one.values)), 80)),
                Cell("–", -1) if share is None else Cell(words.percent(share, 1), share),
                Cell(search_words.amount(chosen[0]) if chosen else "–"),
                Cell(", ".join(map(search_words.amount, front)) or "–"),
            ]
        )
    return Table(heads, rows)


def trials(search: Search) -> Table:
    """Every trial; of very many those that did not end well and the best."""
    known = [name for name in COSTS if any(name in trial.costs for trial in search.trials)]
    heads = [Column("Trial"), Column("State", numeric=False), Column("Top-1 validation"), Column("Load")]
    heads += [Column("Missing"), *(Column(search_words.COSTS[name]) for name in known), Column("Rung")]
    heads += [Column("Time"), Column("Where", numeric=False), Column("Policy, or what went wrong", numeric=False)]
    order = [*search.ranked(), *(trial for trial in search.trials if not trial.measured)]
    shown = sorted(order[: search.most], key=lambda trial: trial.number)
    return Table(heads, [_trial(search, trial, known) for trial in shown])


def _trial(search: Search, trial: Trial, known: Sequence[str]) -> list[Cell]:
    told = search_words.policy(trial.policy, search.dimensions)
    tail = f"{trial.error} ({told})" if trial.error else told
    state = search_words.STATES[trial.state] + (", outside" if trial.measured and not trial.inside else "")
    return [
        Cell(str(trial.number), trial.number),
        Cell(state, state),
        Cell(words.percent(trial.top1), round(trial.top1, 6))
        if trial.measured and trial.top1 is not None
        else Cell("–", -1),
        Cell("–", -1) if trial.load is None else Cell(words.percent(trial.load, 1), round(trial.load, 5)),
        Cell("–", -1) if trial.missing is None else Cell(f"{trial.missing:.2f}", round(trial.missing, 5)),
        *(Cell(_plain(name, trial.costs.get(name)), round(trial.costs.get(name, -1), 4)) for name in known),
        Cell("–", -1) if trial.rung < 0 else Cell(str(trial.rung), trial.rung),
        Cell("–", -1) if trial.seconds is None else Cell(words.seconds(trial.seconds), round(trial.seconds, 1)),
        Cell(search_words.cut(trial.where, 30)),
        Cell(search_words.cut(tail, MOST_WIDE)),
    ]


def _plain(name: str, value: float | None) -> str:
    return search_words.cost(name, value).removesuffix("\u00a0bytes")


def failed(search: Search) -> Table | None:
    """Trials that failed, with their error; None where all went well."""
    gone = [trial for trial in search.trials if trial.state == "failed"]
    if not gone:
        return None
    heads = [Column("Trial"), Column("Error", numeric=False), Column("Where", numeric=False)]
    heads.append(Column("Policy", numeric=False))
    rows = [
        [
            Cell(str(trial.number), trial.number),
            Cell(search_words.cut(trial.error or "not told", 300)),
            Cell(search_words.cut(trial.where, 30)),
            Cell(search_words.cut(search_words.policy(trial.policy, search.dimensions), MOST_WIDE)),
        ]
        for trial in gone[:MOST_FAILED]
    ]
    return Table(heads, rows)


def foreseen(search: Search) -> Table | None:
    """How far the costs that were foreseen lie from the measured ones; None where no trial knows both."""
    heads = [Column("Cost", numeric=False), Column("Trials"), Column("Median error"), Column("Largest error")]
    heads.append(Column("Mean of measured over foreseen"))
    rows = []
    for name in COSTS:
        known = [(before, after) for before, after in pairs(search, name) if before > 0 and after > 0]
        if known:
            errors = [abs(before / after - 1) for before, after in known]
            ratio = sum(after / before for before, after in known) / len(known)
            off = [Cell(_off(median(errors))), Cell(_off(max(errors)))]
            rows.append([Cell(search_words.COSTS[name]), tables.number(len(known)), *off, Cell(f"{ratio:.3f}")])
    return Table(heads, rows) if rows else None


def _off(share: float) -> str:
    return words.error(share) if share else "none"


def environment(search: Search) -> list[tuple[str, str]]:
    """What searched where: (what, value)."""
    facts = search.facts
    spent = number(facts.get("seconds"))
    ours = [
        ("Sampler", facts.get("sampler")),
        ("Executor", facts.get("executor")),
        ("Workers", facts.get("workers")),
        ("Time spent", None if spent is None else words.seconds(spent)),
        ("Classes", facts.get("classes")),
    ]
    rows = tables.environment({**facts, "data": facts.get("data") or {}, "machine": _machine(search)})
    return rows[:5] + [(what, str(value)) for what, value in ours if value not in (None, "")] + rows[5:]


def _machine(search: Search) -> dict[str, object]:
    machine = search.facts.get("machine") or {}
    return {**machine, "versions": machine.get("versions") or {}}
