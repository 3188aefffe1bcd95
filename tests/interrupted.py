"""A process that runs recipes in forked children and kills them: what `test_resume.py` talks to.

Each line on stdin is a JSON object {"out", "recipe", "fault", "kill_after_s"}; each line on stdout the answer
{"killed", "failed", "seconds", "renames"}. `fault` is [side, n]: the child kills itself (SIGKILL) before or after its
n-th rename. Forking saves the seconds that importing PyTorch takes; the children are processes like any other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

from netpress import job  # noqa: E402
from netpress.recipe import parse  # noqa: E402


def faulty_replace(fault: list[Any] | None, count: Path) -> Callable[..., None]:
    replace, calls = os.replace, 0

    def wrapped(source: Any, target: Any) -> None:
        nonlocal calls
        calls += 1
        if fault == ["before", calls]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        with count.open("ab") as file:  # one byte per rename: cannot be cut in two
            file.write(b".")
        if fault == ["after", calls]:
            os.kill(os.getpid(), signal.SIGKILL)

    return wrapped


def child(order: dict[str, Any], count: Path) -> None:
    os.replace = faulty_replace(order.get("fault"), count)
    try:
        job.run(parse(order["recipe"]), out=order["out"], options=job.Options(seed=order.get("seed", 0)))
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  (the parent must hear of it)
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def warm() -> None:
    """Import here, once, what runs import where they need it."""
    import sklearn.datasets  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    from netpress import store, zoo
    from netpress.candidate import Candidate, Inputs

    with tempfile.TemporaryDirectory() as folder:
        store.save(Candidate(zoo.create("lenet5"), inputs=Inputs((1, 28, 28))), Path(folder) / "a.press")


def serve() -> None:
    warm()
    for line in sys.stdin:
        order = json.loads(line)
        count = Path(order["out"]).with_suffix(".renames")
        count.write_bytes(b"")
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            child(order, count)
        if "kill_after_s" in order:
            time.sleep(order["kill_after_s"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        answer = {
            "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
            "failed": os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0,
            "seconds": time.perf_counter() - start,
            "renames": count.stat().st_size,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
