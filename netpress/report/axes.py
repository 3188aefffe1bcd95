"""What all figures of a report share: the empty figure, names that fit on an axis, titles and ticks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from plotly import graph_objects as go

_LABEL = 26
_PART = re.compile(r"^(..).*?(\d*)$")


def label(name: str, most: int = _LABEL) -> str:
    """A name for an axis: long paths keep the start and the number of each part, others lose their middle.

    Plotly's own markup is switched off.

    >>> label("features.denseblock1.denselayer12.conv1.weight"), label("<b>")
    ('fe.de1.de12.co1.weight', '&lt;b&gt;')
    """
    if len(name) > most and "." in name:
        *path, last = name.split(".")
        name = ".".join([*(_PART.sub(r"\1\2", part) for part in path), last])
    half = (most - 1) // 2
    short = name if len(name) <= most else f"{name[: half + 1]}…{name[len(name) - half :]}"
    return escape(short, quote=False)


def decades(sizes: Sequence[float]) -> dict[str, Any]:
    """A few round ticks around the sizes, in words that fit on a phone."""
    low, high = min(sizes) / 1.4, max(sizes) * 1.4
    for steps in ((10,), (10, 30), (10, 15, 20, 30, 50, 70)):
        seen = [step * 10**power for power in range(13) for step in steps if low <= step * 10**power <= high]
        if len(seen) >= 3:
            break
    units = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))
    text = [next(f"{mark / size:g} {unit}" for size, unit in units if mark >= size) for mark in seen]
    return {"tickvals": seen, "ticktext": text}


def upright(title: str) -> dict[str, Any]:
    """The title of an upright axis, clear of its labels."""
    return {"text": title, "standoff": 10}


def empty(height: int) -> go.Figure:
    """An empty figure: no template, room for a legend above, nothing that swallows a swipe on a phone."""
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "margin": {"l": 48, "r": 16, "t": 40, "b": 54},
            "legend": {"orientation": "h", "xref": "container", "x": 0, "yref": "container", "y": 1, "yanchor": "top"},
            "yaxis": {"automargin": True},
            "dragmode": False,
            "hovermode": "closest",
        }
    )
