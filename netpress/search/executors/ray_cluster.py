"""Trials as tasks of a Ray cluster, or of a Ray started on this machine. States of rungs stay in its object store."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import warnings
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from netpress.errors import ModelError, NetpressError, RecipeError
from netpress.search.executors import Done, Task, Work
from netpress.search.executors.inline import attempt, line
from netpress.search.executors.local import LOSSES, THREAD_VARIABLES

CLIENT = "ray://"
_CLIENT_PORT = 10001  # Ray's own default
_PROBE_S = 5.0  # for each of: a connection, an answer
_PROBES = {True: "/ray.rpc.RayletDriver/ClusterInfo", False: "/ray.rpc.NodeInfoGcsService/CheckAlive"}
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a search tells nobody that it runs
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # and Ray need not tell of its future
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of states: what went wrong stands in `Done.error`
}
_FIRST_S = 60.0  # for a worker to start and to fetch the work
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}
_held: dict[str, Work] = {}  # in a worker: the one work that it was sent


class Ray:
    """Runs tasks on Ray, which decides where.

    Args:
        work: what is run; it goes into the object store once, and to each worker process once.
        workers: tasks at the same time.
        address: `ray://HOST:PORT` or, on a node of it, `HOST:PORT` of a cluster that runs; None: one is started here,
            with as many CPUs as that takes, and stopped by `close`.

    Raises:
        RecipeError: Ray is not installed, nothing answers at the address, or no node of it can run such a task.
        ModelError: the work cannot be sent to another process.
    """

    def __init__(self, work: Work, *, workers: int, address: str | None = None) -> None:
        self.workers = workers
        self._ray = _ray()
        self._flight: dict[Any, tuple[Task, Any]] = {}
        self._address = address
        self._ours = not self._ray.is_initialized()  # else the caller's: used as it is, and left running
        cpus, gpus = work.threads, int(work.device.startswith("cuda"))
        # a task that raises has its error in what it returns; retries are for workers and nodes that are lost
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": LOSSES - 1}
        try:
            if self._ours:
                self._connect(cpus=workers * cpus)
            self._refuse_if_none_fits(cpus=cpus, gpus=gpus)
            self._work = self._put(work)
            self._refuse_if_not_ready(options)
        except BaseException:
            self.close()
            raise
        self._run = self._ray.remote(num_returns=2, **options)(run)
        self._threads = cpus

    def submit(self, task: Task) -> None:
        """Queue the task; it waits where the cluster has no room."""
        assert len(self._flight) < self.workers, "every worker has a task"
        facts = {"number": task.number, "policy": dict(task.policy), "rung": task.rung}
        # in a list it is not fetched for every task, but by `_work` once in a process
        found, state = self._run.remote([self._work], self._threads, facts, task.state or b"")
        self._flight[found] = (task, state)

    def wait(self) -> Done:
        """The next task that ends. Its numbers are fetched, its state stays where it is."""
        assert self._flight, "nothing was submitted"
        try:
            ended, _ = self._ray.wait(list(self._flight), num_returns=1)
            task, state = self._flight.pop(ended[0])
            return self._done(task, ended[0], state)
        except ConnectionError as error:
            words = f"the connection to the Ray cluster at {self._address} was lost; the same command goes on from here"
            raise NetpressError(words) from error

    def close(self) -> None:
        """Cancel what runs; stop the Ray that was started here, or leave the cluster."""
        if self._ray.is_initialized():
            for found in self._flight:
                with suppress(Exception):
                    self._ray.cancel(found, force=True)
            if self._ours:
                self._ray.shutdown()
        self._flight.clear()
        if self._ours:
            self._talk(allowed=True)

    def _done(self, task: Task, found: Any, state: Any) -> Done:
        """What a task that ended gave; what Ray raises for one task is that task's error."""
        try:
            return Done(task, state=state, **self._ray.get(found))
        except ConnectionError:
            raise
        except self._lost() as error:
            return Done(task, {}, error=f"the worker was lost {LOSSES} times ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001  (the search goes on)
            return Done(task, {}, error=line(_cause(error)))

    def _talk(self, *, allowed: bool) -> None:
        """Whether Ray prints to our standard output that workers were lost; there is no public switch for that."""
        self._ray._private.worker._worker_logs_enabled = allowed  # as Ray's own debugger does

    def _connect(self, *, cpus: int) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._talk(allowed=False)
        if self._address is None:
            self._ray.init(address="local", num_cpus=cpus, include_dashboard=False, **_QUIET)
            return
        probe(self._address)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._ray.init(address=self._address, **_QUIET)
        except Exception as error:
            raise RecipeError(f"the Ray cluster at {self._address} cannot be joined: {line(error)}") from error

    def _refuse_if_none_fits(self, *, cpus: int, gpus: int) -> None:
        """Such tasks would wait for ever."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            has = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise RecipeError(f"no node of the Ray cluster has {cpus} CPUs and {gpus} GPUs for a trial; it has {has}")

    def _put(self, work: Work) -> Any:
        try:
            return self._ray.put(work)
        except Exception as error:
            words = line(error.__cause__ or error.__context__ or error)
            raise ModelError(f"the search cannot be sent to another process: {words}; use one process") from error

    def _refuse_if_not_ready(self, options: dict[str, Any]) -> None:
        """Let one worker make the work: what is wrong there is wrong for every trial, so it ends the search."""
        first = self._ray.remote(**options)(made).remote([self._work])
        try:
            problem = self._ray.get(first, timeout=_FIRST_S)
        except self._ray.exceptions.GetTimeoutError:  # the cluster has no room now
            self._ray.cancel(first)
            return
        except Exception as error:
            words = f"workers of Ray cannot run netpress (is it installed on all nodes?): {line(_cause(error))}"
            raise RecipeError(words) from error
        if problem:
            raise ModelError(f"the search cannot be sent to another process: {problem}; use one process")

    def _lost(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError


def made(held: list[Any]) -> str:
    """What goes wrong where a worker of Ray makes the work; empty: nothing."""
    try:
        _work(held[0])
    except Exception as error:  # noqa: BLE001  (whatever a foreign class does when it is made again)
        return line(error).partition(" traceback: ")[0]
    return ""


def run(held: list[Any], threads: int, facts: dict[str, Any], state: bytes) -> tuple[dict[str, Any], bytes]:
    """One task, in a worker of Ray.

    Args:
        held: the reference of the work.
        threads: that the libraries may use, those that are not yet loaded included.
        facts: of the task, without its state.
        state: of the rung before.

    Returns:
        What `Done` takes besides task and state; and the state.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    found = attempt(_work(held[0]), Task(state=state, **facts))
    where = f"{socket.gethostname()}:{os.getpid()}"
    shown = {"numbers": found.numbers, "error": found.error, "seconds": found.seconds, "where": where}
    return shown, found.state


def probe(address: str) -> None:
    """Ask whether Ray answers at an address; Ray itself would ask for minutes, and end the process.

    Args:
        address: `ray://HOST:PORT` or `HOST:PORT`.

    Raises:
        RecipeError: nothing answers, or something else.
    """
    client = address.startswith(CLIENT)
    place = urlsplit("//" + address.removeprefix(CLIENT).rstrip("/"))
    try:
        host, port = place.hostname or "", place.port or _CLIENT_PORT
    except ValueError as error:
        raise RecipeError(f"executor: {address!r} is not an address: {error}") from error
    try:
        socket.create_connection((host, port), timeout=_PROBE_S).close()
    except OSError as error:
        words = error.strerror or str(error)
        raise RecipeError(f"no Ray cluster answers at {address}: {words}; `ray start --head` starts one") from error
    if os.environ.get("RAY_USE_TLS", "0") not in ("1", "true"):
        _probe_service(address, f"{host}:{port}", _PROBES[client])


def _probe_service(address: str, target: str, method: str) -> None:
    """Call a method that only the right kind of server has; that it refuses the empty call is an answer."""
    try:
        grpc: Any = importlib.import_module("grpc")
    except ImportError:
        return
    wrong = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=_PROBE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() in wrong:
                ports = "ray:// takes the client port (10001), HOST:PORT without it the head's own (6379)"
                raise RecipeError(f"what answers at {address} is not that part of a Ray cluster; {ports}") from error


def _work(reference: Any) -> Work:
    """The work, fetched and made once in a process."""
    key = reference.hex()
    if key not in _held:
        _held.clear()
        _held[key] = _ray().get(reference)
    return _held[key]


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise RecipeError("the executor ray needs Ray: pip install 'netpress[ray]'") from error


def _cause(error: BaseException) -> BaseException:
    """What was raised in the worker, without Ray's traceback around it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
