"""Which layers were replaced by others, from the records of a run: rows, tables, and how accuracy depends on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.report import words
from netpress.report.folder import RunFolder
from netpress.report.tables import Cell, Column, Table, number

MOST_ROWS = 300
MOST_CHARTS = 36


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that a step looked at.

    Attributes:
        path: of the module.
        structure: what stands in its place, in words; "" where it was left alone.
        chosen: operation and numbers of that; (None, ()) where it was left alone.
        macs, params: (before, after).
        error: of the weights, relative; None where nothing is to be said.
        output_error: of the layer's output on calibration images, relative, before retraining.
        reason: why it was left alone, or "".
    """

    path: str
    structure: str
    chosen: tuple[str | None, tuple[int, ...]]
    macs: tuple[int, int]
    params: tuple[int, int]
    error: float | None
    output_error: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Point:
    """The network's accuracy with one layer so, all others as they were.

    Attributes:
        structure: of the layer, in words; "" for the layer as it was.
        macs, params: of the layer alone.
        top1: accuracy on the sample, a fraction.
        loss: cross-entropy; None where it was not finite.
        chosen: whether the step took this one.
    """

    structure: str
    macs: int
    params: int
    top1: float
    loss: float | None
    chosen: bool


@dataclass(frozen=True, slots=True)
class Scan:
    """One layer's points, the cheapest first, and the multiply-adds that the layer had in the end."""

    path: str
    points: tuple[Point, ...]
    macs: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step that replaced layers."""

    name: str
    layers: tuple[Layer, ...]
    scans: tuple[Scan, ...]


def replacements(run: RunFolder) -> list[Step]:
    """The steps of a run whose records tell of replaced layers, in order."""
    found = []
    for stage in run.metrics["steps"]:
        for record in stage.get("records", []):
            facts = record.get("facts", {})
            if facts.get("layers"):
                layers = tuple(map(_layer, facts["layers"]))
                found.append(Step(str(stage["name"]), layers, _scans(layers, facts.get("sensitivity", []))))
    return found


def _layer(row: Mapping[str, Any]) -> Layer:
    operation, numbers = row["operation"], tuple(row["numbers"] or ())
    return Layer(
        path=str(row["path"]),
        structure=words.structure(operation, numbers) if operation else "",
        chosen=(operation, numbers),
        macs=(row["macs"][0], row["macs"][1]),
        params=(row["params"][0], row["params"][1]),
        error=row.get("error"),
        output_error=row.get("output_error"),
        reason=str(row.get("reason") or ""),
    )


def _scans(layers: Sequence[Layer], rows: Sequence[Mapping[str, Any]]) -> tuple[Scan, ...]:
    """The rows of a scan by layer, in their order."""
    ends = {layer.path: layer for layer in layers}
    points: dict[str, list[Point]] = {}
    for row in rows:
        end = ends.get(str(row["path"]))
        operation, numbers = row["operation"], tuple(row["numbers"])
        point = Point(
            structure=words.structure(operation, numbers) if numbers else "",
            macs=row["macs"],
            params=row["params"],
            top1=row["top1"],
            loss=row["loss"],
            chosen=end is not None and (operation, numbers) == end.chosen,
        )
        points.setdefault(str(row["path"]), []).append(point)
    return tuple(
        Scan(path, tuple(sorted(some, key=lambda p: p.macs)), ends[path].macs[1] if path in ends else some[0].macs)
        for path, some in points.items()
    )


def summary(step: Step) -> str:
    """How many layers were replaced, and what that saved."""
    done = sum(bool(layer.structure) for layer in step.layers)
    return words.replaced(done, len(step.layers), macs=_sums(step.layers, "macs"), params=_sums(step.layers, "params"))


def _sums(layers: Sequence[Layer], what: str) -> tuple[int, int]:
    pairs = [getattr(layer, what) for layer in layers]
    return sum(before for before, _ in pairs), sum(after for _, after in pairs)


def layer_table(step: Step, most: int = MOST_ROWS) -> Table:
    """Every layer: what stands in its place, multiply-adds and parameters before and after, errors, why left alone.

    Args:
        step: of `replacements`.
        most: rows; layers of fewer multiply-adds are added up in one more.
    """
    shown = _largest(step.layers, most, key=lambda layer: layer.macs[0])
    errors = {title: get for title, get in _ERRORS.items() if any(get(layer) is not None for layer in shown)}
    remarks = ["Left alone because"] if any(layer.reason for layer in shown) else []
    columns = [Column("Layer", numeric=False), Column("In its place", numeric=False)]
    columns += map(Column, ("Multiply-adds before", "After", "Parameters before", "After", *errors))
    columns += [Column(title, numeric=False) for title in remarks]
    rows = [
        [
            Cell(layer.path, layer.path),
            Cell(layer.structure or "–", layer.structure),
            *map(number, (*layer.macs, *layer.params)),
            *(_error(get(layer)) for get in errors.values()),
            *(Cell(layer.reason, layer.reason) for _ in remarks),
        ]
        for layer in shown
    ]
    foot = []
    blank = [Cell("")] * (len(errors) + len(remarks))
    if rest := [layer for layer in step.layers if not any(layer is one for one in shown)]:
        foot.append([Cell(f"{words.count(len(rest))} smaller layers"), Cell(""), *_numbers(rest), *blank])
    foot.append([Cell("All of these"), Cell(""), *_numbers(step.layers), *blank])
    return Table(columns, rows, foot)


_ERRORS: Mapping[str, Callable[[Layer], float | None]] = {
    "Error of the weights": lambda layer: layer.error,
    "Error of the output": lambda layer: layer.output_error,
}
"""Columns that stand where some layer has a number in them."""


def _error(value: float | None) -> Cell:
    return Cell("–", -1) if value is None else Cell(words.error(value), value)


def _numbers(layers: Sequence[Layer]) -> list[Cell]:
    return [number(value) for what in ("macs", "params") for value in _sums(layers, what)]


def _largest(found: Sequence[Any], most: int, key: Callable[[Any], int]) -> list[Any]:
    """Those of the largest keys, in their own order."""
    places = sorted(range(len(found)), key=lambda i: -key(found[i]))[:most]
    return [found[i] for i in sorted(places)]


def charts(step: Step, most: int = MOST_CHARTS) -> list[Scan]:
    """The scans of the layers with most multiply-adds, in the network's order."""
    return _largest(step.scans, most, key=lambda scan: max(point.macs for point in scan.points))


def span(scans: Sequence[Scan]) -> tuple[float, float]:
    """Lowest and highest accuracy of some scans in per cent, with room around them: the same for all charts."""
    seen = [100 * point.top1 for scan in scans for point in scan.points]
    room = max(0.08 * (max(seen) - min(seen)), 0.25)
    return max(min(seen) - room, 0.0), max(seen) + room


def scan_table(scans: Sequence[Scan], most: int = MOST_ROWS) -> Table:
    """Every point of some scans, the first `most` of them."""
    columns = [Column("Layer", numeric=False), Column("In its place", numeric=False)]
    columns += map(Column, ("Multiply-adds", "Parameters", "Top-1", "Loss"))
    rows = [
        [
            Cell(scan.path, scan.path),
            Cell(f"{point.structure or 'as it was'}{' (chosen)' if point.chosen else ''}", point.structure),
            number(point.macs),
            number(point.params),
            Cell(words.percent(point.top1), point.top1),
            Cell("not finite", 1e9) if point.loss is None else Cell(f"{point.loss:.4g}", point.loss),
        ]
        for scan in scans
        for point in scan.points
    ]
    return Table(columns, rows[:most])
