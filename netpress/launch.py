"""Start a command in several processes on this machine, as `torchrun` does, and say in one line how it ended."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from netpress.cli_options import LAUNCHED
from netpress.errors import RecipeError
from netpress.processor import usable_cores
from netpress.train.processes import ProcessLostError

INTERRUPTED = 130


def launch(argv: Sequence[str], count: int) -> int:
    """Run `netpress ARGV` in `count` processes that train together.

    Equal to `torchrun --standalone --nproc-per-node COUNT -m netpress ARGV`; cores are shared out evenly where the
    environment does not say how many threads each gets. When a process dies the others are ended at once.

    Args:
        argv: words after `netpress`.
        count: processes.

    Returns:
        The exit code: 0, or that of the first process that ended with another one.

    Raises:
        RecipeError: fewer than one process.
        ProcessLostError: a process was killed.
    """
    if count < 1:
        raise RecipeError(f"--nproc {count}: expected at least 1")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    os.environ[LAUNCHED] = "1"
    # they tell of a failure in thirty lines what the process itself has said in one
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="netpress",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "netpress", *argv)
    except ChildFailedError as failed:
        ended = sorted(failed.failures.items(), key=lambda pair: pair[1].exitcode >= 0)  # signals first
        rank, code = ended[0][0], ended[0][1].exitcode
        if code >= 0 and code != ProcessLostError.exit_code:
            return code
        how = (
            f"process {rank} of {count} was ended by signal {-code}" if code < 0 else f"one of {count} processes ended"
        )
        raise ProcessLostError(
            f"{how}; the others were stopped, what was reached is kept: run the same command again"
        ) from failed
    except (KeyboardInterrupt, SignalException):
        return INTERRUPTED
    finally:
        del os.environ[LAUNCHED]  # it was for the children
    return 0
