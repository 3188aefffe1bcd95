"""Small figures of a search's report: values against accuracy, the way to the best trial, foreseen against measured."""

from __future__ import annotations

from collections.abc import Sequence

from plotly import graph_objects as go

from netpress.report import search_words
from netpress.report.axes import empty, upright
from netpress.report.figures import BLUE, GREEN, GREY
from netpress.report.search_figures import accuracy_axis, drawn, error
from netpress.report.search_folder import Decided, Search, Trial

MOST_STRIPS = 9
_SIDES = (("inside", True, BLUE, "circle"), ("outside", False, GREY, "circle-open"))
_MOST_TICKS = 6
_WIDE = 20


def strips(search: Search) -> list[tuple[Decided, go.Figure]]:
    """Values of a dimension against accuracy, for the dimensions that matter most."""
    shown = drawn(search)
    order = sorted(search.dimensions, key=lambda one: -search.importance.get(one.name, 0.0))[:MOST_STRIPS]
    axis = accuracy_axis([trial.top1 for trial in shown])
    return [(one, _strip(one, shown).update_yaxes(nticks=5, **axis)) for one in order]


def _strip(one: Decided, shown: Sequence[Trial]) -> go.Figure:
    values = list(one.values)
    figure = empty(height=210)
    for name, inside, colour, symbol in _SIDES:
        points = [t for t in shown if t.inside is inside and t.policy.get(one.name, "") in values]
        figure.add_scatter(
            x=[values.index(trial.policy[one.name]) for trial in points],
            y=[error(trial.top1) for trial in points],
            name=f"{name} the budget",
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 7, "opacity": 0.8},
            customdata=[trial.number for trial in points],
            hovertemplate="%{customdata}<extra></extra>",
            cliponaxis=False,
        )
    seen = list(range(0, len(values), 1 + (len(values) - 1) // _MOST_TICKS))
    names = ["none" if values[i] is None else search_words.amount(values[i]) for i in seen]
    figure.update_xaxes(range=[-0.4, len(values) - 0.6], tickvals=seen, ticktext=names, tickangle=0, zeroline=False)
    return figure.update_layout(margin={"t": 8, "b": 30})


def progress_figure(search: Search) -> go.Figure | None:
    """What the search optimises, trial by trial, and the best so far; None where no trial has it.

    That is accuracy where a cost is limited, else the load; before any trial fits, how much is missing.
    """
    measured = [trial for trial in search.trials if trial.measured and trial.missing is not None]
    fits = any(trial.inside for trial in measured)
    accuracy = bool(search.limits) and fits
    kept = [trial for trial in measured if accuracy or not fits or trial.load is not None]
    if not kept:
        return None
    values = [error(t.top1) if accuracy else 100 * (t.load or 0) if fits else t.missing or 0.0 for t in kept]
    best: list[float | None] = []
    for trial, value in zip(kept, values, strict=True):
        last = best[-1] if best else None
        counts = trial.inside or not fits
        best.append(value if counts and (last is None or value < last) else last)
    figure = empty(height=320)
    among = {trial.number for trial in drawn(search)}
    for name, inside, colour, symbol in _SIDES:
        points = [(t, v) for t, v in zip(kept, values, strict=True) if t.inside is inside and t.number in among]
        if points:
            figure.add_scatter(
                x=[trial.number for trial, _ in points],
                y=[value for _, value in points],
                name=f"{name} the budget",
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 7},
                customdata=[trial.number for trial, _ in points],
                hovertemplate="%{customdata}<extra></extra>",
                cliponaxis=False,
            )
    line = {"color": GREEN, "width": 2, "shape": "hv"}
    steps = [i for i, value in enumerate(best) if i in (0, len(best) - 1) or value != best[i - 1]]
    x, y = [kept[i].number for i in steps], [best[i] for i in steps]
    figure.add_scatter(x=x, y=y, name="best so far", mode="lines", line=line, hoverinfo="skip")
    title = "top-1, %" if accuracy else f"{search.unit.replace('_', ' ')}, % of baseline" if fits else "missing"
    figure.update_yaxes(title=upright(title), **(accuracy_axis([t.top1 for t in kept]) if accuracy else {}))
    if not fits and min(values) > 0 and max(values) > _WIDE * min(values):
        figure.update_yaxes(type="log", nticks=5)
    figure.update_xaxes(title="trial", tickformat="d", nticks=10, zeroline=False)
    return figure


def pairs(search: Search, name: str) -> list[tuple[float, float]]:
    """(foreseen, measured) of a cost, for the trials that know both."""
    known = [trial for trial in search.trials if trial.measured]
    return [(t.foreseen[name], t.costs[name]) for t in known if name in t.foreseen and name in t.costs]


def foreseen_figure(search: Search, name: str) -> go.Figure:
    """One cost as foreseen against as measured; on the line the two agree."""
    shown = [t for t in drawn(search) if name in t.foreseen and name in t.costs]
    figure = empty(height=300)
    figure.add_scatter(
        x=[float(f"{trial.foreseen[name]:.6g}") for trial in shown],
        y=[trial.costs[name] for trial in shown],
        name="trials",
        mode="markers",
        marker={"color": BLUE, "symbol": "circle", "size": 7},
        customdata=[trial.number for trial in shown],
        hovertemplate="foreseen %{x:,.5~g}, measured %{y:,.5~g}<br>%{customdata}<extra></extra>",
        cliponaxis=False,
    )
    both = [value for t in shown for value in (t.foreseen[name], t.costs[name])]
    ends = [min(both), max(both)]
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    figure.add_scatter(x=ends, y=ends, name="as foreseen", mode="lines", line=line, hoverinfo="skip")
    ticks = {"tickformat": "~g" if name == "latency_ms" else "~s", "nticks": 5, "tickangle": 0}
    figure.update_xaxes(title={"text": "foreseen", "standoff": 6}, **ticks)
    figure.update_yaxes(title=upright("measured"), **ticks)
    return figure.update_layout(showlegend=False, margin={"t": 8, "b": 42})
