"""What a person sees of a search while it runs: a table on a terminal, else one line per trial."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from rich import live
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from netpress.report import search_words, words
from netpress.search.goal import Goal, Row

MOST_BEST, MOST_RUNNING = 5, 4
_SPACE = "\u00a0"


class Live:
    """Told of every trial; shows the best ones, those that run, how many are done, and the time that is left.

    Arguments:
        goal: of the search.
        trials: how many there will be at most.
        minutes: that the search may take; None: as long as it needs.
        say: takes one line per trial where no table is drawn.
        console: for the table, shared with whatever else draws there; None, or no terminal: no table.

    >>> goal = Goal({"top1": 0.99, "macs": 100.0}, {"macs": 50.0})
    >>> shown = Live(goal, trials=2, minutes=None, say=lambda line: print(line.replace(chr(160), " ")))
    >>> shown.ended(Row(0, {}, "complete", 0.975, {"macs": 40.0}, rung=1))
    trial 0: complete, top-1 97.50 %, multiply-adds 40 (80 % of the limit), inside the budget; the best so far; 1 of 2
    >>> shown.ended(Row(1, {}, "failed"))
    trial 1: failed; best so far: trial 0, top-1 97.50 %; 2 of 2
    """

    def __init__(
        self,
        goal: Goal,
        *,
        trials: int,
        minutes: float | None,
        say: Callable[[str], None],
        console: Console | None = None,
    ) -> None:
        self.goal, self.trials, self.minutes, self.say = goal, trials, minutes, say
        self.start = monotonic()
        self.earlier: int | None = None  # trials of an earlier call: those before the first that is told of
        self.running: dict[int, tuple[int, float]] = {}
        self.rows: list[Row] = []
        self.best: list[Row] = []
        drawn = console is not None and console.is_terminal
        self._live = live.Live(console=console, get_renderable=self.view, refresh_per_second=2) if drawn else None

    def began(self, row: Row) -> None:
        """A trial began."""
        self._count(row)
        self.running[row.number] = (-1, 0.0)
        if self._live is not None:
            self._live.start()

    def rung(self, number: int, rung: int, top1: float) -> None:
        """A trial finished a rung of its short retraining."""
        self.running[number] = (rung, top1)

    def ended(self, row: Row) -> None:
        """A trial ended, one way or another."""
        self._count(row)
        self.running.pop(row.number, None)
        self.rows.append(row)
        self.best = self.goal.best([one for one in self.rows if self._judged(one)])
        if self._live is None:
            self.say(self.line(row))

    def close(self) -> None:
        """Nothing more is drawn; the last table stays."""
        if self._live is not None:
            self._live.stop()

    @property
    def done(self) -> int:
        """Trials that ended, those of an earlier call too."""
        return min(self.trials, (self.earlier or 0) + len(self.rows))

    def left(self) -> float | None:
        """Seconds until all trials are done or the minutes are over, whichever is first; None: nobody knows yet."""
        spent = monotonic() - self.start
        ends = [60 * self.minutes - spent] if self.minutes is not None else []
        if self.rows:
            ends.append(spent / len(self.rows) * (self.trials - self.done))
        return max(0.0, min(ends)) if ends else None

    def line(self, row: Row) -> str:
        """One trial in one line."""
        parts = [f"trial {row.number}: {search_words.STATES[row.state]}"]
        if row.measured:
            parts += [f"top-1 {words.percent(row.top1)}", *(self._cost(name, row) for name in self._names(row))]
            parts += [self._fits(row)] if self._judged(row) else []
        told = [", ".join(parts)]
        if self.best:
            first = self.best[0]
            best = f"best so far: trial {first.number}, top-1 {words.percent(first.top1)}"
            told.append("the best so far" if first is row else best)
        return "; ".join([*told, f"{self.done} of {self.trials}"])

    def view(self) -> RenderableType:
        """The table, what runs, and the bar."""
        failed = sum(row.state == "failed" for row in self.rows)
        left = self.left()
        parts = [f"{self.done} of {words.many(self.trials, 'trial')}"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"about {words.seconds(left)} left"] if left is not None else []
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=max(1, self.trials), completed=self.done, width=24), Text(", ".join(parts)))
        shown: list[RenderableType] = [self._table()] if self.best else []
        return Group(*shown, Text(self._now(), overflow="ellipsis", no_wrap=True), bar)

    def _count(self, row: Row) -> None:
        if self.earlier is None:
            self.earlier = row.number

    def _now(self) -> str:
        """What runs, in one line."""
        running = list(self.running.items())
        told = [
            f"trial {number}" if rung < 0 else f"trial {number} (rung {rung}: {words.percent(top1)})"
            for number, (rung, top1) in running[:MOST_RUNNING]
        ]
        more = [f"{len(running) - MOST_RUNNING} more"] if len(running) > MOST_RUNNING else []
        return f"running: {', '.join(told + more)}" if told else "running: nothing"

    def _table(self) -> Table:
        table = Table(title="Best trials so far", title_justify="left", title_style="bold")
        names = self._names(self.best[0])
        for head in ("trial", "top-1", *(search_words.COSTS.get(name, name) for name in names)):
            table.add_column(head, justify="right")
        table.add_column("budget")
        for row in self.best[:MOST_BEST]:
            costs = [_amount(name, row) + self._share(name, row) for name in names]
            inside = self.goal.met(row.top1, row.costs)
            fits = Text(self._fits(row).split(" ")[0], style="green" if inside else "")
            table.add_row(str(row.number), words.percent(row.top1), *costs, fits)
        return table

    def _names(self, row: Row) -> list[str]:
        """The costs that are shown: those with a limit, else the one that is minimised."""
        return [name for name in (self.goal.limits or (self.goal.unit,)) if name in row.costs]

    def _judged(self, row: Row) -> bool:
        """Whether there is a cost to judge it by."""
        return row.measured and bool(self._names(row))

    def _fits(self, row: Row) -> str:
        return f"{'inside' if self.goal.met(row.top1, row.costs) else 'outside'} the budget"

    def _share(self, name: str, row: Row) -> str:
        """A cost as a share of its limit, else of the baseline's."""
        limit = self.goal.limits.get(name)
        whole = self.goal.baseline.get(name) if limit is None else limit
        if not whole or name not in row.costs:
            return ""
        return f" ({words.percent(row.costs[name] / whole, 0)})"

    def _cost(self, name: str, row: Row) -> str:
        of = "limit" if name in self.goal.limits else "baseline"
        share = self._share(name, row).replace(")", f" of the {of})")
        return f"{search_words.noun(name)} {search_words.cost(name, row.costs[name])}{share}"


def _amount(name: str, row: Row) -> str:
    return search_words.cost(name, row.costs.get(name)).removesuffix(f"{_SPACE}bytes")
