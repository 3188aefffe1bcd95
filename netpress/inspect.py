"""Where every byte of a `.press` file goes; numpy only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from netpress.codec import container, onnx_bytes, stored
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
        `file_bytes overhead_bytes network edits input classes graph parameters nonzero ratio gains tensors`; gains:
        what each thing that was done buys at run time (`gains.Gain`); ratio = 4 x parameters / file_bytes.
        Each tensor has `name shape form chain parameters kept values grid_bits scales bits bytes parts`: how many
        values an entry can take (at its scale), bits of the integers, how many scales or steps there are.

    Raises:
        FileError: the file is damaged or from a newer version.
    """
    press = container.read(path)
    rows = [_row(tensor) for tensor in press.tensors]
    size = path.stat().st_size
    parameters = sum(row["parameters"] for row in rows)
    arch = press.header.arch
    return {
        "file_bytes": size,
        "overhead_bytes": size - sum(row["bytes"] for row in rows),
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


def _row(tensor: container.Tensor) -> dict[str, Any]:
    value = tensor.unpack()
    count = math.prod(value.shape)
    kept = count if value.positions is None else len(value.positions)
    again = stored.pack(value)
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
        "bits": 8 * len(tensor.data) / count if count else 0.0,
        "bytes": len(tensor.data),
        # bytes by part come from packing again, which is deterministic; another writer's chain has one part
        "parts": again.parts if again.data == tensor.data else {"data": len(tensor.data)},
    }


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
    names = ("positions", "codes", "table", "values", "data")
    rows = [
        [
            *(r["name"], "x".join(map(str, r["shape"])), _form(r), r["chain"]),
            *(100 * r["kept"] / max(r["parameters"], 1), r["values"], r["scales"], r["bits"]),
            *(r["parts"].get(n) for n in names),
            r["bytes"],
        ]
        for r in facts["tensors"]
        if not _GRID.fullmatch(r["name"])
    ]
    grids = [r["bytes"] for r in facts["tensors"] if _GRID.fullmatch(r["name"])]
    if grids:
        rows.append([f"grids of {len(grids) // 2} rounded values", "", "", "", *[None] * 9, sum(grids)])
    head = ["tensor", "shape", "form", "chain", "kept %", "values", "scales", "bits/weight", *names, "bytes"]
    rows.append(["header, graph, checksums", "", "", "", *[None] * 9, facts["overhead_bytes"]])
    return "\n".join([*lines, table(rows, head)])
