"""One run in several processes: rank 0 does the job, the others take part in its trainings and nothing else.

Rank 0 says what is trained (bytes of a candidate, settings); all train together; rank 0 measures, writes and goes on.
Nothing of it is a pickle, and nothing depends on a shared disk.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from netpress import store
from netpress.candidate import Candidate
from netpress.errors import NetpressError
from netpress.train import processes

_COUNT = 8  # bytes that say how long the header is
_END = "end"
_FIT = "fit"


@dataclass(frozen=True, slots=True)
class Order:
    """What all processes train next.

    Attributes:
        facts: of the training, plain data: step, settings, key.
        candidate: a `.press` file.
        teacher: another one; empty where there is none.
    """

    facts: Mapping[str, Any]
    candidate: bytes
    teacher: bytes = b""


def packed(candidate: Candidate | None) -> bytes:
    """A candidate as the bytes of a file without a graph; nothing of nothing."""
    if candidate is None:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.press"
        store.save(candidate, path, codec="bits", graph=False)
        return path.read_bytes()


def opened(data: bytes, *, into: nn.Module | None) -> Candidate:
    """The candidate that `packed` gave."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.press"
        path.write_bytes(data)
        return store.load(path, into=into)


def order(make: Callable[[], Order]) -> None:
    """Rank 0: tell the others what to train; with one process nothing is made."""
    if processes.place()[1] > 1:
        made = make()
        facts = {"what": _FIT, "sizes": [len(made.candidate), len(made.teacher)], "facts": dict(made.facts)}
        processes.send(_framed(facts, made.candidate, made.teacher))


@contextmanager
def leading() -> Iterator[Callable[[Mapping[str, Any], bytes], None]]:
    """Rank 0's whole run; gives what to call with the run's numbers and file when all is well.

    However it ends, the others are told, unless they were lost.
    """
    result: list[tuple[Mapping[str, Any], bytes]] = []
    error = ""
    try:
        yield lambda numbers, file: result.append((numbers, file))
    except processes.ProcessLostError:
        raise
    except NetpressError as found:
        error = str(found)
        raise
    finally:
        if processes.place()[1] > 1 and (result or error):
            numbers, file = result[0] if result else ({}, b"")
            processes.send(
                _framed({"what": _END, "error": error, "numbers": dict(numbers), "sizes": [len(file)]}, file)
            )


def following(take_part: Callable[[Order], None]) -> tuple[Mapping[str, Any], bytes]:
    """The other ranks' whole run: train what rank 0 says until it ends.

    Args:
        take_part: called with each order.

    Returns:
        The run's numbers and the bytes of its file.

    Raises:
        NetpressError: rank 0 ended with this error.
    """
    while True:
        facts, blobs = _unframed(processes.send(None))
        if facts["what"] == _END:
            if facts["error"]:
                raise NetpressError(facts["error"])
            return facts["numbers"], blobs[0]
        try:
            take_part(Order(facts["facts"], *blobs))
        except processes.ProcessLostError:
            raise
        except NetpressError:
            continue  # rank 0 met the same: losses and weights are the same everywhere; it says so


def _framed(facts: Mapping[str, Any], *blobs: bytes) -> bytes:
    header = json.dumps(facts).encode()
    return b"".join((len(header).to_bytes(_COUNT, "little"), header, *blobs))


def _unframed(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    length = int.from_bytes(data[:_COUNT], "little")
    facts: dict[str, Any] = json.loads(data[_COUNT : _COUNT + length])
    place, blobs = _COUNT + length, []
    for size in facts["sizes"]:
        blobs.append(data[place : place + size])
        place += size
    return facts, blobs
