"""A work that every worker can import: what a task does stands in its policy."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netpress.errors import BudgetError


@dataclass(frozen=True)
class Fake:
    """Adds random numbers, and notes in a folder that it began.

    A policy may name `x` (what it computes with), `sleep` (seconds), `fail`, `die` (how many times it kills itself),
    `pad` (numbers by which its state is longer).
    """

    folder: str
    threads: int = 1
    device: str = "cpu"

    def run(self, policy: Mapping[str, Any], rung: int, state: bytes) -> tuple[dict[str, Any], bytes]:
        name = f"{policy['x']}-{rung}"
        begun = len(starts(self.folder, name))
        (Path(self.folder) / f"{name}.{begun}.{os.getpid()}").touch()
        if policy.get("fail"):
            raise BudgetError("no channel\nis left")
        if begun < policy.get("die", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + policy.get("sleep", 0)
        while time.monotonic() < end:
            time.sleep(0.02)
        draws = np.random.default_rng([policy["x"], rung]).standard_normal(1000)
        total = float(draws.sum()) + (float(np.frombuffer(state)[0]) if state else 0.0)
        made = np.array([total, *[0.0] * policy.get("pad", 0)]).tobytes()
        return {"total": total, "threads": os.environ.get("OMP_NUM_THREADS")}, made


class Unpicklable(Fake):
    """Cannot leave its process."""

    def __reduce__(self) -> Any:
        raise TypeError("this holds an open file")


class Unmakeable(Fake):
    """Leaves its process, and cannot be made again in another."""

    def __reduce__(self) -> Any:
        return _broken, ()


def _broken() -> None:
    raise ValueError("made for one process")


def starts(folder: str | Path, name: str) -> list[int]:
    """Processes in which a task began, by the numbers of its trial and rung."""
    return [int(path.name.rsplit(".")[-1]) for path in sorted(Path(folder).glob(f"{name}.*"))]


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be read off by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(found: Any, *, within: float = 30.0) -> Any:
    """Wait until a call gives something."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def main() -> None:
    """A search of long tasks, to be interrupted: folder, executor."""
    from netpress.search.executors import Task, open_executor

    folder, name = sys.argv[1:]
    executor = open_executor(name, Fake(folder), workers=2)
    try:
        for number in range(2):
            executor.submit(Task(number, {"x": number, "sleep": 60}))
        executor.wait()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        executor.close()


if __name__ == "__main__":
    main()
