"""Which filters became signs, from the records of a run: layers, and what the network amounts to beside its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netpress.report import words
from netpress.report.folder import RunFolder
from netpress.report.tables import Cell, Column, Table, number

MOST_ROWS = 300
WORD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution whose k x k filters are signs.

    Attributes:
        path: of the module.
        weights: entries that are signs.
        kernels: k x k filters that hold them.
        scales: that were chosen for them; 0 where all have one constant.
        error: of the weights, relative, before retraining.
        branch: whether a 1 x 1 convolution stands beside it.
    """

    path: str
    weights: int
    kernels: int
    scales: int
    error: float
    branch: bool


@dataclass(frozen=True, slots=True)
class Effective:
    """What a network amounts to in parameters of 32 bits, and what its file really takes.

    Attributes:
        params: entries of all parameters, signs included.
        binary: of them, signs.
        rule_n, rule_s: parameters it amounts to without and with a scale for each filter.
        file_bytes: of the step's file.
    """

    params: int
    binary: int
    rule_n: int
    rule_s: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step that made signs; `effective` is None in runs of versions that did not count it."""

    name: str
    layers: tuple[Layer, ...]
    effective: Effective | None


def binarized(run: RunFolder) -> list[Step]:
    """The steps of a run whose records tell of sign patterns, in order."""
    found = []
    for stage in run.metrics["steps"]:
        for record in stage.get("records", []):
            facts = record.get("facts", {})
            if facts.get("patterns"):
                layers = tuple(map(_layer, facts["patterns"]))
                found.append(Step(str(stage["name"]), layers, _effective(facts, stage["file_bytes"])))
    return found


def _layer(row: Mapping[str, Any]) -> Layer:
    return Layer(
        path=str(row["path"]),
        weights=row["weights"],
        kernels=row["kernels"],
        scales=row["scales"],
        error=row["error"],
        branch=bool(row["branch"]),
    )


def _effective(facts: Mapping[str, Any], file_bytes: int) -> Effective | None:
    found = facts.get("effective")
    if not found:
        return None
    return Effective(found["params"], found["binary"], found["rule_n"], found["rule_s"], file_bytes)


def summary(step: Step) -> str:
    """How many weights became signs."""
    weights, kernels = (sum(getattr(layer, what) for layer in step.layers) for what in ("weights", "kernels"))
    return words.patterns(len(step.layers), weights, kernels, branches=sum(layer.branch for layer in step.layers))


def layer_table(step: Step, most: int = MOST_ROWS) -> Table:
    """Every layer of signs: weights, filters, scales, relative error, whether a 1 x 1 convolution stands beside it.

    Args:
        step: of `binarized`.
        most: rows; layers of fewer weights are added up in one more.
    """
    places = sorted(range(len(step.layers)), key=lambda i: -step.layers[i].weights)
    shown, rest = sorted(places[:most]), places[most:]
    columns = [Column("Layer", numeric=False), *map(Column, ("Weights", "Filters", "Scales", "Error of the weights"))]
    columns += [Column("Beside it", numeric=False)]
    rows = []
    for layer in (step.layers[i] for i in shown):
        beside = "1 × 1" if layer.branch else "–"
        numbers = map(number, (layer.weights, layer.kernels, layer.scales))
        error = Cell(words.error(layer.error), layer.error)
        rows.append([Cell(layer.path or "the network", layer.path), *numbers, error, Cell(beside, beside)])
    foot = []
    if rest:
        smaller = Cell(f"{words.count(len(rest))} smaller layers")
        foot.append([smaller, *_sums([step.layers[i] for i in rest]), Cell(""), Cell("")])
    foot.append([Cell("All of these"), *_sums(step.layers), Cell(""), Cell("")])
    return Table(columns, rows, foot)


def _sums(layers: tuple[Layer, ...] | list[Layer]) -> list[Cell]:
    return [number(sum(getattr(layer, what) for layer in layers)) for what in ("weights", "kernels", "scales")]


def size_table(found: Effective) -> Table:
    """The network in words of 32 bits by both rules, as it was in floats, and the file."""
    others, bits = words.count(found.params - found.binary), words.count(found.binary)
    columns = [Column("Counted as", numeric=False), Column("Words of 32 bits"), Column("MB")]
    lines = {
        "All in 32 bits": found.params,
        f"Rule N: {others} others, and n/32 for n = {bits} signs": found.rule_n,
        "Rule S: the same, and one scale for each filter": found.rule_s,
    }
    rows = [[Cell(what), number(count), _megabytes(WORD_BYTES * count)] for what, count in lines.items()]
    file = Cell(words.count(found.file_bytes / WORD_BYTES), found.file_bytes / WORD_BYTES)
    rows.append([Cell("The real file of this step"), file, _megabytes(found.file_bytes)])
    return Table(columns, rows)


def _megabytes(size: float) -> Cell:
    return Cell(words.megabytes(size), size)
