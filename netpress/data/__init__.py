"""Data sets in memory: `open` one by name, folder, file or factory, and iterate over it with `batches`."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from netpress.data import arrays, cifar, digits, factory, folder, idx, tiny_imagenet
from netpress.data.arrays import from_arrays
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
    "from_arrays",
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
    "tiny_imagenet": tiny_imagenet.load,
}
_FORMS = ("folder:PATH", "folder:PATH?size=N", "npz:PATH", "path.py:factory")


def names() -> tuple[str, ...]:
    """Return the names of the known sets.

    >>> names()
    ('digits', 'mnist', 'fashion_mnist', 'cifar10', 'tiny_imagenet')
    """
    return tuple(_KNOWN)


def open(spec: str, root: str | os.PathLike[str] | None = None) -> Data:  # noqa: A001  read as netpress.data.open
    """Open a data set; all of it is read into memory as uint8.

    Args:
        spec: a known name (`names()`); `folder:PATH` or `folder:PATH?size=N` (`folder.load`); `npz:PATH`
            (`arrays.from_arrays`); or `path.py:factory`, which runs that Python file (`factory.load`).
        root: where known sets lie or are put; None: NETPRESS_DATA, else the user's cache.

    Raises:
        DataError: unknown, missing, damaged, or not fit for use.

    >>> open("digits").shape
    (1, 28, 28)
    """
    if load := _KNOWN.get(spec):
        return load(data_root(root))
    kind, _, rest = spec.partition(":")
    if kind == "folder" and rest:
        return _open_folder(rest)
    if kind == "npz" and rest:
        return arrays.load_npz(Path(rest).expanduser())
    # From the right: a drive letter may stand at the left.
    file, _, function = spec.rpartition(":")
    if file.endswith(".py") and function:
        return factory.load(Path(file).expanduser(), function)
    raise DataError(_unknown(spec))


def _open_folder(rest: str) -> Data:
    path, _, size = rest.partition("?size=")
    if size and not (size.isascii() and size.isdigit() and int(size) > 0):
        raise DataError(f"folder:{rest}: size is {size!r}, expected a number of pixels, such as ?size=64")
    return folder.load(Path(path).expanduser(), size=int(size) if size else None)


def _unknown(spec: str) -> str:
    near = difflib.get_close_matches(spec.lower().replace("-", "_"), _KNOWN, n=1)
    guess = near[0] if near else ""
    if Path(spec).is_dir():
        guess = f"folder:{spec}"
    elif spec.endswith(".npz"):
        guess = f"npz:{spec}"
    elif spec.endswith(".py"):
        guess = f"{spec}:factory"
    hint = f"did you mean {guess!r}? " if guess else ""
    return f"unknown data set {spec!r}; {hint}expected one of {', '.join((*_KNOWN, *_FORMS))}"
