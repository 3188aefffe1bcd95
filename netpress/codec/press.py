"""What a `.press` file holds, in memory: header, coded tensors, graph; and what both versions of the file share."""

import contextlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netpress.codec import stored
from netpress.codec.header import Header, Row
from netpress.errors import FileError

MAGIC = b"\x89NPR\r\n\x1a\n"
CRC_BYTES = 4
FREE_EXPANSION_BYTES = 64 << 20
MAX_EXPANSION = 1 << 12
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as it lies in the file.

    Args:
        name: unique within the file.
        shape: of the restored tensor.
        form: "free", "shared", "signs" or "affine".
        dtype: of the restored tensor, e.g. "float32".
        chain: how `data` is coded, e.g. "rel5+huffman".
        data: the payload.
        offset: where the payload starts in the file it was read from (for messages; not compared).
    """

    name: str
    shape: tuple[int, ...]
    form: str
    dtype: str
    chain: str
    data: bytes
    offset: int = field(default=0, compare=False)

    @classmethod
    def of(cls, name: str, value: stored.Stored, codec: stored.Codec = "auto") -> "Tensor":
        """Pack a stored tensor.

        >>> Tensor.of("b", stored.free(np.float32([0.5, 0.1]))).chain
        'raw'
        """
        packed = stored.pack(value, codec)
        return cls(name, value.shape, value.form, value.dtype, packed.chain, packed.data)

    def unpack(self) -> stored.Stored:
        """The stored form of this tensor.

        Raises:
            FileError: the payload is damaged; names the tensor and its place.
        """
        with naming(f"tensor {self.name!r} at byte {self.offset}"):
            return stored.unpack(self.data, shape=self.shape, form=self.form, dtype=self.dtype, chain=self.chain)

    def restore(self) -> NDArray[np.generic]:
        """The values of this tensor, bit for bit.

        Raises:
            FileError: the payload is damaged; names the tensor and its place.
        """
        return stored.restore(self.unpack())


@dataclass(frozen=True, slots=True)
class Press:
    """A whole file.

    Args:
        header: what the network is.
        tensors: in file order; the graph calls the i-th one `t<i>`.
        graph: an ONNX ModelProto without weights; may be empty.
    """

    header: Header
    tensors: tuple[Tensor, ...]
    graph: bytes = b""


class Place(NamedTuple):
    """A run of bytes of a file: of which tensor ("" for what is around them), which part, where, how many.

    `coarse` is the part where only positions, codes, table and values are told apart.
    """

    tensor: str
    part: str
    offset: int
    size: int
    coarse: str


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the place in front of a FileError from within."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{where}: {error}") from None


def restored_sizes(rows: tuple[Row, ...], file_bytes: int, limit_bytes: int) -> list[int]:
    """Bytes of each tensor when restored.

    Args:
        rows: of the header.
        file_bytes: of the whole file, which bounds how much may come out of it.
        limit_bytes: the caller's own bound.

    Raises:
        FileError: an unknown form, type or chain, or more bytes together than allowed.
    """
    limit = min(limit_bytes, max(FREE_EXPANSION_BYTES, MAX_EXPANSION * file_bytes))
    total, sizes = 0, []
    for row in rows:
        with naming(f"tensor {row.name!r}"):
            restored = stored.restored_bytes(row.shape, form=row.form, dtype=row.dtype, chain=row.chain)
            total += max(restored, 4 * math.prod(row.shape))
            if total > limit:
                raise FileError(f"restored size {total} bytes so far, more than the limit of {limit}")
        sizes.append(restored)
    return sizes


def crc(data: bytes) -> bytes:
    """CRC-32 as it stands in a file.

    >>> crc(b"123456789").hex()
    '2639f4cb'
    """
    return zlib.crc32(data).to_bytes(CRC_BYTES, "little")


def check_crc(data: bytes, start: int, end: int, what: str) -> None:
    """Compare bytes `start` to `end` with the checksum behind them.

    Raises:
        FileError: they differ.
    """
    expected = int.from_bytes(data[end : end + CRC_BYTES], "little")
    got = zlib.crc32(memoryview(data)[start:end])
    if got != expected:
        raise FileError(f"{what} at byte {start}: damaged: checksum {got:08x}, expected {expected:08x}")


def deflate(raw: bytes, dictionary: bytes) -> bytes:
    """Raw deflate with a preset dictionary; the shorter of dynamic and fixed codes. Nothing for nothing."""
    if not raw:
        return b""
    candidates = []
    for strategy in _STRATEGIES:
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy, dictionary)
        candidates.append(coder.compress(raw) + coder.flush())
    return min(candidates, key=len)
