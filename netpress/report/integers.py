"""What became integers, from the records of a run: layers, what stayed float and why, the grids of activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.report import words
from netpress.report.folder import RunFolder
from netpress.report.tables import Cell, Column, Table, number, weight_bytes

MOST_ROWS = 300


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer whose weights are whole multiples of a step.

    Attributes:
        path: of the module.
        form: of its weights: `affine` for integers, `shared` for a table of integers, `signs`.
        bits: of a weight or an entry of the table; None where there is no grid.
        steps: how many there are: one, or one per output channel.
        error: of the weights, relative.
        bytes: of the weights in the step's file; None where its tensor is not found.
    """

    path: str
    form: str
    bits: int | None
    steps: int
    error: float
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the pass that is rounded to 256 levels, the range that was seen, and its grid."""

    name: str
    low: float
    high: float
    scale: float
    zero: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step that made integers.

    Attributes:
        name: of the step.
        layers: with integers.
        kept: layers that stayed float: path -> why.
        values: activations that are rounded; None where activations stay floats.
        floats: other operations without an integer kernel: place -> function.
    """

    name: str
    layers: tuple[Layer, ...]
    kept: Mapping[str, str]
    values: tuple[Value, ...] | None
    floats: Mapping[str, str]


def quantized(run: RunFolder) -> list[Step]:
    """The steps of a run whose records tell of integers, in order."""
    found = []
    for stage in run.metrics["steps"]:
        sizes = weight_bytes(stage)
        told = (record.get("facts", {}).get("integers") for record in stage.get("records", []))
        found += [_step(str(stage["name"]), facts, sizes) for facts in told if facts]
    return found


def _step(name: str, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Step:
    kept = {str(path): str(reason) for path, reason in facts.get("kept", {}).items()}
    values = facts.get("values")
    return Step(
        name=name,
        layers=tuple(_layer(row, sizes) for row in facts["layers"]),
        kept=kept,
        values=None if values is None else tuple(map(_value, values)),
        # layers that were kept compute in floats too: they have a reason of their own
        floats={place: call for place, call in facts.get("floats", {}).items() if _path(place) not in kept},
    )


def _path(place: str) -> str:
    """The module of a place, written `path:function` or `path:function:call`, without a path for the network itself."""
    head, colon, _ = place.partition(":")
    return head if colon else ""


def _layer(row: Mapping[str, Any], sizes: Mapping[str, int]) -> Layer:
    path = str(row["path"])
    return Layer(path, str(row["form"]), row["bits"], row["steps"], row["error"], sizes.get(path))


def _value(row: Mapping[str, Any]) -> Value:
    return Value(str(row["value"]), row["low"], row["high"], row["scale"], row["zero"])


def summary(step: Step) -> str:
    """How many layers are integers, of how many bits, and whether activations are."""
    bits = [layer.bits for layer in step.layers if layer.bits is not None]
    values = None if step.values is None else len(step.values)
    return words.integers(len(step.layers), bits, values=values, kept=len(step.kept), floats=len(step.floats))


def layer_table(step: Step, most: int = MOST_ROWS) -> Table:
    """Every layer of integers: form, bits, steps, relative error of the weights, bytes of the file.

    Args:
        step: of `quantized`.
        most: rows; the first ones.
    """
    forms = ["Form"] if any(layer.form != "affine" for layer in step.layers) else []
    columns = [Column("Layer", numeric=False), *(Column(title, numeric=False) for title in forms)]
    columns += map(Column, ("Bits", "Steps", "Error of the weights", "Bytes"))
    rows = [
        [
            Cell(layer.path or "the network", layer.path),
            *(Cell(layer.form, layer.form) for _ in forms),
            number(layer.bits),
            number(layer.steps),
            Cell(words.error(layer.error), layer.error),
            number(layer.bytes),
        ]
        for layer in step.layers[:most]
    ]
    return Table(columns, rows)


def kept_table(step: Step, most: int = MOST_ROWS) -> Table:
    """Every layer that stayed float, and why."""
    columns = [Column("Layer", numeric=False), Column("Stays float because", numeric=False)]
    return Table(columns, _pairs(step.kept, most))


def float_table(step: Step, most: int = MOST_ROWS) -> Table:
    """Every other operation that computes in floats: where, and which function."""
    columns = [Column("Where", numeric=False), Column("Function", numeric=False)]
    return Table(columns, _pairs(step.floats, most))


def _pairs(found: Mapping[str, str], most: int) -> Sequence[Sequence[Cell]]:
    return [[Cell(one or "the network", one), Cell(other, other)] for one, other in list(found.items())[:most]]


def value_table(step: Step, most: int = MOST_ROWS) -> Table:
    """Every value that is rounded: the range that was seen, and the grid that holds it."""
    columns = [Column("Value", numeric=False), *map(Column, ("Lowest", "Highest", "Scale", "Zero"))]
    rows = [
        [
            Cell(value.name, value.name),
            *(Cell(words.short(number), number) for number in (value.low, value.high, value.scale)),
            number(value.zero),
        ]
        for value in (step.values or ())[:most]
    ]
    return Table(columns, rows)
