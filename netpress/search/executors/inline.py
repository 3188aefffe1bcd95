"""Trials in this process, one after the other; and what every executor does with one task."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from netpress.search.executors import Done, Task, Work

_LONGEST = 300  # characters of an error that are kept: it stands in one line of a table


@dataclass(frozen=True, slots=True)
class Attempt:
    """What running one task gave, as it goes from a worker back to who asked.

    Attributes:
        numbers, state: see `Work.run`; empty where it failed.
        error: one line; empty where all is well.
        seconds: that it ran.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    state: bytes = b""
    error: str = ""
    seconds: float = 0.0


def attempt(work: Work, task: Task) -> Attempt:
    """Run one task where we are; whatever goes wrong in it is a line and not an exception.

    Args:
        work: what is run.
        task: its state is the bytes that the rung before gave, or None.

    Raises:
        KeyboardInterrupt: the user ends the search, not the trial.
    """
    start = time.perf_counter()
    try:
        with _threads(work.threads):
            numbers, state = work.run(task.policy, task.rung, task.state or b"")
    except Exception as error:  # noqa: BLE001  (a trial that crashes is a result of the search)
        return Attempt(error=line(error), seconds=time.perf_counter() - start)
    return Attempt(dict(numbers), state, seconds=time.perf_counter() - start)


def line(error: BaseException) -> str:
    """An error in one line: its type and what it says.

    >>> line(ValueError("no channel\\n  is left"))
    'ValueError: no channel is left'
    """
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:_LONGEST] if words else type(error).__name__


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads, wherever it runs: sums differ by their number, trials must not."""
    torch = sys.modules.get("torch")  # work without it need not wait for its import
    before = torch.get_num_threads() if torch else count
    if torch and before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch and before != count:
            torch.set_num_threads(before)


class Inline:
    """Runs a task when it is waited for. Nothing is pickled, and a crash of the process is a crash of the search.

    Args:
        work: what is run.
    """

    workers = 1

    def __init__(self, work: Work) -> None:
        self._work = work
        self._tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        """Keep the task for `wait`."""
        assert not self._tasks, "one task at a time"
        self._tasks.append(task)

    def wait(self) -> Done:
        """Run the task."""
        assert self._tasks, "nothing was submitted"
        task = self._tasks.pop()
        found = attempt(self._work, task)
        return Done(task, found.numbers, found.state, found.error, found.seconds, where="this process")

    def close(self) -> None:
        """Forget what was not run."""
        self._tasks.clear()
