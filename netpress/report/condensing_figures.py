"""The figures of condensing: training with its stages, and which earlier layers each layer still reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from plotly import graph_objects as go

from netpress.report.axes import empty, label, upright
from netpress.report.condensing import Reuse, dropped
from netpress.report.figures import BLUE, GREEN, GREY

CELL = 17
_MOST_TICKS = 48


def stages_figure(history: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Training loss (above) and validation top-1 (below) against epochs; epochs that dropped connections are shaded.

    A point stands at the end of its epoch, so the shade is the time within which the connections went.

    Args:
        history: rows with `train_loss`, `validation_top1`, `stage`.
    """
    curves = {
        "train_loss": ("training loss", "y", BLUE, "circle", 1),
        "validation_top1": ("validation top-1, %", "y2", GREEN, "square", 100),
    }
    epochs = list(range(1, len(history) + 1))
    figure = empty(height=400)
    for key, (name, axis, colour, symbol, scale) in curves.items():
        figure.add_scatter(
            x=epochs,
            y=[scale * row[key] if row.get(key) is not None else None for row in history],
            name=name,
            mode="lines+markers",
            line={"color": colour},
            marker={"size": 6 if len(epochs) < 60 else 3, "symbol": symbol},
            yaxis=axis,
            hovertemplate="epoch %{x}: %{y:.4g}",
            cliponaxis=False,
        )
    for epoch, first, last in dropped(history):
        _shade(figure, epoch, text=str(first) if first == last else f"{first}–{last}")
    figure.update_layout(
        yaxis={"domain": [0.54, 1], "title": upright("loss")},
        yaxis2={"domain": [0, 0.44], "title": upright("top-1, %"), "automargin": True},
        xaxis={"anchor": "y2", "title": "epochs", "range": [0, len(history) + 0.2], "tickformat": "d"},
    )
    figure.update_xaxes(nticks=10, **({"dtick": 1} if len(history) <= 10 else {}))
    return figure


def _shade(figure: go.Figure, epoch: int, *, text: str) -> None:
    shape = {"type": "rect", "x0": epoch - 1, "x1": epoch, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    figure.add_shape(**shape, fillcolor=GREY, opacity=0.16, line={"color": GREY, "width": 1})
    figure.add_annotation(
        x=epoch - 0.5, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False, font={"size": 11}
    )


def reuse_figure(found: Reuse) -> go.Figure:
    """Each condensed layer against the earlier layers that it could read: mean |W|, over the largest of its row."""
    rows, columns = len(found.layers), len(found.sources)
    figure = empty(height=max(260, 150 + CELL * rows))
    seen = [
        [
            [escape(layer, quote=False), escape(source, quote=False), "" if mean is None else f"{mean:.3g}"]
            for source, mean in zip(found.sources, means, strict=True)
        ]
        for layer, means in zip(found.layers, found.means, strict=True)
    ]
    figure.add_heatmap(
        z=[list(row) for row in found.shares],
        x=list(range(columns)),
        y=list(range(rows)),
        customdata=seen,
        hovertemplate="%{customdata[0]} reads %{customdata[1]}: mean |W| %{customdata[2]}<extra></extra>",
        hoverongaps=False,
        colorscale=[[0, "rgba(61,133,198,0.06)"], [1, "rgba(61,133,198,1)"]],
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=1,
        ygap=1,
    )
    plain = {"showgrid": False, "zeroline": False}
    figure.update_yaxes(range=[rows - 0.5, -0.5], **plain, **_ticks(found.layers))
    figure.update_xaxes(automargin=True, tickangle=-90, range=[-0.5, columns - 0.5], **plain, **_ticks(found.sources))
    figure.update_layout(showlegend=False, margin={"t": 12})
    return figure


def _ticks(names: Sequence[str]) -> dict[str, Any]:
    """All names, or every other one and so on where they are too many to stand beside each other."""
    places = list(range(0, len(names), 1 + (len(names) - 1) // _MOST_TICKS))
    return {"tickvals": places, "ticktext": [label(names[i]) for i in places]}
