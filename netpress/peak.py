"""Peak memory of a network that is opened and run in a process of its own, so that two of them do not mix.

`python -m netpress.peak FILE SHAPE TYPE THREADS` is that process; it needs numpy and ONNX Runtime only, as on a device.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netpress.errors import ModelError
from netpress.onnx_session import open_session
from netpress.runtime import graph_bytes

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory of a process that opened a network and ran it.

    Attributes:
        process_bytes: the most that the process held at any time: Python, numpy, ONNX Runtime and the network.
        network_bytes: how much of it came with the network: the most that was held, less what was held before.
    """

    process_bytes: int
    network_bytes: int


def peak(path: Path, shape: tuple[int, ...], *, dtype: str = "float32", threads: int = 1) -> Peak | None:
    """Open a `.press` or ONNX file in a fresh process, run it twice, and ask the system for the most memory it held.

    Args:
        path: of the file.
        shape: of the input, batch first.
        dtype: of the input.
        threads: of ONNX Runtime within an operation.

    Returns:
        The peak, resident bytes; None where the system does not tell (it does on Linux).

    Raises:
        ModelError: the process failed.
    """
    if not _STATUS.exists():
        return None
    words = [sys.executable, "-P", "-m", "netpress.peak", str(path.resolve()), "x".join(map(str, shape)), dtype]
    # -P: a file of the folder that the user stands in is no module; so the package's own place has to be named
    places = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    words.append(str(threads))
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  (ours)
    if done.returncode:
        reason = f"signal {-done.returncode}, out of memory?" if done.returncode < 0 else done.stderr.strip()
        last = reason.splitlines()[-1][:200] if reason else f"exit code {done.returncode}"
        raise ModelError(f"peak memory: {path} does not run on an input of shape {shape}: {last}")
    before, most = json.loads(done.stdout)
    return Peak(most, max(most - before, 0))


def noise(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An input to measure with, the same each time: normal numbers, or pixels where the type is uint8.

    >>> noise((2,), "uint8").dtype
    dtype('uint8')
    """
    source = np.random.default_rng(0)
    return source.integers(0, 256, shape, np.uint8) if dtype == "uint8" else source.standard_normal(shape).astype(dtype)


def _status(key: str) -> int:
    """A line of the process's status, bytes."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def main(words: list[str]) -> None:
    """Open, run twice, print resident bytes before and at the peak.

    Args:
        words: file, shape, type, threads.
    """
    path, shape, dtype, threads = Path(words[0]), tuple(map(int, words[1].split("x"))), words[2], int(words[3])
    x = noise(shape, dtype)
    with suppress(OSError):  # forget the peak of importing, where the system allows it
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    # not getrusage: its peak of a process includes that of the one that started it
    session = open_session(graph_bytes(path) if path.suffix == ".press" else path, threads=threads)
    for _ in range(2):
        session.run(None, {session.get_inputs()[0].name: x})
    sys.stdout.write(json.dumps([before, _status("VmHWM")]))


if __name__ == "__main__":
    main(sys.argv[1:])
