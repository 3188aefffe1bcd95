"""The `.press` container: magic, header, graph, the tensors; every byte accounted for.

`docs/format.md` defines the bytes. Reading allocates nothing before the bounds that the file claims were checked
against the file's own length and against fixed caps; nothing in a file runs code or names a path.
"""

from pathlib import Path

from netpress import atomic
from netpress.codec import chunked, small
from netpress.codec.press import MAGIC, Place, Press, Tensor, naming
from netpress.errors import FileError

__all__ = ["MAGIC", "SMALL_BYTES", "Place", "Press", "Tensor", "dumps", "layout", "loads", "read", "write"]

DEFAULT_LIMIT_BYTES = 4 << 30
SMALL_BYTES = 64 << 10
"""Files below this size have one checksum for all; larger ones one per chunk, so that damage is told by tensor."""


def dumps(press: Press, *, version: int | None = None) -> bytes:
    """Write a file into memory; the same press gives the same bytes.

    Args:
        press: what to write.
        version: 1 for readers that know no other; None takes 2 for files below `SMALL_BYTES`.

    Raises:
        FileError: something the reader would refuse.
    """
    payload = sum(len(tensor.data) for tensor in press.tensors)
    fits = version is None and payload < SMALL_BYTES
    data = small.dumps(press) if fits or version == small.VERSION else None
    if data is None or (version is None and len(data) >= SMALL_BYTES):
        data = chunked.dumps(press)
    loads(data)  # never write what cannot be read
    return data


def loads(data: bytes, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Press:
    """Read a file from memory.

    Args:
        data: the whole file.
        limit_bytes: refuse a file whose restored tensors would take more.

    Raises:
        FileError: damaged, hostile, or from a newer version; names the tensor and the byte where known.
    """
    return small.loads(data, limit_bytes) if _version(data) == small.VERSION else chunked.loads(data, limit_bytes)


def write(path: str | Path, press: Press) -> int:
    """Write a file: to a temporary name first, then renamed.

    Returns:
        The size of the file, in bytes.
    """
    return atomic.write(Path(path), dumps(press))


def read(path: str | Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Press:
    """Read a file; see `loads`.

    Raises:
        FileError: the file is missing, damaged, hostile, or from a newer version.
    """
    path = Path(path)
    with naming(str(path)):
        try:
            size = path.stat().st_size
            if size > limit_bytes:
                raise FileError(f"{size} bytes, more than the limit of {limit_bytes}")
            data = path.read_bytes()
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror}") from None
        return loads(data, limit_bytes=limit_bytes)


def layout(data: bytes) -> list[Place]:
    """Account for every byte of a file.

    Returns:
        Tensor, part, offset, bytes, in order, without empty ones; the sizes sum to the file's.

    Raises:
        FileError: as `loads`.
    """
    press = loads(data)
    found = small.layout(data, press) if _version(data) == small.VERSION else chunked.layout(data, press)
    places, at = [], 0
    for tensor, part in found:
        if part.size:
            places.append(Place(tensor, part.name, at, part.size, part.coarse))
        at += part.size
    return places


def _version(data: bytes) -> int:
    if data[: len(MAGIC)] != MAGIC:
        hint = "damaged by a transfer in text mode" if data[1:4] == MAGIC[1:4] else "not a .press file"
        raise FileError(f"byte 0: expected {MAGIC!r}, got {bytes(data[:8])!r}: {hint}")
    version = data[len(MAGIC)] if len(data) > len(MAGIC) else 0
    if version not in (chunked.VERSION, small.VERSION):
        raise FileError(f"byte 8: format version {version}: cut, or written by a newer version; update netpress")
    return version
