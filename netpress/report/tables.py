"""The tables of a report as plain rows of cells; the template only lays them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from netpress.report import words
from netpress.report.folder import RunFolder

PARTS = ("positions", "codes", "table", "values")
FRAMING = ("header", "graph", "header and graph", "checksums", "rest")
_LIMITS = {
    "max_drop": ("Top-1 points lost, at most", "validation"),
    "min_top1": ("Top-1 accuracy, at least", "validation"),
    "max_size": ("File size, at most", "the file"),
    "max_params": ("Parameters that are not zero, at most", "the file"),
    "max_macs": ("Multiply-adds, at most", "the network"),
    "max_latency": ("Time per image, at most", "the timing below"),
    "max_activation_memory": ("Activations held at the same time, at most", "the network"),
}


_AROUND = {
    "header": "Header",
    "graph": "Graph",
    "header and graph": "Header and graph",
    "checksums": "Checksums, lengths",
    "rest": "All else",
}


class Cell(NamedTuple):
    """One cell: what is read, and what it is sorted by."""

    text: str
    sort: float | str = ""


class Column(NamedTuple):
    """A column's head; numbers are set to the right and sorted as numbers."""

    label: str
    numeric: bool = True


class Table(NamedTuple):
    """Head, rows, and rows that stay at the foot."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()


class Bytes(NamedTuple):
    """Bytes of one tensor, or of the file around the tensors, by part."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Sum over the parts."""
        return sum(self.parts.values())


class Limit(NamedTuple):
    """One line of the budget; `met` is None where it could not be measured."""

    what: str
    allowed: str
    measured: str
    decided_on: str
    met: bool | None


def number(value: float | None) -> Cell:
    """A count; a dash where there is none."""
    return Cell("–", -1) if value is None else Cell(words.count(value), value)


def byte_rows(run: RunFolder) -> list[Bytes]:
    """Where every byte of the result lies: its layers, other tensors, the file around them.

    Returns:
        Rows whose totals sum to the file's size, in file order; the last row is the file around the tensors.
    """
    final = run.metrics["final"]
    if not run.places:
        rows = [Bytes(str(row["name"]), dict(row["bytes"])) for row in final["layers"]]
        rest = final["file_bytes"] - sum(row.total for row in rows)
        return [*rows, Bytes("All else", {"rest": rest})]
    found: dict[str, Counter[str]] = {str(row["name"]): Counter() for row in final["layers"]}
    around: Counter[str] = Counter()
    for place in run.places:
        if place.tensor:
            found.setdefault(place.tensor, Counter())[place.coarse] += place.size
        else:
            around[place.part if place.part in FRAMING else "checksums"] += place.size
    ordered = {part: around[part] for part in FRAMING if part in around}
    return [*(Bytes(name, dict(parts)) for name, parts in found.items()), Bytes("Around the tensors", ordered)]


def weight_bytes(stage: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of every layer's weight in a stage's file, by the layer's path."""
    sizes = {str(row["name"]): sum(row["bytes"].values()) for row in stage["layers"]}
    names = {name: name.rpartition(".") for name in sizes}
    return {path: sizes[name] for name, (path, _, own) in names.items() if own == "weight"}


def steps(run: RunFolder) -> Table:
    """Every stage: what was done, what is left, bytes, accuracy, time."""
    columns = [Column("Step", numeric=False), Column("What was done", numeric=False)]
    columns += [Column(name) for name in ("Weights kept", "Bytes", "Ratio", "Top-1 test", "Top-1 validation", "Time")]
    float_bytes = 4 * run.metrics["baseline"]["params"]
    rows = []
    for stage in run.stages:
        validation = stage.get("validation", {}).get("top1")
        rows.append(
            [
                Cell(str(stage["name"])),
                Cell(_done(stage, untrained=run.untrained)),
                Cell(f"{words.count(stage['nonzero'])} of {words.count(stage['params'])}", stage["nonzero"]),
                number(stage["file_bytes"]),
                Cell(words.times(float_bytes / stage["file_bytes"])),
                Cell(words.percent(stage["top1"])),
                Cell("–" if validation is None else words.percent(validation)),
                Cell(words.seconds(stage.get("seconds", 0.0))),
            ]
        )
    return Table(columns, rows)


def rates(run: RunFolder) -> Table | None:
    """How fast every trained stage went, medians over its epochs; None where no history tells."""
    columns = [Column("Step", numeric=False), Column("Epochs"), Column("Seconds per epoch")]
    columns += [
        Column("Images per second"),
        Column("Slowest to fastest epoch"),
        Column("Input alone, images per second"),
    ]
    rows = []
    for stage in run.stages:
        told = [row for row in stage.get("history", []) if "images_per_second" in row]
        if told:
            speeds = [row["images_per_second"] for row in told]
            span = f"{words.count(min(speeds))} to {words.count(max(speeds))}"
            seconds = median(row.get("seconds", 0.0) for row in told)
            rows.append(
                [
                    Cell(str(stage["name"])),
                    number(len(told)),
                    Cell(f"{seconds:.1f}", seconds),
                    number(median(speeds)),
                    Cell(span, min(speeds)),
                    number(median(row.get("input_per_second", 0.0) for row in told)),
                ]
            )
    return Table(columns, rows) if rows else None


def coders(run: RunFolder) -> Table:
    """What every stage's file takes as saved, and what it would take with one coder alone."""
    names = {"bits": "Plain bits only", "huffman": "Huffman only", "rans": "rANS only"}
    columns = [Column("Step", numeric=False), Column("As saved"), *map(Column, names.values())]
    rows = [
        [
            Cell(str(stage["name"])),
            number(stage["file_bytes"]),
            *(number(stage.get("coded", {}).get(coder)) for coder in names),
        ]
        for stage in run.stages
    ]
    return Table(columns, rows)


def _done(stage: Mapping[str, Any], *, untrained: bool) -> str:
    train = words.retraining(stage.get("train", {}))
    records = stage.get("records", [])
    if records and any("stage" in row for row in stage.get("history", [])):
        return f"{' + '.join(map(_applied, records))}; inside {train}"
    if not records and untrained:
        return "Baseline: the untrained network"
    if not records:
        return "Baseline: " + ("taken as it came" if train == "no retraining" else train)
    return f"{' + '.join(map(_applied, records))}; then {train}"


def _applied(record: Mapping[str, Any]) -> str:
    settings = words.settings(record["settings"])
    return f"{_title(record['method'])} ({settings})" if settings else _title(record["method"])


def _title(method: str) -> str:
    return method.replace("_", " ").capitalize()


def layers(run: RunFolder) -> Table:
    """Every stored tensor of the result, and the file around them; totals add up to the file."""
    final = run.metrics["final"]
    columns = [Column("Tensor", numeric=False), Column("Bytes"), Column("Shape", numeric=False)]
    columns += [Column("Entries"), Column("Kept")]
    columns += [Column("Form", numeric=False), Column("Bits"), Column("Distinct"), Column("Multiply-adds")]
    columns += [Column(part.capitalize()) for part in PARTS]
    sizes = byte_rows(run)
    rows = [_layer(row, size) for row, size in zip(final["layers"], sizes, strict=False)]
    others = sizes[len(rows) : -1]
    rows += [[Cell(row.name, row.name), number(row.total), *[Cell("–", -1)] * 7, *_parts(row)] for row in others]
    blank = [Cell("")] * (len(columns) - 2)
    foot = [[Cell(_AROUND[part]), number(size), *blank] for part, size in sizes[-1].parts.items()]
    foot.append([Cell("The file"), number(sum(row.total for row in sizes)), Cell(""), *_sums(final, sizes)])
    return Table(columns, rows, foot)


def _layer(row: Mapping[str, Any], size: Bytes) -> list[Cell]:
    share = row["kept"] / max(row["params"], 1)
    shape = " × ".join(map(str, row["shape"])) or "scalar"
    return [
        Cell(str(row["name"]), str(row["name"])),
        number(size.total),
        Cell(shape, shape),
        number(row["params"]),
        Cell(words.percent(share, 1), share),
        Cell(str(row["form"]), str(row["form"])),
        number(row["bits"]),
        number(row["table"]),
        number(row["macs"]),
        *_parts(size),
    ]


def _parts(size: Bytes) -> list[Cell]:
    return [number(size.parts.get(part)) for part in PARTS]


def _sums(final: Mapping[str, Any], sizes: Sequence[Bytes]) -> list[Cell]:
    """The foot's cells after the shape."""
    entries = sum(row["params"] for row in final["layers"])
    kept = sum(row["kept"] for row in final["layers"])
    parts = [number(sum(row.parts.get(part, 0) for row in sizes)) for part in PARTS]
    share = Cell(words.percent(kept / max(entries, 1), 1))
    return [number(entries), share, Cell(""), Cell(""), Cell(""), number(final["macs"]), *parts]


def limits(run: RunFolder) -> list[Limit]:
    """The budget, line by line, those that could not be measured included."""
    baseline, final = run.metrics["baseline"], run.metrics["final"]
    on_test = "" if run.untrained else f", {words.points(final['top1'] - baseline['top1'])}"
    lines = []
    verdicts = run.metrics.get("budget", [])
    for verdict in verdicts:
        name = str(verdict["limit"])
        what, split = _LIMITS.get(name, (name, ""))
        if split == "validation":
            split = f"validation (on test: top-1 {words.percent(final['top1'])}{on_test})"
        allowed, measured = _amount(name, verdict["allowed"]), _amount(name, verdict["measured"])
        lines.append(Limit(what, allowed, measured, split, bool(verdict["met"])))
    judged = {verdict["limit"] for verdict in verdicts}
    for name, allowed in run.limits.items():
        if name not in judged:
            what, split = _LIMITS.get(name, (name, ""))
            lines.append(Limit(what, str(allowed), "not measured", split, None))
    return lines


def _amount(name: str, value: float) -> str:
    match name:
        case "max_drop":
            return f"{value:.2f}\u00a0points"
        case "min_top1":
            return words.percent(value / 100)
        case "max_size" | "max_activation_memory":
            return f"{words.count(value)}\u00a0bytes"
        case "max_latency":
            return words.milliseconds(value)
        case _:
            return words.count(value)


def mistakes(confusion: Sequence[Sequence[int]], classes: Sequence[str], most: int = 10) -> Table:
    """The commonest mistakes of the result: true class, answer, images."""
    cells = [(wrong, i, j) for i, row in enumerate(confusion) for j, wrong in enumerate(row) if i != j and wrong]
    cells.sort(key=lambda cell: (-cell[0], cell[1], cell[2]))
    columns = [Column("True class", numeric=False), Column("Answer", numeric=False), Column("Images")]
    return Table(columns, [[Cell(classes[i]), Cell(classes[j]), number(wrong)] for wrong, i, j in cells[:most]])


def examples(changed: Mapping[str, Any], classes: Sequence[str]) -> Table:
    """Images that changed class: index in the test split, true class, answer before and after."""
    columns = [Column("Test image"), *(Column(name, numeric=False) for name in ("True class", "Before", "After", ""))]
    rows = []
    for example in changed.get("examples", []):
        label, before, after = example["label"], example["before"], example["after"]
        effect = "won" if after == label else "lost" if before == label else "still wrong"
        names = (classes[i] if i < len(classes) else str(i) for i in (label, before, after))
        rows.append([number(example["index"]), *(Cell(name) for name in names), Cell(effect)])
    return Table(columns, rows)


def timings(speedup: Mapping[str, Any]) -> Table:
    """Milliseconds per image of both networks: fastest, quartiles, slowest round."""
    columns = [Column("Network", numeric=False), *(Column(f"{name}, ms") for name in _ORDER)]
    columns += [Column("Rounds"), Column("Calls per round")]
    rows = []
    for name, timing in speedup["timings"].items():
        ordered = sorted(timing["samples_ms"])
        spread = [Cell(f"{_quantile(ordered, q):#.3g}") for q in _ORDER.values()]
        rows.append([Cell(str(name)), *spread, number(len(ordered)), number(timing["calls"])])
    return Table(columns, rows)


def settings(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Both networks in every setting that was timed: ms per image, the ratio, and a verdict where it leans one way."""
    columns = [Column("Batch"), Column("Threads"), Column("Baseline, ms per image"), Column("Result, ms per image")]
    columns += [Column("Speed-up"), Column("Quartiles"), Column("Rounds"), Column("Verdict", numeric=False)]
    return Table(columns, [[number(row["batch"]), number(row["threads"]), *_setting(row)] for row in rows])


def _setting(row: Mapping[str, Any]) -> list[Cell]:
    if "skipped" in row:
        return [*[Cell("–", -1)] * 5, Cell(f"not timed: {row['skipped']}")]
    median, verdict = row["median"], row["verdict"]
    told = {"faster": f"{median:.2f}x faster", "slower": f"{1 / median:.2f}x slower"}.get(verdict, "none")
    return [
        *(Cell(f"{row[key]:#.3g}", row[key]) for key in ("baseline_ms", "final_ms")),
        Cell(f"{median:.2f}x", median),
        Cell(f"{row['q1']:.2f} to {row['q3']:.2f}", row["q1"]),
        number(row["rounds"]),
        Cell(told),
    ]


_ORDER = {"Fastest": 0.0, "First quartile": 0.25, "Median": 0.5, "Third quartile": 0.75, "Slowest": 1.0}


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Linear between neighbours, as in `measure.latency`."""
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def environment(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Machine, versions, seed, date, data: (what, value)."""
    data, machine = metrics.get("data", {}), metrics.get("machine", {})
    versions = machine.get("versions", {})
    rows = [
        ("Network", metrics.get("network")),
        ("Data", data.get("name")),
        ("Splits", data.get("note")),
        ("Data fingerprint", data.get("fingerprint")),
        ("Seed", metrics.get("seed")),
        ("Date", metrics.get("date")),
        ("Processor", machine.get("processor")),
        ("Cores", machine.get("cores")),
        ("Threads", machine.get("threads")),
        ("Device", machine.get("device")),
        ("System", machine.get("system")),
        ("Python", machine.get("python")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [(what, str(value)) for what, value in rows if value not in (None, "")]
