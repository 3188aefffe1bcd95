"""Where trials run: in this process, in processes of this machine, on a Ray cluster. The same tasks, the same seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from netpress.errors import RecipeError
from netpress.search.space import Policy

NAMES = ("inline", "local", "ray", "ray://HOST:PORT")
"""What `open_executor` opens; a cluster's head itself also as `HOST:PORT`."""


class Work(Protocol):
    """What every worker holds: network, data, settings; sent to each once. It can be pickled between processes."""

    @property
    def threads(self) -> int:
        """Threads that one task may use; whoever runs it sets torch to them."""
        ...

    @property
    def device(self) -> str:
        """`cpu`, or `cuda`: then a task takes a GPU."""
        ...

    def run(self, policy: Policy, rung: int, state: bytes) -> tuple[dict[str, Any], bytes]:
        """One rung of one trial: a function of its arguments alone.

        Args:
            policy: what is tried.
            rung: from 0.
            state: what the rung before gave; empty for the first.

        Returns:
            Plain numbers, and the state that the next rung goes on from.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One rung of one trial.

    Attributes:
        number: of the trial.
        policy, rung: see `Work.run`.
        state: what `Done.state` of the rung before was (executors may keep it elsewhere than in memory); None: first.
    """

    number: int
    policy: Policy
    rung: int = 0
    state: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A task that ended.

    Attributes:
        task: which.
        numbers: what it measured; empty where it failed.
        state: for the next rung: opaque.
        error: one line; empty where all is well.
        seconds: that it ran.
        where: which worker.
    """

    task: Task
    numbers: Mapping[str, Any]
    state: Any = None
    error: str = ""
    seconds: float = 0.0
    where: str = ""


class Executor(Protocol):
    """Runs tasks.

    Attributes:
        workers: tasks that it runs at the same time.
    """

    workers: int

    def submit(self, task: Task) -> None:
        """Take a task; at most `workers` are in flight."""
        ...

    def wait(self) -> Done:
        """The next task that ends, whichever it is; a lost worker's task is run again before that is an error."""
        ...

    def close(self) -> None:
        """Stop what runs and give everything back; called once, also after an error or Ctrl-C."""
        ...


def open_executor(name: str, work: Work, *, workers: int) -> Executor:
    """Start what runs the tasks.

    Args:
        name: `inline`: in this process; `local`: in processes of this machine; `ray`: a Ray started for this search on
            this machine; `ray://HOST:PORT`, or on a node of the cluster `HOST:PORT`: a Ray cluster that runs already.
        work: what they run.
        workers: tasks at the same time.

    Raises:
        RecipeError: unknown name, a number of workers that it cannot have, no Ray, nothing answers at the address.
        ModelError: the work cannot be sent to other processes.
    """
    check_executor(name, workers=workers)
    if name == "inline":
        from netpress.search.executors.inline import Inline

        return Inline(work)
    if name == "local":
        from netpress.search.executors.local import Local

        return Local(work, workers=workers)
    from netpress.search.executors.ray_cluster import Ray

    return Ray(work, workers=workers, address=None if name == "ray" else name)


def probe_executor(name: str) -> None:
    """Ask whether a cluster answers, before anything is trained for it.

    Raises:
        RecipeError: Ray is not installed, or nothing answers at the address.
    """
    if name not in ("inline", "local", "ray"):
        from netpress.search.executors.ray_cluster import probe

        probe(name)


def check_executor(name: str, *, workers: int) -> None:
    """Refuse what `open_executor` would, as far as it shows without starting anything.

    Raises:
        RecipeError: unknown name, or a number of workers that it cannot have.
    """
    if workers < 1:
        raise RecipeError(f"workers: got {workers}, expected at least 1")
    if name == "inline" and workers != 1:
        raise RecipeError(f"workers: the executor inline has one, got {workers}; use local or ray")
    host, _, port = name.rpartition(":")
    cluster = name.startswith("ray://") or (host and port.isdigit())
    if name not in ("inline", "local", "ray") and not cluster:
        raise RecipeError(f"executor: unknown {name!r}; there are {', '.join(NAMES)}")
