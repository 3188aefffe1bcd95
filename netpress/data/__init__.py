"""Data sets, in memory or streamed: `open` one by name, folder, file or factory, and iterate over it with `batches`."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from netpress.data import arrays, cifar, digits, factory, folder, idx, options, shards, stream, tiny_imagenet
from netpress.data.arrays import from_arrays
from netpress.data.batches import Augment, batches, normalise
from netpress.data.download import data_root
from netpress.data.long_tail import long_tail
from netpress.data.split import decide_on_test, hold_out, stratify
from netpress.data.types import Data, Split, Streamed, build
from netpress.errors import DataError

__all__ = [
    "Augment",
    "Data",
    "Split",
    "Streamed",
    "batches",
    "build",
    "data_root",
    "decide_on_test",
    "from_arrays",
    "hold_out",
    "long_tail",
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
_FORMS = ("folder:PATH", "folder:PATH?size=N", "folder:PATH?stream=1", "shards:PATH", "npz:PATH", "path.py:factory")


def names() -> tuple[str, ...]:
    """Return the names of the known sets.

    >>> names()
    ('digits', 'mnist', 'fashion_mnist', 'cifar10', 'tiny_imagenet')
    """
    return tuple(_KNOWN)


def open(spec: str, root: str | os.PathLike[str] | None = None) -> Data:  # noqa: A001  read as netpress.data.open
    """Open a data set; all of it is read into memory as uint8, unless it is streamed.

    Args:
        spec: a known name (`names()`); `folder:PATH[?size=N]` (`folder.load`), with `stream=1[&workers=K]` for a folder
            larger than memory (`stream.load`); `shards:PATH[?size=N&workers=K]`, WebDataset's tar files
            (`shards.load`); `npz:PATH` (`arrays.from_arrays`); or `path.py:factory`, which runs that Python file
            (`factory.load`). Each takes `?imbalance=F` (`long_tail`), behind other options with `&`.
        root: where known sets lie or are put; None: NETPRESS_DATA, else the user's cache.

    Raises:
        DataError: unknown, missing, damaged, not fit for use, or with an option that it does not have.

    >>> open("digits").shape, len(open("digits?imbalance=10").train)
    ((1, 28, 28), 482)
    """
    source, given = options.parse(spec)
    tail = given.pop("imbalance", None)
    strength = None if tail is None else options.factor(spec, tail)
    data = _open(spec, source, given, root)
    return data if strength is None else long_tail(data, strength)


def _open(spec: str, source: str, given: dict[str, str], root: str | os.PathLike[str] | None) -> Data:
    kind, _, rest = source.partition(":")
    if kind == "folder" and rest:
        return _open_folder(spec, rest, given)
    if kind == "shards" and rest:
        return _open_shards(spec, rest, given)
    # From the right: a drive letter may stand at the left.
    file, _, function = source.rpartition(":")
    if given and (source in _KNOWN or (kind == "npz" and rest) or (file.endswith(".py") and function)):
        options.check(spec, given, ("imbalance",))
    if load := _KNOWN.get(source):
        return load(data_root(root))
    if kind == "npz" and rest:
        return arrays.load_npz(Path(rest).expanduser())
    if file.endswith(".py") and function:
        return factory.load(Path(file).expanduser(), function)
    raise DataError(_unknown(spec))


def _open_folder(spec: str, path: str, given: dict[str, str]) -> Data:
    options.check(spec, given, ("size", "stream", "workers", "imbalance"))
    size = options.whole(spec, given, "size", least=1, such_as="a number of pixels, such as ?size=64")
    workers = options.whole(spec, given, "workers", least=0, such_as="a number of processes, such as &workers=4")
    streamed = given.get("stream", "0")
    if streamed not in {"0", "1"} or (workers is not None and streamed == "0"):
        raise DataError(f"{spec}: stream is {streamed!r}; expected 1, which workers need, or 0")
    place = Path(path).expanduser()
    return stream.load(place, size=size, workers=workers) if streamed == "1" else folder.load(place, size=size)


def _open_shards(spec: str, path: str, given: dict[str, str]) -> Data:
    options.check(spec, given, ("size", "workers", "imbalance"))
    size = options.whole(spec, given, "size", least=1, such_as="a number of pixels, such as ?size=64")
    workers = options.whole(spec, given, "workers", least=1, such_as="a number of threads, such as &workers=4")
    return shards.load(Path(path).expanduser(), size=size, workers=workers)


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
