"""Version 2 of the file, for small ones: one stream for header and graph, one checksum, no length that can be derived.

magic, version | header and graph, deflated together | lengths | payloads | CRC-32 of everything before it
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from netpress.codec.dictionary import DICTIONARIES
from netpress.codec.header import Header, Row, dump_small, parse_small
from netpress.codec.parts import Part, parts
from netpress.codec.press import (
    CRC_BYTES,
    MAGIC,
    Press,
    Tensor,
    check_crc,
    crc,
    deflate,
    naming,
    restored_sizes,
)
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError

VERSION = 2
DICTIONARY = 2
MAX_RAW_BYTES = 1 << 20
"""Of header and graph together, unpacked."""
PREFIXES = range(6)
"""Numbers of first bytes that kinds of tensors may share: the writer takes what makes the file smallest."""

_START = len(MAGIC) + 1
_BREAK = b"\0"  # no JSON text contains it


def dumps(press: Press) -> bytes | None:
    """Write a file into memory; nothing is checked. None where header and graph are too large for this version.

    Raises:
        FileError: a header that the reader would refuse.
    """
    written = []
    for count in PREFIXES:
        rows = [_row(tensor, count) for tensor in press.tensors]
        raw = dump_small(press.header, tuple(rows)) + _BREAK + press.graph
        if len(raw) > MAX_RAW_BYTES:
            return None
        head = MAGIC + bytes([VERSION]) + deflate(raw, DICTIONARIES[DICTIONARY]) + _lengths(rows)
        written.append(b"".join([head, *(t.data[len(r.prefix) :] for t, r in zip(press.tensors, rows, strict=True))]))
    least = min(written, key=len)
    return least + crc(least)


def loads(data: bytes, limit_bytes: int) -> Press:
    """Read a file whose magic and version were checked.

    Raises:
        FileError: damaged or hostile.
    """
    end = len(data) - CRC_BYTES
    if end < _START:
        raise FileError(f"byte {len(data)}: the file ends within its first {_START + CRC_BYTES} bytes")
    check_crc(data, 0, end, "file")
    header, rows, graph, at = _head(data)
    with naming(f"byte {_START}"):
        restored_sizes(rows, len(data), limit_bytes)
    sizes, at = _read_lengths(data, at, rows)
    tensors = []
    for row, size in zip(rows, sizes, strict=True):
        payload = row.prefix + bytes(data[at : at + size])
        tensors.append(Tensor(row.name, row.shape, row.form, row.dtype, row.chain, payload, at))
        at += size
    return Press(header, tuple(tensors), graph)


def layout(data: bytes, press: Press) -> list[tuple[str, Part]]:
    """Every byte of a file that was read: (tensor or "", part), in order.

    First bytes that kinds of tensors share stand in the header and count to it.
    """
    _, rows, _, at = _head(data)
    _, end = _read_lengths(data, at, rows)
    around = [Part("magic, version", _START), Part("header and graph", at - _START), Part("lengths", end - at)]
    found = [("", part) for part in around]
    for tensor, row in zip(press.tensors, rows, strict=True):
        found += [(tensor.name, part) for part in parts(tensor, len(row.prefix))]
    return [*found, ("", Part("checksums", CRC_BYTES))]


def _row(tensor: Tensor, prefix_bytes: int) -> Row:
    prefix = b"" if tensor.form == "free" else tensor.data[:prefix_bytes]
    size = len(tensor.data) - len(prefix)
    return Row(tensor.name, tensor.shape, size, tensor.chain, tensor.form, tensor.dtype, prefix)


def _known(row: Row) -> int | None:
    """The size of a chunk that follows from its row: values as they are."""
    if row.form != "free" or row.chain not in ("raw", "raw+half"):
        return None
    width = 2 if row.chain == "raw+half" else np.dtype(row.dtype).itemsize
    return width * math.prod(row.shape)


def _told(rows: Sequence[Row]) -> list[int]:
    """Places of the tensors whose lengths stand in the file: not that of the largest, which takes what is left."""
    open_ = [i for i, row in enumerate(rows) if _known(row) is None]
    largest = max(open_, key=lambda i: math.prod(rows[i].shape), default=-1)
    return [i for i in open_ if i != largest]


def _lengths(rows: Sequence[Row]) -> bytes:
    return b"".join(write_varint(rows[i].size_bytes or 0) for i in _told(rows))


def _read_lengths(data: bytes, at: int, rows: Sequence[Row]) -> tuple[list[int], int]:
    """Bytes of every chunk, and where the first one begins; together they reach to the checksum exactly."""
    sizes, end = [_known(row) for row in rows], len(data) - CRC_BYTES
    for i in _told(rows):
        sizes[i], at = read_varint(data[:end], at)
    rest = end - at - sum(size or 0 for size in sizes)
    if rest < 0 or (rest and None not in sizes):
        raise FileError(f"byte {at}: expected tensors of {end - at} bytes together, got {end - at - rest}")
    return [rest if size is None else size for size in sizes], at


def _head(data: bytes) -> tuple[Header, tuple[Row, ...], bytes, int]:
    """Header, rows, graph, and the byte behind them."""
    coder, packed = zlib.decompressobj(-15, DICTIONARIES[DICTIONARY]), data[_START:-CRC_BYTES]
    where = f"header and graph at byte {_START}"
    try:
        raw = coder.decompress(packed, MAX_RAW_BYTES + 1)
    except zlib.error as error:
        raise FileError(f"{where}: damaged: {error}") from None
    if len(raw) > MAX_RAW_BYTES or not coder.eof:
        raise FileError(f"{where}: cut, or more than {MAX_RAW_BYTES} bytes unpacked")
    text, found, graph = raw.partition(_BREAK)
    if not found:
        raise FileError(f"{where}: expected a zero byte between header and graph, got none")
    with naming(f"byte {_START}"):
        header, rows = parse_small(text)
    return header, rows, graph, len(data) - CRC_BYTES - len(coder.unused_data)
