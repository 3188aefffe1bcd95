"""A run folder as one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from netpress import atomic
from netpress.report import (
    condensing,
    condensing_figures,
    figures,
    filters,
    integers,
    patterns,
    replaced,
    tables,
    words,
)
from netpress.report.folder import RunFolder, read_run
from netpress.report.histograms import Histogram, histograms

MOST_CLASSES = 50
CHOOSER_FROM = 5


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder; the same folder gives the same bytes.

    The page is one file: styles, figures and plotly's own code are inside, and it forbids itself to load anything.

    Args:
        folder: of a finished run.

    Returns:
        Path of the page.

    Raises:
        FileError: no finished run lies there, its files contradict its numbers, or the disk is full.
    """
    path = folder / "report.html"
    atomic.write(path, render(read_run(folder)))
    return path


def render(run: RunFolder) -> str:
    """The page as text."""
    return rendered("report.html.j2", _context(run), legend=legend)


def rendered(template: str, context: Mapping[str, Any], *, legend: Callable[..., Any]) -> str:
    """A page of one file, plotly inside.

    Args:
        template: of this package.
        context: what it shows; text in it is escaped.
        legend: of a figure, as the template asks for it.
    """
    environment = Environment(
        loader=PackageLoader("netpress.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"json": embedded, "legend": legend}
    page = environment.get_template(template)
    return page.render(**context, w=words, plotly=Markup(get_plotlyjs()))  # noqa: S704  (not from users)


def embedded(figure: go.Figure) -> Markup:
    """A figure as JSON that nothing in it can end: `<` is written as an escape.

    >>> str(embedded(go.Figure(layout={"title": "</script>"}))).count("<")
    0
    """
    plain = json.loads(figure.to_json(engine="json"))
    if legend(figure):
        plain["layout"] |= {"showlegend": False, "margin": {**plain["layout"]["margin"], "t": 22}}
    text = json.dumps(plain, separators=(",", ":"), sort_keys=True)
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))  # noqa: S704  (escaped in this line)


def legend(figure: go.Figure) -> list[tuple[str, str, str]]:
    """What the page writes instead of plotly's legend, which breaks badly on a phone: (name, colour, sign)."""
    if figure.layout.showlegend is False:
        return []
    return [(unescape(trace.name), *_sign(trace)) for trace in figure.data]


def _sign(trace: Any) -> tuple[str, str]:
    if trace.type == "bar":
        return trace.marker.color, "▨" if trace.marker.pattern.shape else "■"
    signs = {"diamond": "◆", "square": "■", "line-ns-open": "❘"}
    return trace.line.color or trace.marker.color, signs.get(trace.marker.symbol, "●")


def _context(run: RunFolder) -> dict[str, Any]:
    """Everything the template shows."""
    metrics = run.metrics
    classes = [str(name) for name in metrics.get("classes", [])]
    rows = tables.byte_rows(run)
    shown, layers = histograms(run)
    return {
        "title": metrics.get("title") or f"Compression of {metrics.get('network', 'a network')}",
        "run": run,
        "m": metrics,
        "untrained": run.untrained,
        "cards": _cards(metrics, untrained=run.untrained),
        "limits": tables.limits(run),
        "steps": tables.steps(run),
        "coders": tables.coders(run),
        "accuracy": figures.accuracy_figure(run.stages),
        "layers": tables.layers(run),
        "bytes": figures.bytes_figure(rows),
        "bytes_total": sum(row.total for row in rows),
        "bars": figures.MOST_BARS,
        "histograms": [(one, figures.histogram_figure(one), _weights(one)) for one in shown],
        "histograms_all": layers,
        "chooser": len(shown) >= CHOOSER_FROM,
        "training": _training(run),
        "rates": tables.rates(run),
        "distilled": any(_taught(stage.get("train", {})) for stage in run.stages),
        "environment": tables.environment(metrics),
        "filters": _filters(run),
        "condensed": [_condensed(step) for step in condensing.condensed(run)],
        "replaced": [_replaced(step) for step in replaced.replacements(run)],
        "patterns": [_patterns(step) for step in patterns.binarized(run)],
        "integers": [_integers(step) for step in integers.quantized(run)],
        **_answers(metrics, classes),
        **_speed(metrics),
        **_use(run, classes),
    }


def _cards(metrics: Mapping[str, Any], *, untrained: bool) -> list[tuple[str, str, str]]:
    """(what, number, how it came about)."""
    baseline, final = metrics["baseline"], metrics["final"]
    split = final.get("split", "test")
    fewer = baseline["macs"] / max(final["macs"], 1)
    kept = final["nonzero"] / max(baseline["nonzero"], 1)
    against = f"{words.points(final['top1'] - baseline['top1'])} against {words.percent(baseline['top1'])}"
    compared = f"on {split}; {words.UNTRAINED}" if untrained else f"{against}, on {split}"
    cards = [
        ("File, bytes", words.count(final["file_bytes"]), "all of it: weights, tables, header, graph"),
        (
            "Ratio",
            words.times(metrics["ratio"]),
            f"{words.count(baseline['params'])} parameters × 4 bytes = {words.count(4 * baseline['params'])} before",
        ),
        ("Top-1 accuracy", words.percent(final["top1"]), compared),
        (
            "Multiply-adds",
            words.count(final["macs"]),
            "as before" if final["macs"] == baseline["macs"] else f"{words.times(fewer)} fewer",
        ),
        ("Weights not zero", words.percent(kept, 1), f"{words.count(final['nonzero'])} values"),
    ]
    if final.get("latency_ms") is not None and baseline.get("latency_ms") is not None:
        was = f"per image at batch 1; baseline {words.milliseconds(baseline['latency_ms'])}"
        cards.append(("Time", words.milliseconds(final["latency_ms"]), was))
    else:
        cards.append(("Time", "not measured", "the file holds no graph to run"))
    return cards


def _weights(one: Histogram) -> str:
    """What the histogram cannot show, in words."""
    zeros = f"{words.percent(one.zeros, 1)} of its weights are exactly zero and left out of the lower panel"
    table = f"; the others take {len(one.table)} shared values (ticks)" if one.table else ""
    before = "" if one.before is not None else "; the baseline has no tensor of this name"
    return f"{zeros}{table}{before}."


def _filters(run: RunFolder) -> dict[str, Any] | None:
    """What filter pruning did; None where no step of the run is of that kind."""
    steps = filters.rounds(run)
    found = filters.groups(filters.followed(steps))
    if not found:
        return None
    bars = filters.largest(found, figures.MOST_BARS)
    scored, scored_all = filters.scored(found)
    scores = [one.scores for one in scored if one.scores is not None]
    return {
        "summary": filters.summary(found),
        "since": len(steps) - len(found[0].counts) + 1,
        "steps": steps,
        "groups": filters.group_table(found),
        "groups_all": len(found),
        "tied": any(group.tied for group in found),
        "numbered": any("#" in group.name for group in found),
        "rounds": filters.round_table(steps) if len(steps) > 1 else None,
        "figure": figures.filters_figure(bars),
        "bars": len(bars),
        "scores": [
            (group.name, s, figures.scores_figure(s), words.cut(sum(s.stay), sum(s.go), drawn=s.cut is not None))
            for group, s in zip(scored, scores, strict=True)
        ],
        "scores_all": scored_all,
        "chooser": len(scored) >= CHOOSER_FROM,
    }


def _replaced(step: replaced.Step) -> dict[str, Any]:
    """What one step put in layers' places."""
    scans = replaced.charts(step)
    span = replaced.span(scans) if scans else (0.0, 1.0)
    drawn = [figures.scan_figure(scan, span) for scan in scans]
    signs = list(dict.fromkeys(sign for figure in drawn for sign in legend(figure)))
    points = replaced.scan_table(step.scans)
    return {
        "name": step.name,
        "summary": replaced.summary(step),
        "table": replaced.layer_table(step),
        "layers_all": len(step.layers),
        "errors": any(layer.error is not None for layer in step.layers),
        "legend": signs,  # one for all charts
        "scans": [
            (scan.path, figure.update_layout(showlegend=False)) for scan, figure in zip(scans, drawn, strict=True)
        ],
        "scans_all": len(step.scans),
        "points": points,
        "points_all": sum(len(scan.points) for scan in step.scans),
    }


def _condensed(step: condensing.Step) -> dict[str, Any]:
    """What one step dropped while it trained."""
    found = condensing.reuse(step)
    return {
        "name": step.name,
        "summary": condensing.summary(step),
        "kernels": step.kernels,
        "what": "kernels" if step.kernels else "connections",
        "stages": condensing_figures.stages_figure(step.history) if step.history else None,
        "shaded": bool(condensing.dropped(step.history)),
        "table": condensing.layer_table(step),
        "layers_all": len(step.layers),
        "reuse": condensing_figures.reuse_figure(found) if found else None,
        "reuse_told": condensing.told(found) if found else "",
        "reuse_drawn": (len(found.layers), len(found.sources)) if found else (0, 0),
        "reuse_all": found.all if found else (0, 0),
    }


def _patterns(step: patterns.Step) -> dict[str, Any]:
    """Which filters one step made signs."""
    return {
        "name": step.name,
        "summary": patterns.summary(step),
        "sizes": patterns.size_table(step.effective) if step.effective is not None else None,
        "table": patterns.layer_table(step),
        "layers_all": len(step.layers),
    }


def _integers(step: integers.Step) -> dict[str, Any]:
    """What one step made integers."""
    return {
        "name": step.name,
        "summary": integers.summary(step),
        "table": integers.layer_table(step),
        "layers_all": len(step.layers),
        "kept": integers.kept_table(step),
        "kept_all": len(step.kept),
        "floats": integers.float_table(step),
        "floats_all": len(step.floats),
        "grids": integers.value_table(step),
        "grids_all": len(step.values or ()),
    }


def _taught(train: Mapping[str, Any]) -> bool:
    """Whether the training loss holds a term of a teacher's answers, or of its layers' outputs."""
    return bool(train.get("distill") or train.get("distill_layers"))


def _training(run: RunFolder) -> go.Figure | None:
    return figures.training_figure(run.stages) if any(stage.get("history") for stage in run.stages) else None


def _answers(metrics: Mapping[str, Any], classes: list[str]) -> dict[str, Any]:
    """Confusion matrix and images that changed class."""
    changed = metrics.get("changed") or {}
    matrix = changed.get("confusion") or []
    fits = len(matrix) == len(classes) > 0
    return {
        "changed": words.changed(changed) if matrix else "",
        "confusion": figures.confusion_figure(matrix, classes) if fits and len(classes) <= MOST_CLASSES else None,
        "mistakes": tables.mistakes(matrix, classes) if fits else None,
        "examples": tables.examples(changed, classes),
        "changed_images": changed.get("images", 0),
        "most_classes": MOST_CLASSES,
    }


def _speed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Timing and parity, where the network could be run without PyTorch."""
    speedup, parity = metrics.get("speedup") or {}, metrics.get("parity") or {}
    timing = next(iter(speedup["timings"].values())) if speedup else {}
    settings, integer = speedup.get("settings") or [], bool(parity.get("integers"))
    chances = {row["chance"] for row in settings if "chance" in row}
    return {
        "speed": words.speed(speedup, metrics["baseline"], metrics["final"], integers=integer) if speedup else "",
        "timing": timing,
        "latency": figures.latency_figure(speedup) if speedup else None,
        "timings": tables.timings(speedup) if speedup else None,
        "settings": tables.settings(settings) if settings else None,
        "chance": max(chances, default=0.0),
        "chance_varies": len(chances) > 1,
        "parity": words.parity(parity) if parity else "",
        "no_graph": str(metrics["final"].get("note", "")),
    }


def _use(run: RunFolder, classes: list[str]) -> dict[str, Any]:
    """How the file is loaded: shapes for the snippet."""
    shape = run.after.header.input_shape if run.after is not None else ()
    return {
        "input_shape": ", ".join(["N", *map(str, shape)]) if shape else "N, C, H, W",
        "outputs": len(classes) or "K",
        "own": str(run.metrics.get("network", "")).startswith("own:"),
    }
