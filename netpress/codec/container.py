"""The `.press` container: magic, header, graph, one chunk per tensor; every byte accounted for.

`docs/format.md` defines the bytes. Reading allocates nothing before the bounds that the file claims were checked
against the file's own length and against fixed caps; nothing in a file runs code or names a path.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netpress import atomic
from netpress.codec import stored
from netpress.codec.dictionary import DICTIONARIES
from netpress.codec.header import Header, Row, dump, parse
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError

MAGIC = b"\x89NPR\r\n\x1a\n"
VERSION = 1
DICTIONARY = 1
MAX_HEADER_BYTES = 4 << 20
MAX_GRAPH_BYTES = 16 << 20
DEFAULT_LIMIT_BYTES = 4 << 30
FREE_EXPANSION_BYTES = 64 << 20
MAX_EXPANSION = 1 << 12
_CRC_BYTES = 4
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as it lies in the file.

    Args:
        name: unique within the file.
        shape: of the restored tensor.
        form: "free" or "shared".
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
        with _naming(f"tensor {self.name!r} at byte {self.offset}"):
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


@dataclass(frozen=True, slots=True)
class _Preamble:
    header_bytes: int
    raw_header_bytes: int
    graph_bytes: int
    raw_graph_bytes: int
    dictionary: int
    end: int


def dumps(press: Press) -> bytes:
    """Write a file into memory; the same press gives the same bytes.

    Raises:
        FileError: something the reader would refuse.
    """
    rows = tuple(_row(tensor) for tensor in press.tensors)
    raw_header = dump(press.header, rows)
    header, graph = _deflate(raw_header), _deflate(press.graph)
    start = MAGIC + bytes([VERSION, DICTIONARY])
    for size in (len(header), len(raw_header), len(graph), len(press.graph)):
        start += write_varint(size)
    head = start + header
    parts = [head, _crc(head), graph, _crc(graph)]
    for tensor in press.tensors:
        parts += [tensor.data, _crc(tensor.data)]
    data = b"".join(parts)
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
    start = _preamble(data)
    at = start.end + start.header_bytes
    _check_crc(data, 0, at, "header")
    dictionary = DICTIONARIES[start.dictionary]
    raw = _inflate(data[start.end : at], start.raw_header_bytes, dictionary, f"header at byte {start.end}")
    with _naming(f"byte {start.end}"):
        header, rows = parse(raw)
        sizes = _sizes(rows, min(limit_bytes, max(FREE_EXPANSION_BYTES, MAX_EXPANSION * len(data))))
    at += _CRC_BYTES
    end = at + start.graph_bytes + _CRC_BYTES + sum(sizes) + _CRC_BYTES * len(sizes)
    if end != len(data):
        raise FileError(f"byte {min(end, len(data))}: expected a file of {end} bytes, got {len(data)}: cut or extended")
    _check_crc(data, at, at + start.graph_bytes, "graph")
    packed_graph = data[at : at + start.graph_bytes]
    graph = _inflate(packed_graph, start.raw_graph_bytes, dictionary, f"graph at byte {at}")
    at += start.graph_bytes + _CRC_BYTES
    tensors = []
    for row, size in zip(rows, sizes, strict=True):
        _check_crc(data, at, at + size, f"tensor {row.name!r}")
        payload = bytes(data[at : at + size])
        tensors.append(Tensor(row.name, row.shape, row.form, row.dtype, row.chain, payload, at))
        at += size + _CRC_BYTES
    return Press(header, tuple(tensors), graph)


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
    with _naming(str(path)):
        try:
            size = path.stat().st_size
            if size > limit_bytes:
                raise FileError(f"{size} bytes, more than the limit of {limit_bytes}")
            data = path.read_bytes()
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror}") from None
        return loads(data, limit_bytes=limit_bytes)


def layout(data: bytes) -> list[tuple[str, int, int]]:
    """Account for every byte of a file.

    Returns:
        (what, offset, bytes), in order; the sizes sum to the file's.

    Raises:
        FileError: as `loads`.
    """
    press, start = loads(data), _preamble(data)
    sizes = [
        ("magic, version, lengths", start.end),
        ("header", start.header_bytes),
        ("header CRC", _CRC_BYTES),
        ("graph", start.graph_bytes),
        ("graph CRC", _CRC_BYTES),
    ]
    for tensor in press.tensors:
        sizes += [(tensor.name, len(tensor.data)), (f"{tensor.name} CRC", _CRC_BYTES)]
    places, at = [], 0
    for what, size in sizes:
        places.append((what, at, size))
        at += size
    return places


def _row(tensor: Tensor) -> Row:
    plain = (tensor.chain, tensor.form, tensor.dtype) == ("raw", "free", "float32")
    expected = 4 * math.prod(tensor.shape)
    if plain and len(tensor.data) == expected:
        return Row(tensor.name, tensor.shape)
    return Row(tensor.name, tensor.shape, len(tensor.data), tensor.chain, tensor.form, tensor.dtype)


def _sizes(rows: tuple[Row, ...], limit_bytes: int) -> list[int]:
    """Bytes of each chunk; refuses unknown forms and a restored total beyond the limit."""
    total, sizes = 0, []
    for row in rows:
        with _naming(f"tensor {row.name!r}"):
            restored = stored.restored_bytes(row.shape, form=row.form, dtype=row.dtype, chain=row.chain)
            total += max(restored, 4 * math.prod(row.shape))
            if total > limit_bytes:
                raise FileError(f"restored size {total} bytes so far, more than the limit of {limit_bytes}")
        sizes.append(restored if row.size_bytes is None else row.size_bytes)
    return sizes


def _preamble(data: bytes) -> _Preamble:
    if data[: len(MAGIC)] != MAGIC:
        hint = "damaged by a transfer in text mode" if data[1:4] == MAGIC[1:4] else "not a .press file"
        raise FileError(f"byte 0: expected {MAGIC!r}, got {bytes(data[:8])!r}: {hint}")
    at = len(MAGIC) + 2
    if len(data) < at:
        raise FileError(f"byte {len(data)}: the file ends within its first {at} bytes")
    version, dictionary = data[at - 2], data[at - 1]
    if version != VERSION or dictionary not in DICTIONARIES:
        raise FileError(
            f"byte 8: format version {version}, dictionary {dictionary}: written by a newer version; update netpress"
        )
    sizes = []
    for _ in range(4):
        size, at = read_varint(data, at)
        sizes.append(size)
    for size, cap in zip(sizes, (MAX_HEADER_BYTES, MAX_HEADER_BYTES, MAX_GRAPH_BYTES, MAX_GRAPH_BYTES), strict=True):
        if size > cap:
            raise FileError(f"byte 10: header or graph of {size} bytes, at most {cap} allowed")
    if at + sizes[0] + sizes[2] + 2 * _CRC_BYTES > len(data):
        raise FileError(f"byte {len(data)}: header and graph of {sizes[0]} and {sizes[2]} bytes do not fit: file cut")
    return _Preamble(sizes[0], sizes[1], sizes[2], sizes[3], dictionary, at)


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CRC_BYTES, "little")


def _check_crc(data: bytes, start: int, end: int, what: str) -> None:
    expected = int.from_bytes(data[end : end + _CRC_BYTES], "little")
    got = zlib.crc32(memoryview(data)[start:end])
    if got != expected:
        raise FileError(f"{what} at byte {start}: damaged: checksum {got:08x}, expected {expected:08x}")


def _deflate(raw: bytes) -> bytes:
    """Raw deflate with the preset dictionary; the shorter of dynamic and fixed codes."""
    if not raw:
        return b""
    candidates = []
    for strategy in _STRATEGIES:
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy, DICTIONARIES[DICTIONARY])
        candidates.append(coder.compress(raw) + coder.flush())
    return min(candidates, key=len)


def _inflate(packed: bytes, raw_bytes: int, dictionary: bytes, where: str) -> bytes:
    """The inverse of `_deflate`; stops as soon as more than `raw_bytes` come out."""
    if not packed and not raw_bytes:
        return b""
    coder = zlib.decompressobj(-15, dictionary)
    try:
        raw = coder.decompress(packed, raw_bytes + 1)
    except zlib.error as error:
        raise FileError(f"{where}: damaged: {error}") from None
    if len(raw) != raw_bytes or not coder.eof or coder.unused_data or coder.unconsumed_tail:
        raise FileError(f"{where}: expected exactly {raw_bytes} bytes unpacked, got {len(raw)} or leftovers")
    return raw


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Put the place in front of a FileError from within."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{where}: {error}") from None
