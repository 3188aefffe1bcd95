"""What the five papers print, ours beside it.

`run("sizes")` counts; it trains nothing and loads no data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from netpress import atomic
from netpress.candidate import Progress, silent
from netpress.errors import FileError, RecipeError
from netpress.reproduce import tables
from netpress.reproduce.sizes import Row, sizes

__all__ = ["TABLES", "Result", "Row", "run", "sizes", "to_json", "write"]

TABLES = ("sizes",)
"""What `run` can reproduce."""


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of one table of claims, and the files they were written to."""

    rows: Sequence[Row]
    paths: Sequence[Path] = ()

    @property
    def summary(self) -> str:
        """One line: N exact, M rounded, K differ."""
        return tables.summary(self.rows)

    def text(self) -> str:
        """Every row, for a terminal."""
        return tables.text(self.rows)

    def plain(self) -> dict[str, Any]:
        """Return everything as plain data."""
        rows = [asdict(row) for row in self.rows]
        return {"counts": tables.counts(self.rows), "rows": rows, "files": [str(path) for path in self.paths]}


def run(name: str, *, out: Path | None = None, progress: Progress = silent) -> Result:
    """Reproduce one table of claims.

    Args:
        name: one of `TABLES`.
        out: folder for the CSV and HTML files; made if need be; None: nothing is written.
        progress: told how far it is.

    Returns:
        The rows, each with a verdict.

    Raises:
        RecipeError: the name is unknown.
        FileError: the folder cannot be made or written.
    """
    if name not in TABLES:
        raise RecipeError(f"reproduce: unknown table {name!r}; there is {', '.join(TABLES)}")
    rows = sizes(progress)
    return Result(rows, write(rows, out) if out is not None else ())


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `sizes.csv` and `sizes.html`.

    Returns:
        Paths of the two files.

    Raises:
        FileError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot make the folder: {error.strerror}") from error
    files = {"sizes.csv": tables.to_csv(rows), "sizes.html": tables.to_html(rows)}
    for name, content in files.items():
        atomic.write(folder / name, content)
    return [folder / name for name in files]


def to_json(rows: Sequence[Row]) -> str:
    """Return the rows as one line of JSON, with the count of verdicts.

    >>> to_json([])
    '{"counts": {"exact": 0, "rounded": 0, "differs": 0}, "rows": [], "files": []}'
    """
    return json.dumps(Result(rows).plain(), ensure_ascii=False)
