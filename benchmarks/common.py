"""What the benchmarks share: one thread, interleaved rounds of CPU time, claims with margins, the last line in JSON."""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netpress.candidate import Candidate

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported: import this module first


@dataclass(frozen=True)
class Claim:
    """A measured value against its limit; `at_least` says on which side it must lie."""

    name: str
    value: float
    limit: float
    at_least: bool

    @property
    def holds(self) -> bool:
        """Whether the value lies on the right side."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def margin(self) -> float:
        """How far on the good side, as a fraction of the limit; negative: missed."""
        relative = self.value / self.limit - 1 if self.limit else self.value
        return relative * (1 if self.at_least else -1)


def at_least(name: str, value: float, limit: float) -> Claim:
    """Claim that the value reaches the limit."""
    return Claim(name, value, limit, at_least=True)


def at_most(name: str, value: float, limit: float) -> Claim:
    """Claim that the value does not exceed the limit."""
    return Claim(name, value, limit, at_least=False)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call, all threads of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run all sides in turn, `rounds` times; CPU seconds of each run."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            seconds[name].append(cpu_seconds(work))
    return seconds


def spread(seconds: list[float]) -> str:
    """Median and range, for a table."""
    return f"{statistics.median(seconds):8.3f} ({min(seconds):.3f}..{max(seconds):.3f})"


OPERATORS: list[object] = []  # kept alive: declarations go with the object


def collected(
    words: str | None, results: Path, collect: Callable[[Path], dict[str, Any]], *, key: str | None = None
) -> tuple[list[dict[str, Any]], bool]:
    """Rows of the run folders that the command line names, kept in `results`; of that file where it names none.

    Args:
        words: what `--help` says.
        results: file of JSON rows.
        collect: the row of a run folder.
        key: rows that are there already stay, but for those that a new one shares this value with; None: none stays.

    Returns:
        The rows, and whether claims are to be checked.
    """
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 where a claim fails")
    options = parser.parse_args()
    if options.runs:
        rows = [collect(folder) for folder in options.runs]
        if key is not None and results.is_file():
            new = {row[key] for row in rows}
            rows = [row for row in json.loads(results.read_text()) if row[key] not in new] + rows
        results.write_text(json.dumps(rows, indent=1) + "\n")
    return json.loads(results.read_text()), options.check


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of this and of earlier calls, from a file of JSON lines."""
    return [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Add one row at the end."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def graph(candidate: "Candidate") -> bytes:
    """The ONNX model as the runtime opens it."""
    from netpress import store  # not every benchmark needs PyTorch
    from netpress.runtime import graph_bytes

    with tempfile.TemporaryDirectory() as folder:
        store.save(candidate, path := Path(folder) / "net.press", codec="bits")
        return graph_bytes(path)


def declare_operators() -> None:
    """Declare two operators that torchvision's import asks for and that do not load beside a CPU-only PyTorch."""
    import torch

    if not OPERATORS:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        OPERATORS.append(library)


def finish(results: dict[str, object], claims: list[Claim], *, check: bool) -> int:
    """Print the claims and, last, everything as one JSON object; the exit code."""
    print()
    for claim in claims:
        sign, verdict = (">=" if claim.at_least else "<="), ("holds" if claim.holds else "FAILS")
        print(f"{verdict}  {claim.name}: {claim.value:.6g} {sign} {claim.limit:g}, margin {claim.margin:+.1%}")
    sys.stdout.flush()
    made = {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": 1,
        "numpy": version("numpy"),
        "when": time.strftime("%Y-%m-%d"),
    }
    listed = [{**vars(c), "holds": c.holds, "margin": round(c.margin, 4)} for c in claims]
    print(json.dumps({**made, **results, "claims": listed}))
    return 1 if check and not all(claim.holds for claim in claims) else 0
