"""Data sets in memory: `open` one by name, folder, file or factory, and iterate over it with `batches`."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from netpress.data import cifar, digits, idx
from netpress.data.batches import Augment, batches, normalise
from netpress.data.download import data_root
from netpress.data.split import decide_on_test, hold_out, stratify
from netpress.data.types import Data, Split, build
from netpress.errors import DataError

__all__ = [
    "Augment",
    "Data",
    "Split",
    "batches",
    "build",
    "data_root",
    "decide_on_test",
    "hold_out",
    "names",
    "normalise",
    "open",
    "stratify",
]

_KNOWN: dict[str, Callable[[Path], Data]] = {
    "digits": lambda _root: digits.load(),
    "mnist": idx.mnist,
    "fashion_mnist": idx.fashion_mnist,
    "cifar10": cifar.load,
}


def names() -> tuple[str, ...]:
    """Return the names of the known sets.

    >>> "mnist" in names()
    True
    """
    return tuple(_KNOWN)


def open(spec: str, root: str | os.PathLike[str] | None = None) -> Data:  # noqa: A001  read as netpress.data.open
    """Open a data set.

    Args:
        spec: a known name (`names()`).
        root: where known sets lie or are put; None: NETPRESS_DATA, else the user's cache.

    Raises:
        DataError: unknown, missing, damaged, or not fit for use.

    >>> open("digits").shape
    (1, 28, 28)
    """
    if load := _KNOWN.get(spec):
        return load(data_root(root))
    raise DataError(_unknown(spec))


def _unknown(spec: str) -> str:
    near = difflib.get_close_matches(spec.lower().replace("-", "_"), _KNOWN, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown data set {spec!r}; {hint}expected one of {', '.join(_KNOWN)}"
