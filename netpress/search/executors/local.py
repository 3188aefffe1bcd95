"""Trials in several processes of this machine. A process that is lost is replaced, and its task run again."""

from __future__ import annotations

import atexit
import copyreg
import io
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler

from netpress.errors import ModelError
from netpress.search.executors import Done, Task, Work
from netpress.search.executors.inline import Attempt, attempt, line

LOSSES = 3
"""Workers that one task may cost."""
_SPAWN = get_context("spawn")  # a fork would inherit PyTorch's threads in whatever state they are
_GRACE_S = 5.0
_UNSENT = "the search cannot be sent to another process"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read by the libraries when they are loaded, so they are set before a worker starts."""


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, our end of the pipe to it, what it does, and how many workers that has cost before it."""

    process: BaseProcess
    pipe: Connection
    place: int
    task: Task | None = None
    losses: int = 0
    ready: bool = False


class Local:
    """Runs tasks in `workers` processes, each of which gets the work once.

    Args:
        work: what is run.
        workers: how many processes.

    Raises:
        ModelError: the work cannot be sent to another process.
    """

    def __init__(self, work: Work, *, workers: int) -> None:
        self.workers = workers
        self._threads = work.threads
        self._work = _pickled(work)
        self._team: list[_Worker] = []
        self._given_up: deque[Done] = deque()
        atexit.register(self.close)  # whoever forgets to close would wait at the end for processes that wait for tasks
        try:
            for place in range(workers):
                self._team.append(self._start(place))
            for worker in self._team:
                self._send_work(worker)
            for worker in self._team:
                self._await_ready(worker)
        except BaseException:
            self.close()
            raise

    def submit(self, task: Task) -> None:
        """Give the task to an idle process."""
        idle = [worker for worker in self._team if worker.task is None]
        assert idle, "every worker has a task"
        self._give(idle[0], task)

    def wait(self) -> Done:
        """The next task that ends; processes that end in the meantime are replaced."""
        assert self._given_up or any(worker.task for worker in self._team), "nothing was submitted"
        while not self._given_up:
            told = connection.wait([worker.pipe for worker in self._team])
            for worker in [worker for worker in self._team if worker.pipe in told]:
                done = self._heard(worker)
                if done:
                    return done
        return self._given_up.popleft()

    def close(self) -> None:
        """End all processes, whatever they do."""
        atexit.unregister(self.close)
        for worker in self._team:
            worker.process.terminate()
        while self._team:
            _end(self._team.pop())

    def _start(self, place: int) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=serve, args=(theirs,), name=f"netpress-search-{place}")
        resource_tracker.ensure_running()  # started by the first process otherwise, and then it unblocks Ctrl-C
        with _environment(dict.fromkeys(THREAD_VARIABLES, str(self._threads))), _without_interrupts():
            process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(process, ours, place)

    def _send_work(self, worker: _Worker) -> None:
        with suppress(OSError):  # it ended already: whoever reads from it next finds out
            worker.pipe.send_bytes(self._work)

    def _await_ready(self, worker: _Worker) -> None:
        """Wait until a process holds the work: what is wrong with it is wrong with all, so it ends the search."""
        try:
            problem = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(_GRACE_S)
            problem = f"a worker ended while it started (exit code {worker.process.exitcode})"
        self._check(problem)
        worker.ready = True

    def _check(self, problem: str) -> None:
        if problem:
            raise ModelError(f"{_UNSENT}: {problem}; use one process")

    def _give(self, worker: _Worker, task: Task) -> None:
        worker.task = task
        with suppress(OSError):  # lost while it was idle: `wait` meets the end of its pipe
            worker.pipe.send(task)

    def _heard(self, worker: _Worker) -> Done | None:
        """Read what a process sent; its end included."""
        try:
            found: Attempt | str = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return None
        if isinstance(found, str):  # from one that replaces another: it has the work
            self._check(found)
            worker.ready = True
            return None
        assert worker.task is not None
        task, worker.task, worker.losses = worker.task, None, 0
        return Done(task, found.numbers, found.state, found.error, found.seconds, where=f"process {worker.place}")

    def _replace(self, lost: _Worker) -> None:
        """Start another process in the place of one that ended, and give it the task again."""
        if lost.task is None and not lost.ready:  # without a task nobody counts how often
            self._await_ready(lost)
        worker = self._start(lost.place)
        self._team[self._team.index(lost)] = worker
        _end(lost)
        self._send_work(worker)
        if lost.task is None:
            return
        worker.losses = lost.losses + 1
        if worker.losses < LOSSES:
            self._give(worker, lost.task)
            return
        worker.losses = 0
        words = f"the worker was lost {LOSSES} times"
        self._given_up.append(Done(lost.task, {}, error=words, where=f"process {lost.place}"))


def serve(pipe: Connection) -> None:
    """Do the work that comes through a pipe, until it or the parent ends: the whole life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, daemon=True).start()
    try:
        work: Work = pipe.recv()
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001  (whatever a foreign class does when it is made again)
        pipe.send(line(error))
        return
    pipe.send("")
    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, OSError):
            return
        found = attempt(work, task)
        try:
            pipe.send(found)
        except OSError:
            return
        except Exception as error:  # noqa: BLE001  (numbers that are not plain)
            pipe.send(Attempt(error=line(error), seconds=found.seconds))


def _watch_parent() -> None:
    """End this process, whatever it computes, when its parent ends: by kill -9 too."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _pickled(work: Work) -> bytes:
    """The work as bytes for another process of ours.

    Raises:
        ModelError: it cannot be.
    """
    buffer = io.BytesIO()
    pickler = ForkingPickler(buffer, 5)
    # without PyTorch's own reducers: they move tensors to shared memory, of which containers have little
    pickler.dispatch_table = copyreg.dispatch_table
    try:
        pickler.dump(work)
    except Exception as error:
        raise ModelError(f"{_UNSENT}: {line(error)}; use one process") from error
    return buffer.getvalue()


def _end(worker: _Worker) -> None:
    """End a process, by force where it does not go, and give back what belongs to it."""
    worker.pipe.close()
    worker.process.terminate()
    worker.process.join(_GRACE_S)
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join()
    worker.process.close()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started in the meantime."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; a process that is started in the meantime never gets it, not even while it imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
