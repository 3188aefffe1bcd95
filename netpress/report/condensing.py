"""What training dropped, from the records of a run: layers, when it went, and which layers each of them still reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.report import words
from netpress.report.folder import RunFolder
from netpress.report.tables import Cell, Column, Table, number

MOST_ROWS = 300
MOST_DRAWN = 64
NOT_KNOWN = "image, or not known"


@dataclass(frozen=True, slots=True)
class Source:
    """One earlier layer that a condensed layer could read.

    Attributes:
        path: of the layer; `NOT_KNOWN` for the image.
        inputs: that come from it.
        mean: mean |W| over all connections to it, those that were dropped included as zeros.
    """

    path: str
    inputs: int
    mean: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution that lost connections while it trained.

    Attributes:
        path: of the module.
        inputs, outputs: channels.
        groups: that chose their inputs; None where single kernels were chosen.
        kept: inputs that each group reads; None where single kernels were chosen.
        read: inputs that anything still reads.
        idle: outputs that nothing is left of.
        connections: pairs of an input and an output, (before, after).
        before: module before which the index of inputs stands; None where single kernels were chosen.
        sources: what it could read, in the order of its inputs.
    """

    path: str
    inputs: int
    outputs: int
    groups: int | None
    kept: int | None
    read: int
    idle: int
    connections: tuple[int, int]
    before: str | None
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step that condensed layers.

    Attributes:
        name: of the step.
        layers: those it condensed.
        linear: (path, inputs, inputs that stay) of the classifier; None where it keeps all.
        history: of its epochs; empty where all was dropped at once.
    """

    name: str
    layers: tuple[Layer, ...]
    linear: tuple[str, int, int] | None
    history: tuple[Mapping[str, Any], ...]

    @property
    def kernels(self) -> bool:
        """Whether single kernels were chosen, not inputs of groups."""
        return any(layer.groups is None for layer in self.layers)


def condensed(run: RunFolder) -> list[Step]:
    """The steps of a run whose records tell of condensed layers, in order."""
    found = []
    for stage in run.metrics["steps"]:
        for record in stage.get("records", []):
            facts = record.get("facts", {})
            layers = tuple(map(_grouped, facts.get("condensed", []))) + tuple(
                map(_kernels, facts.get("condensed_kernels", []))
            )
            if layers:
                history = tuple(stage.get("history", []))
                found.append(Step(str(stage["name"]), layers, _linear(facts.get("linear")), history))
    return found


def _grouped(row: Mapping[str, Any]) -> Layer:
    kept = row["kept"]
    return Layer(
        path=str(row["path"]),
        inputs=row["inputs"],
        outputs=row["outputs"],
        groups=len(kept),
        kept=len(kept[0]),
        read=len({one for group in kept for one in group}),
        idle=0,
        connections=(row["connections"][0], row["connections"][1]),
        before=str(row["before"]),
        sources=_sources(row),
    )


def _kernels(row: Mapping[str, Any]) -> Layer:
    return Layer(
        path=str(row["path"]),
        inputs=row["inputs"],
        outputs=row["outputs"],
        groups=None,
        kept=None,
        read=sum(count > 0 for count in row["per_input"]),
        idle=sum(count == 0 for count in row["per_output"]),
        connections=(row["kernels"][0], row["kernels"][1]),
        before=None,
        sources=_sources(row),
    )


def _sources(row: Mapping[str, Any]) -> tuple[Source, ...]:
    return tuple(Source(str(one["path"]) or NOT_KNOWN, one["inputs"], one["mean"]) for one in row["sources"])


def _linear(row: Mapping[str, Any] | None) -> tuple[str, int, int] | None:
    return (str(row["path"]), row["inputs"], len(row["kept"])) if row else None


def summary(step: Step) -> str:
    """How many connections went, when, and what the classifier lost."""
    before, after = (sum(layer.connections[i] for layer in step.layers) for i in (0, 1))
    what = "kernels" if step.kernels else "connections"
    share, layers = words.percent(after / max(before, 1), 1), words.many(len(step.layers), "layer")
    left = f"{words.count(after)} of {words.count(before)} {what} of {layers} are left ({share})"
    said = [f"{left}, {_when(step)}."]
    if step.linear:
        path, inputs, kept = step.linear
        said.append(f"{path} reads {words.count(kept)} of its {words.count(inputs)} inputs.")
    return " ".join(said)


def _when(step: Step) -> str:
    if not step.history:
        return "chosen at once, without training"
    times, epochs = dropped(step.history), len(step.history)
    if not times:
        return f"chosen in a training of {words.many(epochs, 'epoch')}"
    stages = words.many(times[-1][2], "stage")
    return f"chosen in {stages} of a training of {words.many(epochs, 'epoch')}, the last in epoch {times[-1][0]}"


def dropped(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """Epochs inside which connections were dropped: (epoch from 1, first stage that began in it, last one).

    >>> dropped([{"stage": 0}, {"stage": 2}, {"stage": 3}, {"stage": 3}])
    [(2, 1, 2), (3, 3, 3)]
    """
    found, before = [], 0
    for epoch, row in enumerate(history, 1):
        stage = int(row.get("stage", before))
        if stage > before:
            found.append((epoch, before + 1, stage))
            before = stage
    return found


def layer_table(step: Step, most: int = MOST_ROWS) -> Table:
    """Every condensed layer: inputs, what is kept of them, connections before and after.

    Args:
        step: of `condensed`.
        most: rows; layers of fewer connections are added up in one more.
    """
    places = sorted(range(len(step.layers)), key=lambda i: -step.layers[i].connections[0])
    shown, rest = sorted(places[:most]), places[most:]
    own: Mapping[str, Callable[[Layer], Cell]] = _OF_KERNELS if step.kernels else _OF_GROUPS
    what = "Kernels" if step.kernels else "Connections"
    columns = [Column("Layer", numeric=False), Column("Inputs"), *map(Column, own)]
    columns += map(Column, (f"{what} before", "After", "Left"))
    blank = [Cell("")] * (1 + len(own))
    rows = [
        [
            Cell(layer.path or "the network", layer.path),
            number(layer.inputs),
            *(get(layer) for get in own.values()),
            *_connections([layer]),
        ]
        for layer in (step.layers[i] for i in shown)
    ]
    foot = []
    if rest:
        smaller = [step.layers[i] for i in rest]
        foot.append([Cell(f"{words.count(len(rest))} smaller layers"), *blank, *_connections(smaller)])
    foot.append([Cell("All of these"), *blank, *_connections(step.layers)])
    return Table(columns, rows, foot)


_OF_GROUPS: Mapping[str, Callable[[Layer], Cell]] = {
    "Groups": lambda layer: number(layer.groups),
    "Kept per group": lambda layer: number(layer.kept),
    "Read by any": lambda layer: number(layer.read),
}
_OF_KERNELS: Mapping[str, Callable[[Layer], Cell]] = {
    "Still read": lambda layer: number(layer.read),
    "Outputs": lambda layer: number(layer.outputs),
    "Outputs with no kernel": lambda layer: number(layer.idle),
}


def _connections(layers: Sequence[Layer]) -> list[Cell]:
    before, after = (sum(layer.connections[i] for layer in layers) for i in (0, 1))
    share = after / max(before, 1)
    return [number(before), number(after), Cell(words.percent(share, 1), share)]


@dataclass(frozen=True, slots=True)
class Reuse:
    """Which earlier layers each condensed layer reads, as a matrix.

    Attributes:
        layers: the condensed ones, in the network's order.
        sources: the earlier ones, in the order in which they are first read.
        means: mean |W| over the connections, (layer, source); None where a layer cannot read a source.
        shares: the same, over the largest of its layer.
        all: (condensed layers, sources), drawn or not.
    """

    layers: tuple[str, ...]
    sources: tuple[str, ...]
    means: tuple[tuple[float | None, ...], ...]
    shares: tuple[tuple[float | None, ...], ...]
    all: tuple[int, int]

    @property
    def pairs(self) -> tuple[int, int]:
        """Pairs of a layer and a source: those that are still connected, and all."""
        known = [mean for row in self.means for mean in row if mean is not None]
        return sum(mean > 0 for mean in known), len(known)


def reuse(step: Step, most: int = MOST_DRAWN) -> Reuse | None:
    """The matrix of a step; None where no layer could read several others.

    Args:
        step: of `condensed`.
        most: layers, the last ones, and sources of them, the first ones.
    """
    layers = step.layers[-most:]
    if not any(len(layer.sources) > 1 for layer in layers):
        return None
    every = tuple(dict.fromkeys(one.path for layer in layers for one in layer.sources))
    sources = every[:most]
    means = []
    for layer in layers:
        found = {one.path: one.mean for one in layer.sources}
        means.append(tuple(found.get(path) for path in sources))
    shares = [tuple(None if m is None else m / max(_top(row), 1e-30) for m in row) for row in means]
    counts = len(step.layers), len(every)
    return Reuse(tuple(layer.path for layer in layers), sources, tuple(means), tuple(shares), counts)


def _top(row: Sequence[float | None]) -> float:
    return max((mean for mean in row if mean is not None), default=0.0)


def told(found: Reuse) -> str:
    """How much of what could be read is still read, in one sentence.

    >>> told(Reuse(("b",), ("a", "image"), ((0.5, 0.0),), ((1.0, 0.0),), (1, 2)))
    'Of 2 pairs of a layer and an earlier one that it could read, 1 is still connected.'
    """
    left, total = found.pairs
    verb = "is" if left == 1 else "are"
    return (
        f"Of {words.many(total, 'pair')} of a layer and an earlier one that it could read, {words.count(left)} {verb} "
        "still connected."
    )
