"""Progress on stderr, with the time that is left."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Terminal:
    """One bar for what is running; a line for what is done. In a file or a pipe lines only, without colours."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
        )
        self.bars = Progress(*columns, console=self.console, disable=quiet or not _shows_bars(self.console))
        self.task: TaskID | None = None
        self.what = ""

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.bars.stop()

    def progress(self, what: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Show how far `what` is; see `candidate.Progress`."""
        if what != self.what:
            self._clear()
        if self.task is None:
            self.task, self.what = self.bars.add_task(what, total=total, numbers=""), what
        shown = "  ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        self.bars.update(self.task, completed=done, total=total, numbers=shown)

    def say(self, line: str) -> None:
        """One line that stays; what was running is over."""
        self._clear()
        if not self.quiet:
            self.console.print(line, markup=False, soft_wrap=True)

    def _clear(self) -> None:
        if self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None


def _shows_bars(console: Console) -> bool:
    """Whether bars can move: in a terminal, and in a notebook that has ipywidgets (without, rich warns every time)."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
