"""What is in a WebDataset tar file: images and class numbers, and nothing else is ever read from it."""

import importlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from netpress.errors import DataError

IMAGES = frozenset(("jpg", "jpeg", "png", "webp", "bmp"))
_CLASS = "cls"
_LARGEST = 2**28  # bytes of one image file; a header may claim anything


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a tar file.

    Args:
        shard: number of the tar file.
        key: the image's name in it without its extension.
        size: bytes of the image file.
        label: its class number.
    """

    shard: int
    key: str
    size: int
    label: int


def webdataset() -> ModuleType:
    """The library, or a message how to get it.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module("webdataset")
    except ImportError as error:
        raise DataError("shards need the webdataset library; pip install 'netpress[stream]'") from error


def extension(name: str) -> str:
    """Everything after the first dot of a member's name, in lower case, as WebDataset takes it.

    >>> extension("train/n01.JPG"), extension("a.seg.png")
    ('jpg', 'seg.png')
    """
    return name.rpartition("/")[2].partition(".")[2].lower()


def scan(path: Path, shard: int) -> Iterator[Sample]:
    """Go through the headers of a tar file; pixels are skipped.

    Args:
        path: the tar file.
        shard: its number.

    Raises:
        DataError: truncated or damaged, packed, an image without a class number, or absurdly large.
    """
    seen = set()
    for sample in _grouped(path, _headers(path)):
        images = [kind for kind in sample if kind in IMAGES]
        if not images:
            continue
        key, where = sample["__key__"], f"{path}/{sample['__key__']}"
        if len(images) > 1 or key in seen:
            raise DataError(f"{where}: more than one image of this name; expected one with one .cls")
        seen.add(key)
        text = sample.get(_CLASS, b"").decode("ascii", errors="replace").strip()
        if not (text.isdigit() and len(text) < 10):
            raise DataError(f"{where}.cls: {text!r}, expected a class number as text, beside the image in the tar file")
        yield Sample(shard, key, sample[images[0]], int(text))


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read a tar file from beginning to end.

    Returns:
        Key and bytes of each image.

    Raises:
        DataError: truncated or damaged.
    """
    inside = webdataset().tariterators
    try:
        # Opened here: the library's own opening of names would run commands for those that begin with "pipe:".
        with path.open("rb") as file:
            sources = [{"url": str(path), "stream": file}]
            members = inside.tar_file_expander(sources, select_files=lambda name: _wanted(name) in IMAGES)
            for sample in inside.group_by_keys(members):
                yield sample["__key__"], next(sample[kind] for kind in sample if kind in IMAGES)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: truncated or damaged ({_first(error)}); fetch it again") from error


def _grouped(path: Path, members: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from webdataset().tariterators.group_by_keys(members)
    except ValueError as error:
        raise DataError(f"{path}: {_first(error)}; expected one image and one .cls of each name") from error


def _wanted(name: str) -> str:
    return "" if name.startswith("__") else extension(name)


def _headers(path: Path) -> Iterator[dict[str, Any]]:
    """Yield members as the library groups them, with the size in place of an image's bytes."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                kind = _wanted(member.name) if member.isreg() else ""
                if kind in IMAGES:
                    if member.issparse() or not 0 < member.size <= _LARGEST:
                        raise DataError(f"{path}/{member.name}: {member.size:,} bytes; expected an image file")
                    yield {"fname": member.name, "data": member.size, "__url__": str(path)}
                elif kind == _CLASS and member.size <= 64 and (text := tar.extractfile(member)):
                    yield {"fname": member.name, "data": text.read(), "__url__": str(path)}
                tar.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end mark")  # a file cut off in a header is not noticed by the library
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: truncated, damaged or packed ({_first(error)}); expected a plain tar file") from error


def _first(error: BaseException) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
