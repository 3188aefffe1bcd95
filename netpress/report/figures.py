"""The figures of a report, as plotly figures without colours of text and background: the page sets those.

Every colour stands out from white and from the page's dark background by 3 : 1 or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from plotly import graph_objects as go

from netpress.report.axes import decades, empty, label, upright
from netpress.report.filters import Group, Scores
from netpress.report.histograms import BINS, Histogram
from netpress.report.replaced import Scan
from netpress.report.tables import FRAMING, PARTS, Bytes
from netpress.report.words import criterion

BLUE, ORANGE, GREEN, PINK, GREY = "#3d85c6", "#d0740c", "#1c9a74", "#c4579d", "#80868d"
_COLOURS = (BLUE, ORANGE, GREEN, PINK, "#8d7be0", "#a8862c", "#8d7be0", GREY, GREY)
PART_COLOURS = dict(zip((*PARTS, *FRAMING), _COLOURS, strict=True))
MOST_BARS = 24


def accuracy_figure(stages: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Top-1 accuracy against the size of the file, stage by stage.

    Args:
        stages: metrics of the baseline and every step: `name file_bytes top1 validation`.
    """
    sizes = [stage["file_bytes"] for stage in stages]
    names = [label(str(stage["name"]), 40) for stage in stages]
    figure = empty(height=380)
    splits = {"test": [stage["top1"] for stage in stages]}
    if all("validation" in stage for stage in stages):
        splits["validation"] = [stage["validation"]["top1"] for stage in stages]
    for (split, top1), (colour, dash, symbol) in zip(splits.items(), _LINES, strict=False):
        figure.add_scatter(
            x=sizes,
            y=[100 * value for value in top1],
            name=split,
            mode="lines+markers+text" if split == "test" else "lines+markers",
            text=[name.partition("-")[0] for name in names],
            textposition="top center",
            customdata=names,
            hovertemplate="%{customdata}<br>%{x:,} bytes<br>top-1 %{y:.2f} %",
            line={"color": colour, "dash": dash},
            marker={"size": 9, "symbol": symbol},
            cliponaxis=False,
        )
    figure.update_xaxes(type="log", title="bytes of the file (logarithmic)", **decades(sizes))
    figure.update_yaxes(title=upright("top-1, %"))
    return figure


_LINES = ((BLUE, "solid", "circle"), (ORANGE, "dot", "diamond"))


def bytes_figure(rows: Sequence[Bytes], most: int = MOST_BARS) -> go.Figure:
    """Bytes by tensor and part as stacked bars; they sum to the file's size.

    Args:
        rows: of `byte_rows`; the last one is the file around the tensors.
        most: bars for tensors; smaller ones are added up in one more bar.
    """
    *tensors, around = rows
    largest = sorted(tensors, key=lambda row: -row.total)[:most]
    bars = [row for row in tensors if any(row is one for one in largest)]
    rest = [row for row in tensors if not any(row is one for one in largest)]
    if rest:
        bars.append(Bytes(f"{len(rest)} smaller tensors", _sum(rest)))
    bars.append(around)
    figure = empty(height=150 + 26 * len(bars))
    for part, colour in PART_COLOURS.items():
        sizes = [row.parts.get(part, 0) for row in bars]
        if any(sizes):
            figure.add_bar(
                x=sizes,
                y=list(range(len(bars))),
                orientation="h",
                name=part,
                customdata=[escape(row.name, quote=False) for row in bars],
                hovertemplate=f"%{{customdata}}<br>{part}: %{{x:,}} bytes<extra></extra>",
                marker={"color": colour, "pattern": {"shape": "/" if part in FRAMING else ""}},
            )
    ticks = {"tickvals": list(range(len(bars))), "ticktext": [label(row.name) for row in bars]}
    figure.update_yaxes(range=[len(bars) - 0.5, -0.5], showgrid=False, zeroline=False, ticklabelstandoff=4, **ticks)
    figure.update_xaxes(title="bytes", tickformat="~s", nticks=5, tickangle=0)
    figure.update_layout(barmode="stack", bargap=0.25, legend={"traceorder": "normal"})
    return figure


def _sum(rows: Sequence[Bytes]) -> dict[str, int]:
    return {part: sum(row.parts.get(part, 0) for row in rows) for part in PART_COLOURS}


def histogram_figure(histogram: Histogram) -> go.Figure:
    """Weights of one layer before (above) and after (below, zeros left out), the shared values as ticks between."""
    width = (histogram.high - histogram.low) / BINS
    bars: dict[str, Any] = {"x0": histogram.low + width / 2, "dx": width, "width": width}
    figure = empty(height=340)
    bars["hovertemplate"] = "%{x:.4g}: %{y:,} weights"
    if histogram.before is not None:
        figure.add_bar(y=histogram.before, name="before", marker={"color": GREY}, yaxis="y", **bars)
    figure.add_bar(y=histogram.after, name="after", marker={"color": BLUE}, yaxis="y2", **bars)
    if histogram.table:
        figure.add_scatter(
            x=[float(f"{value:.5g}") for value in histogram.table],
            y=[0] * len(histogram.table),
            name=f"{len(histogram.table)} values",
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 10, "color": ORANGE},
            hovertemplate="%{x:.5g}<extra>shared value</extra>",
            yaxis="y3",
        )
    figure.update_layout(
        bargap=0,
        yaxis={"domain": [0.56, 1], "title": upright("before"), "nticks": 4},
        yaxis2={"domain": [0, 0.44], "title": upright("after"), "nticks": 4, "automargin": True},
        yaxis3={"domain": [0.46, 0.54], "visible": False, "range": [-1, 1], "fixedrange": True},
        xaxis={"anchor": "y2", "range": [histogram.low - width, histogram.high + width], "title": "weight"},
    )
    return figure


def filters_figure(shown: Sequence[Group]) -> go.Figure:
    """Filters of each group before, as a bar: what stays of it, what went, what could not go.

    Args:
        shown: the groups that get bars, in order.
    """
    free = [not group.held for group in shown]
    parts = (
        ("stayed", BLUE, "", [group.after if ok else 0 for group, ok in zip(shown, free, strict=True)]),
        ("went", ORANGE, "/", [group.before - group.after for group in shown]),
        (
            "cannot go, or frozen",
            GREY,
            ".",
            [0 if ok else group.after for group, ok in zip(shown, free, strict=True)],
        ),
    )
    figure = empty(height=130 + 24 * len(shown))
    for name, colour, shape, counts in parts:
        if any(counts):
            figure.add_bar(
                x=counts,
                y=list(range(len(shown))),
                orientation="h",
                name=name,
                customdata=[[escape(g.name, quote=False), g.before, g.after] for g in shown],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]:,} → %{customdata[2]:,} filters<extra></extra>",
                marker={"color": colour, "pattern": {"shape": shape}},
            )
    ticks = {"tickvals": list(range(len(shown))), "ticktext": [label(group.name) for group in shown]}
    figure.update_yaxes(range=[len(shown) - 0.5, -0.5], showgrid=False, zeroline=False, ticklabelstandoff=4, **ticks)
    figure.update_xaxes(title="filters", nticks=6, tickangle=0, rangemode="tozero")
    figure.update_layout(barmode="stack", bargap=0.25)
    return figure


def scores_figure(scores: Scores) -> go.Figure:
    """Scores of one group's filters, those that stayed and those that went, with the cut as a line between."""
    bins = len(scores.stay)
    width = (scores.high - scores.low) / bins
    most = max(map(sum, zip(scores.stay, scores.go, strict=True)))
    figure = empty(height=300)
    for name, colour, shape, counts in (("stayed", BLUE, "", scores.stay), ("went", ORANGE, "/", scores.go)):
        figure.add_bar(
            x0=scores.low + width / 2,
            dx=width,
            width=width,
            y=counts,
            name=name,
            marker={"color": colour, "pattern": {"shape": shape}},
            hovertemplate=f"%{{x:.4g}}: %{{y:,}} {name}<extra></extra>",
        )
    if scores.cut is not None:
        figure.add_scatter(
            x=[scores.cut, scores.cut],
            y=[0, 1],
            name=f"cut at {scores.cut:.4g}",
            mode="lines",
            line={"color": PINK, "width": 2.5, "dash": "dash"},
            marker={"symbol": "line-ns-open"},
            yaxis="y2",
            hoverinfo="skip",
        )
    figure.update_layout(
        barmode="stack",
        bargap=0,
        yaxis={"title": upright("filters"), "rangemode": "tozero", "nticks": 5, **({"dtick": 1} if most <= 4 else {})},
        yaxis2={"overlaying": "y", "visible": False, "range": [0, 1], "fixedrange": True},
        xaxis={"range": [scores.low - width, scores.high + width], "nticks": 6},
    )
    figure.update_xaxes(title=criterion(scores.kind, relative=scores.relative))
    return figure


def scan_figure(scan: Scan, span: tuple[float, float]) -> go.Figure:
    """Accuracy of the network against one layer's multiply-adds, all other layers as they were.

    Args:
        scan: of the layer.
        span: ends of the upright axis, per cent: the same for all layers of a step.
    """
    tried = [point for point in scan.points if point.structure]
    parts = (
        ("tried", tried, {"color": BLUE, "symbol": "circle", "size": 6}),
        ("as it was", [p for p in scan.points if not p.structure], {"color": GREY, "symbol": "square", "size": 9}),
        ("chosen", [p for p in scan.points if p.chosen], {"color": ORANGE, "symbol": "diamond", "size": 12}),
    )
    figure = empty(height=230)
    for name, points, marker in parts:
        figure.add_scatter(
            x=[point.macs for point in points],
            y=[100 * point.top1 for point in points],
            name=name,
            mode="lines+markers" if name == "tried" else "markers",
            line={"color": marker["color"], "width": 1.5},
            marker=marker,
            customdata=[escape(point.structure, quote=False) or "as it was" for point in points],
            hovertemplate="%{customdata}<br>%{x:,} multiply-adds<br>top-1 %{y:.2f} %<extra></extra>",
        )
    if not any(point.chosen for point in scan.points):
        figure.add_vline(x=scan.macs, line={"color": ORANGE, "width": 2, "dash": "dash"})
    most = max(point.macs for point in scan.points)
    title = {"text": "multiply-adds", "standoff": 6}
    figure.update_xaxes(title=title, range=[0, 1.08 * most], tickformat="~s", nticks=5, tickangle=0)
    figure.update_yaxes(title=upright("top-1, %"), range=list(span), nticks=5)
    figure.update_layout(margin={"t": 8, "b": 42})
    return figure


def training_figure(stages: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Loss (above) and top-1 (below) of all stages against epochs, counted through; stages are banded and numbered.

    Args:
        stages: with `name` and `history`: rows with `train_loss`, `validation_loss`, `validation_top1`.
    """
    curves = {
        "train_loss": ("training loss", "y", _LINES[0], 1),
        "validation_loss": ("validation loss", "y", _LINES[1], 1),
        "validation_top1": ("validation top-1, %", "y2", (GREEN, "solid", "square"), 100),
    }
    figure = empty(height=460)
    for key, (name, axis, (colour, dash, symbol), scale) in curves.items():
        x, y = _through(stages, key, scale)
        figure.add_scatter(
            x=x,
            y=y,
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"size": 6 if len(x) < 60 else 3, "symbol": symbol},
            yaxis=axis,
            hovertemplate="epoch %{x}: %{y:.4g}",
        )
    start = 0
    for i, stage in enumerate(stages):
        end = start + len(stage.get("history", []))
        if end > start:
            _band(figure, (start + 0.5, end + 0.5), text=label(str(stage["name"]).partition("-")[0], 8), odd=i % 2)
        start = end
    figure.update_layout(
        yaxis={"domain": [0.54, 1], "title": upright("loss"), "rangemode": "tozero"},
        yaxis2={"domain": [0, 0.44], "title": upright("top-1, %"), "automargin": True},
        xaxis={"anchor": "y2", "title": "epochs, all stages", "range": [0.5, start + 0.5], "tickformat": "d"},
    )
    figure.update_xaxes(nticks=10, **({"dtick": 1} if start <= 10 else {}))
    return figure


def _through(stages: Sequence[Mapping[str, Any]], key: str, scale: float) -> tuple[list[Any], list[Any]]:
    """Epochs counted through and a curve, with a gap between stages."""
    x: list[Any] = []
    y: list[Any] = []
    epoch = 0
    for stage in stages:
        for row in stage.get("history", []):
            epoch += 1
            x.append(epoch)
            y.append(scale * row[key] if row.get(key) is not None else None)
        x.append(None)
        y.append(None)
    return x, y


def _band(figure: go.Figure, span: tuple[float, float], *, text: str, odd: int) -> None:
    """A stage's span: shaded if odd, numbered at the top."""
    left, right = span
    if odd:
        shape = {"type": "rect", "x0": left, "x1": right, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
        figure.add_shape(**shape, fillcolor=GREY, opacity=0.14, line={"width": 0})
    figure.add_annotation(
        x=(left + right) / 2, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False, font={"size": 11}
    )


def confusion_figure(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> go.Figure:
    """Answers against true classes; only mistakes are coloured, so that they are seen.

    Args:
        confusion: images, (true class, answer).
        classes: names.
    """
    n = len(classes)
    places = list(range(n))
    names = [label(str(name), 14) for name in classes]
    figure = empty(height=max(340, min(900, 150 + 30 * n)))
    figure.add_heatmap(
        z=[[None if i == j else value for j, value in enumerate(row)] for i, row in enumerate(confusion)],
        x=places,
        y=places,
        customdata=[[[true, answer] for answer in names] for true in names],
        hovertemplate="true %{customdata[0]}, answer %{customdata[1]}: %{z:,}<extra></extra>",
        colorscale=[[0, "rgba(208,116,12,0)"], [1, "rgba(208,116,12,0.85)"]],
        showscale=False,
        xgap=1,
        ygap=1,
    )
    if n <= 20:
        cells = [(i, j, value) for i, row in enumerate(confusion) for j, value in enumerate(row) if value]
        figure.add_scatter(
            x=[j for _, j, _ in cells],
            y=[i for i, _, _ in cells],
            text=[str(value) for _, _, value in cells],
            mode="text",
            hoverinfo="skip",
            textfont={"size": 10 if n <= 12 else 8},
        )
    ticks = {"tickvals": places, "ticktext": names, "showgrid": False, "zeroline": False}
    figure.update_xaxes(
        title="answer", automargin=True, tickangle=-90 if n > 12 else None, range=[-0.5, n - 0.5], **ticks
    )
    figure.update_yaxes(title=upright("true class"), range=[n - 0.5, -0.5], **ticks)
    figure.update_layout(showlegend=False, margin={"t": 12})
    return figure


def latency_figure(speedup: Mapping[str, Any]) -> go.Figure:
    """Milliseconds per image, round by round in the order they were measured."""
    figure = empty(height=320)
    looks = ((GREY, "dot", "diamond"), (BLUE, "solid", "circle"))
    for (name, timing), (colour, dash, symbol) in zip(speedup["timings"].items(), looks, strict=False):
        figure.add_scatter(
            x=[turn + 1 for turn in timing["turns"]],
            y=timing["samples_ms"],
            name=label(str(name)),
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 1},
            marker={"size": 8, "symbol": symbol},
            hovertemplate="turn %{x}: %{y:.4g} ms",
        )
    figure.update_xaxes(title="turn", nticks=10, zeroline=False)
    figure.update_yaxes(title=upright("ms per image"), rangemode="tozero")
    return figure
