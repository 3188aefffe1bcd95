"""Where every byte of a `.press` file goes; numpy only."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from netpress.codec import container, onnx_bytes
from netpress.codec.parts import PARTS
from netpress.codec.stored import Stored
from netpress.errors import FileError
from netpress.gains import Gain, gains

_GRID = re.compile(r"round\d+_(scale|zero)")
"""Tensors that say how a value of the pass is rounded, two for each: one line tells of all."""


def describe(path: Path) -> dict[str, Any]:
    """A file's network, tensors and bytes by part, as plain data.

    Args:
        path: of a `.press` file.

    Returns:
        `file_bytes overhead_bytes around parts version network edits input classes graph parameters nonzero ratio gains
        tensors`; around: bytes of header, graph, lengths, checksums, ...; parts: bytes of all tensors by part; both
        together are the file's; gains: what each thing that was done buys at run time (`gains.Gain`); ratio =
        4 x parameters / file_bytes.
        Each tensor has `name shape form chain parameters kept values grid_bits scales bits bytes parts`: how many
        values an entry can take (at its scale), bits of the integers, how many scales or steps there are, bytes by part
        (`codec.parts.PARTS`). What tensors of one kind begin with stands in the header, once, and counts there.

    Raises:
        FileError: the file is damaged or from a newer version.
    """
    press, data = container.read(path), path.read_bytes()
    bytes_ = {name: Counter[str]() for name in ["", *(tensor.name for tensor in press.tensors)]}
    for place in container.layout(data):
        bytes_[place.tensor][place.part] += place.size
    around = bytes_.pop("")
    rows = [_row(tensor, bytes_[tensor.name]) for tensor in press.tensors]
    size = len(data)
    parameters = sum(row["parameters"] for row in rows)
    arch = press.header.arch
    return {
        "file_bytes": size,
        "overhead_bytes": sum(around.values()),
        "around": dict(around),
        "parts": _ordered(sum(bytes_.values(), Counter())),
        "version": data[len(container.MAGIC)],
        "network": f"{arch.source}:{arch.name}",
        "edits": [list(edit) for edit in arch.edits],
        "input": list(press.header.input_shape),
        "classes": list(press.header.classes),
        "graph": bool(press.graph),
        "parameters": parameters,
        "nonzero": sum(row["kept"] for row in rows),
        "ratio": 4 * parameters / size,
        "gains": [asdict(gain) for gain in gains(rows, arch.edits, _operators(press.graph))],
        "tensors": rows,
    }


def _operators(graph: bytes) -> tuple[str, ...]:
    """Those of a graph; none of one that no runtime of ours would open: its bytes are shown all the same."""
    try:
        return onnx_bytes.check(graph).operators
    except FileError:
        return ()


def _row(tensor: container.Tensor, bytes_: Mapping[str, int]) -> dict[str, Any]:
    value = tensor.unpack()
    count = math.prod(value.shape)
    kept = count if value.positions is None else len(value.positions)
    size = sum(bytes_.values())
    return {
        "name": tensor.name,
        "shape": list(value.shape),
        "form": value.form,
        "chain": tensor.chain,
        "parameters": count,
        "kept": kept,
        "values": _values(value),
        "grid_bits": value.side.bits if value.side is not None and value.side.bits else None,
        "scales": None if value.side is None else int(value.side.scale.size),
        "bits": 8 * size / count if count else 0.0,
        "bytes": size,
        "parts": _ordered(bytes_),
    }


def _ordered(bytes_: Mapping[str, int]) -> dict[str, int]:
    return {part: bytes_[part] for part in PARTS if part in bytes_}


def _values(value: Stored) -> int | None:
    if value.table is not None:
        return len(value.table)
    return None if value.side is None else value.side.alphabet


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> str:
    """Aligned plain text: words to the left, numbers to the right.

    >>> print(table([["a", 1], ["bb", 22]], ["name", "n"]))
    name   n
    a      1
    bb    22
    """
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    numeric = [
        all(isinstance(row[i], int | float | np.number) or row[i] is None for row in rows) for i in range(len(head))
    ]
    return "\n".join(_line(row, widths, numeric) for row in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _line(row: Iterable[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    parts = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
    return "  ".join(parts).rstrip()


def _form(row: dict[str, Any]) -> str:
    """A form in words, e.g. "shared, 8-bit table"."""
    if row["grid_bits"] is None:
        return str(row["form"])
    return f"{row['form']}, {row['grid_bits']}-bit" + (" table" if row["form"] == "shared" else "")


def text(facts: dict[str, Any]) -> str:
    """What `describe` found, for people."""
    lines = [
        f"{facts['network']}  input {'x'.join(map(str, facts['input']))}  {len(facts['classes']) or 'unnamed'} classes",
        (
            f"{facts['file_bytes']:,} bytes, {facts['ratio']:.1f}x smaller than float32; "
            f"{facts['nonzero']:,} of {facts['parameters']:,} parameters kept"
        ),
        *(str(Gain(**gain)) for gain in facts["gains"]),
        "",
    ]
    named = [r for r in facts["tensors"] if not _GRID.fullmatch(r["name"])]
    grids = [r for r in facts["tensors"] if _GRID.fullmatch(r["name"])]
    rows = [
        [
            *(r["name"], "x".join(map(str, r["shape"])), _form(r), r["chain"]),
            *(100 * r["kept"] / max(r["parameters"], 1), r["values"], r["scales"], r["bits"]),
            *_bytes(r["parts"]),
        ]
        for r in named
    ]
    if grids:
        together = sum((Counter(r["parts"]) for r in grids), Counter[str]())
        rows.append([f"grids of {len(grids) // 2} rounded values", *_BLANK, *_bytes(together)])
    rows.append(["all tensors", *_BLANK, *_bytes(facts["parts"])])
    rows += [[part, *_BLANK, *_bytes({}, size)] for part, size in facts["around"].items()]
    rows.append(["the file", *_BLANK, *_bytes({}, facts["file_bytes"])])
    head = ["tensor", "shape", "form", "chain", "kept %", "levels", "steps", "bits/weight", *PARTS, "bytes"]
    return "\n".join([*lines, table(rows, head), *_notes(facts)])


_BLANK = ("", "", "", None, None, None, None)


def _bytes(parts: Mapping[str, int], size: int | None = None) -> list[int | None]:
    """The columns of bytes of one line, and their sum."""
    return [*(parts.get(part) for part in PARTS), sum(parts.values()) if size is None else size]


def _notes(facts: dict[str, Any]) -> list[str]:
    """What the columns do not say of themselves."""
    notes = ["", "columns from positions on are bytes; coder: tables of Huffman and rANS streams"]
    if any(r["chain"].startswith("mask") and r["form"] != "free" for r in facts["tensors"]):
        notes.append("codes of chains that begin with mask: positions and codes are one stream")
    if "header and graph" in facts["around"]:
        notes.append("header and graph are one stream; what tensors of one kind begin with (flags, bits) stands there")
    return notes
