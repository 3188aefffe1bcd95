"""The figures of a search's report; accuracy is spread towards 100 %, so that one bad trial does not flatten the rest.

Every upright axis of accuracy is one of the error, logarithmic and upside down, whose ticks name the accuracy.
What is said at a point is the number of a trial: the page puts the words of `spots` in its place, written once for all
figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from plotly import graph_objects as go

from netpress.report import search_words, words
from netpress.report.axes import empty, label, upright
from netpress.report.figures import BLUE, GREEN, GREY, MOST_BARS, ORANGE, PINK
from netpress.report.search_folder import Decided, Final, Search, Trial

SIGNS = {"diamond": "◆", "square": "■", "triangle-down": "▼", "star": "★", "circle-open": "○", "line-ns-open": "━"}
MOST_COLUMNS, MOST_ROWS = 16, 40
CELL = 34
_LEAST_ERROR = 0.01
_ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 90)
_MOST_TICKS = 7
_TAG = 26
_LOOKS = {
    "complete": {"color": BLUE, "symbol": "circle", "size": 8},
    "halved": {"color": GREY, "symbol": "triangle-down", "size": 8},
}


def legend(figure: go.Figure) -> list[tuple[str, str, str]]:
    """What the page writes instead of plotly's legend: (name, colour, sign)."""
    if figure.layout.showlegend is False:
        return []
    found = []
    for trace in figure.data:
        line = trace.mode == "lines"
        colour = trace.line.color if line else trace.marker.color
        found.append((trace.name, colour, "━" if line else SIGNS.get(trace.marker.symbol, "●")))
    return found


def drawn(search: Search) -> list[Trial]:
    """The trials that figures show: all that have an accuracy, of very many the front and the best."""
    first = set(search.front) | {final.trial for final in search.finals}
    ranked = sorted(search.ranked(), key=lambda trial: trial.number not in first)
    return sorted(ranked[: search.most], key=lambda trial: trial.number)


def costs(search: Search) -> list[str]:
    """Costs that have a figure: bytes and multiply-adds, what is limited, and time where it is known of two trials."""
    known = [name for name in search_words.COSTS if sum(name in t.costs for t in search.trials if t.measured) > 1]
    return [name for name in known if name in ("file_bytes", "macs", "latency_ms") or name in search.limits]


def pareto_figure(search: Search, name: str) -> go.Figure:
    """Top-1 on validation against one cost: a point per trial, what no other surpasses in both as a line.

    Args:
        search: with trials of which this cost is known.
        name: of the cost.
    """
    shown = [trial for trial in drawn(search) if name in trial.costs]
    figure = empty(height=430)
    for state, look in _LOOKS.items():
        points = [trial for trial in shown if trial.state == state]
        if points:
            spots = [(trial.costs[name], error(trial.top1), trial.number) for trial in points]
            _points(figure, search_words.STATES[state], spots, look)
    front = _front(shown, name)
    figure.add_scatter(
        x=[trial.costs[name] for trial in front],
        y=[error(trial.top1) for trial in front],
        name="front",
        mode="lines",
        line={"color": GREEN, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    sizes = [trial.costs[name] for trial in shown] + _marks(figure, search, name)
    sizes += [search.limits[name]] if name in search.limits else []
    _limits(figure, search, name, sizes)
    tops = [trial.top1 for trial in shown] + [search.baseline["top1"]]
    tops += [final.facts["validation_top1"] for final in search.finals] + ([search.least] if search.least else [])
    figure.update_yaxes(title=upright("top-1 on validation, %"), **accuracy_axis(tops))
    figure.update_xaxes(**_cost_axis(name, sizes))
    return figure


_Spot = tuple[float, float, int | str]


def spots(search: Search) -> dict[str, str]:
    """What every trial that is drawn says of itself, by its number: accuracy, policy, costs."""
    return {str(trial.number): _told(search, trial) for trial in drawn(search)}


def _told(search: Search, trial: Trial) -> str:
    told = [f"{search_words.cost(c, v)} {_UNITS.get(c, c)}".rstrip() for c, v in trial.costs.items() if c in _UNITS]
    policy = search_words.lines(search_words.policy(trial.policy, search.dimensions))
    head = [f"trial {trial.number}{'' if trial.inside else ', outside the budget'}"]
    head.append(f"top-1 {words.percent(trial.top1 or 0.0)}")
    return "<br>".join(escape(line, quote=False) for line in [*head, *policy, *told])


_UNITS = {"file_bytes": "", "macs": "multiply-adds", "nonzero": "weights not zero", "latency_ms": "per image"}


def _points(figure: go.Figure, name: str, spots: Sequence[_Spot], look: Mapping[str, Any]) -> None:
    figure.add_scatter(
        x=[x for x, _, _ in spots],
        y=[y for _, y, _ in spots],
        name=name,
        mode="markers",
        marker=dict(look),
        customdata=[text for _, _, text in spots],
        hovertemplate="%{customdata}<extra></extra>",
        hoverlabel={"align": "left"},
        cliponaxis=False,
    )


def _marks(figure: go.Figure, search: Search, name: str) -> list[float]:
    """The baseline and the finals; where they lie."""
    baseline = search.baseline
    found = []
    if name in baseline:
        text = f"baseline<br>top-1 {words.percent(baseline['top1'])}<br>{search_words.cost(name, baseline[name])}"
        spot = (baseline[name], error(baseline["top1"]), text)
        _points(figure, "baseline", [spot], {"color": ORANGE, "symbol": "square", "size": 11})
        found.append(baseline[name])
    spots = [_final(final, value, name) for final in search.finals if (value := final.cost(name)) is not None]
    if spots:
        _points(figure, "retrained in full", spots, {"color": PINK, "symbol": "star", "size": 14})
    return found + [x for x, _, _ in spots]


def _final(final: Final, value: float, name: str) -> _Spot:
    met = "budget met" if final.met else "budget missed"
    top1 = final.facts["validation_top1"]
    words_ = [f"trial {final.trial}, retrained in full: {met}", f"top-1 {words.percent(top1)} on validation"]
    told = f"{search_words.cost(name, value)} {_UNITS.get(name, name)}".rstrip()
    return value, error(top1), "<br>".join([*words_, told])


def _limits(figure: go.Figure, search: Search, name: str, sizes: Sequence[float]) -> None:
    """The budget as lines with names; plotly takes the place of a name on a logarithmic axis as a logarithm."""
    line = {"color": PINK, "width": 1.5, "dash": "dash"}
    note = {"font": {"size": 11, "color": PINK}, "showarrow": False}
    if name in search.limits:
        most = search.limits[name]
        where = {"x": math.log10(most) if _spread(name, sizes) else most, "y": 1, "yref": "paper"}
        figure.add_vline(x=most, line=line)
        figure.add_annotation(**where, yanchor="bottom", text="limit", **note)
    if search.least:
        where = {"x": 1, "xref": "paper", "xanchor": "right", "y": math.log10(error(search.least))}
        figure.add_hline(y=error(search.least), line=line)
        figure.add_annotation(**where, yanchor="top", text="least accuracy", **note)


def _front(shown: Sequence[Trial], name: str) -> list[Trial]:
    """The trials shown that no other surpasses in both accuracy and this cost, the cheapest first."""
    found: list[Trial] = []
    for trial in sorted(shown, key=lambda t: (t.costs[name], -(t.top1 or 0.0), t.number)):
        if not found or (trial.top1 or 0.0) > (found[-1].top1 or 0.0):
            found.append(trial)
    return found


def error(top1: float | None) -> float:
    """Per cent that are wrong, as axes of accuracy take them: never zero.

    >>> error(0.98), error(1.0)
    (2.0, 0.01)
    """
    return max(_LEAST_ERROR, round(100 - 100 * (top1 or 0.0), 4))


def accuracy_axis(tops: Sequence[float | None]) -> dict[str, Any]:
    """An axis of `error` that reads as accuracy: range, ticks and their names.

    >>> accuracy_axis([0.97, 0.985])["ticktext"]
    ['98.5', '98', '97.5', '97']
    """
    errors = [error(top1) for top1 in tops]
    low, high = min(errors) / 1.15, min(100.0, max(errors) * 1.15)
    ticks = [one for one in _ERRORS if low <= one <= high]
    if len(ticks) < 3:  # a narrow span: even steps tell more than the fixed ones
        step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if (high - low) / s < _MOST_TICKS)
        ticks = [round(i * step, 2) for i in range(math.ceil(low / step), math.floor(high / step) + 1) if i]
    ticks = ticks[:: 1 + (len(ticks) - 1) // _MOST_TICKS]
    ends = [math.log10(high), math.log10(low)]
    return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": [f"{100 - tick:g}" for tick in ticks]}


def _spread(name: str, sizes: Sequence[float]) -> bool:
    """Whether an axis of costs is logarithmic."""
    return name != "latency_ms" and min(sizes) > 0 and max(sizes) / min(sizes) > 5


def _cost_axis(name: str, sizes: Sequence[float]) -> dict[str, Any]:
    title = search_words.COSTS.get(name, name) + (", ms" if name == "latency_ms" else "")
    if not _spread(name, sizes):
        return {"title": title, "tickformat": "~s" if name != "latency_ms" else "~g", "nticks": 6, "tickangle": 0}
    return {"type": "log", "title": f"{title} (logarithmic)", **_ticks(sizes, "B" if name.endswith("_bytes") else "")}


def _ticks(sizes: Sequence[float], unit: str) -> dict[str, Any]:
    """A few round ticks between the sizes; `axes.decades` also looks beyond them, where these axes end."""
    low, high = min(sizes), max(sizes)
    for steps in ((10,), (10, 30), (10, 20, 50), (10, 15, 20, 30, 50, 70)):
        seen = [step * 10.0**power for power in range(-1, 13) for step in steps if low <= step * 10.0**power <= high]
        if len(seen) > 2:
            break
    units = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (0.0, ""))
    scale = [next((size or 1.0, prefix) for size, prefix in units if mark >= size) for mark in seen]
    text = [f"{mark / size:g} {prefix}{unit}".strip() for mark, (size, prefix) in zip(seen, scale, strict=True)]
    return {"tickvals": seen, "ticktext": text}


def tag(name: str) -> str:
    """A dimension for an axis: of a long name method and layer are shortened apart, so that both stay to be told.

    >>> tag("rank:conv1"), tag("filter_prune:features.block0.conv"), tag("weight_share:features.block0.conv")
    ('rank:conv1', 'filter_p:fe.bl0.conv', 'weight_s:fe.bl0.conv')
    """
    method, colon, place = name.partition(":")
    if len(name) <= _TAG or not colon:
        return label(name, _TAG)
    return escape(f"{method[:8]}:", quote=False) + label(place, _TAG - 9)


def importance_figure(shares: Sequence[tuple[str, float]]) -> go.Figure:
    """How much of the variance of accuracy each dimension explains, the most important at the top."""
    shown = shares[:MOST_BARS]
    figure = empty(height=90 + 24 * len(shown))
    figure.add_bar(
        x=[round(100 * share, 2) for _, share in shown],
        y=list(range(len(shown))),
        orientation="h",
        customdata=[escape(name, quote=False) for name, _ in shown],
        hovertemplate="%{customdata}: %{x:.1f} %<extra></extra>",
        marker={"color": BLUE},
    )
    ticks = {"tickvals": list(range(len(shown))), "ticktext": [tag(name) for name, _ in shown]}
    figure.update_yaxes(range=[len(shown) - 0.5, -0.5], showgrid=False, zeroline=False, ticklabelstandoff=4, **ticks)
    figure.update_xaxes(title="variance of accuracy, %", nticks=6, tickangle=0, rangemode="tozero")
    figure.update_layout(showlegend=False, bargap=0.25, margin={"t": 12})
    return figure


def columns(search: Search) -> list[tuple[str, Trial]]:
    """Trials whose choices are shown, with their names: the result, and the front from the cheapest on."""
    by = {trial.number: trial for trial in search.trials}
    judged = search.judged
    first = judged.trial if judged is not None else next((trial.number for trial in search.ranked()), None)
    front = [number for number in search.front if number != first]
    if len(front) >= MOST_COLUMNS:  # evenly thinned, both ends kept
        front = [front[round(i * (len(front) - 1) / (MOST_COLUMNS - 2))] for i in range(MOST_COLUMNS - 1)]
    named = [(f"★ {first}", by[first])] if first in by else []
    return named + [(str(number), by[number]) for number in front]


def choices_figure(dimensions: Sequence[Decided], shown: Sequence[tuple[str, Trial]]) -> go.Figure:
    """Values of every dimension, trial by trial; the darker, the stronger the compression."""
    rows, count = len(dimensions), len(shown)
    figure = empty(height=110 + 26 * rows)
    values = [[trial.policy.get(one.name) for _, trial in shown] for one in dimensions]
    names = [escape(one.name, quote=False) for one in dimensions]
    absent = [[one.name not in trial.policy for _, trial in shown] for one in dimensions]
    text = [
        ["" if gone else "–" if value is None else search_words.amount(value) for value, gone in zip(*row, strict=True)]
        for row in zip(values, absent, strict=True)
    ]
    figure.add_heatmap(
        z=[[_strength(one, value) for value in row] for one, row in zip(dimensions, values, strict=True)],
        x=[name for name, _ in shown],
        y=names,
        text=text,
        hovertemplate="%{y}<br>trial %{x}: %{text}<extra></extra>",
        colorscale=[[0, "rgba(61,133,198,0.04)"], [1, "rgba(61,133,198,0.7)"]],
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=2,
        ygap=2,
    )
    cells = [(i, j) for i in range(rows) for j in range(count)]
    figure.add_scatter(
        x=[shown[j][0] for _, j in cells],
        y=[names[i] for i, _ in cells],
        text=[text[i][j] for i, j in cells],
        mode="text",
        hoverinfo="skip",
        textfont={"size": 11},
    )
    plain = {"type": "category", "showgrid": False, "zeroline": False}
    ticks = {"tickvals": names, "ticktext": [tag(one.name) for one in dimensions]}
    figure.update_yaxes(range=[rows - 0.5, -0.5], ticklabelstandoff=4, **plain, **ticks)
    figure.update_xaxes(range=[-0.5, count - 0.5], side="top", tickangle=0, **plain)
    figure.update_layout(showlegend=False, margin={"t": 34, "b": 8})
    return figure


def _strength(one: Decided, value: float | None) -> float | None:
    """Place of a value: 1 for the strongest, 0 for none; None where the dimension does not have it."""
    if value not in one.values:
        return None
    return round(1 - list(one.values).index(value) / max(1, len(one.values) - 1), 3)
