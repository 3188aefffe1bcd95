"""Run a function in several processes that know each other as `torchrun`'s do. Forked: nothing is imported again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from netpress.train import processes

FORK = multiprocessing.get_context("fork")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _member(work: Callable[..., None], rank: int, world: int, port: int, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0",
    }  # fmt: skip
    try:
        with processes.joined(torch.device("cpu")):
            work(*args)
    except processes.ProcessLostError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    except BaseException:  # noqa: BLE001  (a child has nowhere else to say it)
        import traceback

        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def start(work: Callable[..., None], *args: Any, world: int = 2) -> list[BaseProcess]:
    """Start `work(*args)` in each of `world` processes."""
    port = _free_port()
    members = [FORK.Process(target=_member, args=(work, rank, world, port, args)) for rank in range(world)]
    for member in members:
        member.start()
    return members


def ended(members: list[BaseProcess], *, within: float = 60.0) -> list[int | None]:
    """Exit codes; a process that is not done in time is killed and has none."""
    for member in members:
        member.join(within)
    codes = [member.exitcode for member in members]
    for member in members:
        if member.exitcode is None:
            member.kill()
            member.join()
    return codes


def kill(member: BaseProcess) -> None:
    """kill -9."""
    assert member.pid is not None
    os.kill(member.pid, signal.SIGKILL)
