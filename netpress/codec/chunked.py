"""Version 1 of the file, for 64 KiB and more: a checksum behind every chunk, so that damage is told by tensor."""

import math
import zlib
from dataclasses import dataclass

from netpress.codec.dictionary import DICTIONARIES
from netpress.codec.header import Row, dump, parse
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

VERSION = 1
DICTIONARY = 1
MAX_HEADER_BYTES = 4 << 20
MAX_GRAPH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class _Preamble:
    header_bytes: int
    raw_header_bytes: int
    graph_bytes: int
    raw_graph_bytes: int
    end: int


def dumps(press: Press) -> bytes:
    """Write a file into memory; nothing is checked.

    Raises:
        FileError: a header that the reader would refuse.
    """
    rows = tuple(_row(tensor) for tensor in press.tensors)
    raw_header = dump(press.header, rows)
    header, graph = (deflate(raw, DICTIONARIES[DICTIONARY]) for raw in (raw_header, press.graph))
    start = MAGIC + bytes([VERSION, DICTIONARY])
    for size in (len(header), len(raw_header), len(graph), len(press.graph)):
        start += write_varint(size)
    head = start + header
    parts = [head, crc(head), graph, crc(graph)]
    for tensor in press.tensors:
        parts += [tensor.data, crc(tensor.data)]
    return b"".join(parts)


def loads(data: bytes, limit_bytes: int) -> Press:
    """Read a file whose magic and version were checked.

    Raises:
        FileError: damaged or hostile; names the tensor and the byte where known.
    """
    start = _preamble(data)
    at = start.end + start.header_bytes
    check_crc(data, 0, at, "header")
    dictionary = DICTIONARIES[DICTIONARY]
    raw = _inflate(data[start.end : at], start.raw_header_bytes, dictionary, f"header at byte {start.end}")
    with naming(f"byte {start.end}"):
        header, rows = parse(raw)
        restored = restored_sizes(rows, len(data), limit_bytes)
    sizes = [size if row.size_bytes is None else row.size_bytes for row, size in zip(rows, restored, strict=True)]
    at += CRC_BYTES
    end = at + start.graph_bytes + CRC_BYTES + sum(sizes) + CRC_BYTES * len(sizes)
    if end != len(data):
        raise FileError(f"byte {min(end, len(data))}: expected a file of {end} bytes, got {len(data)}: cut or extended")
    check_crc(data, at, at + start.graph_bytes, "graph")
    packed_graph = data[at : at + start.graph_bytes]
    graph = _inflate(packed_graph, start.raw_graph_bytes, dictionary, f"graph at byte {at}")
    at += start.graph_bytes + CRC_BYTES
    tensors = []
    for row, size in zip(rows, sizes, strict=True):
        check_crc(data, at, at + size, f"tensor {row.name!r}")
        payload = bytes(data[at : at + size])
        tensors.append(Tensor(row.name, row.shape, row.form, row.dtype, row.chain, payload, at))
        at += size + CRC_BYTES
    return Press(header, tuple(tensors), graph)


def layout(data: bytes, press: Press) -> list[tuple[str, Part]]:
    """Every byte of a file that was read: (tensor or "", part), in order."""
    start, begin, checksum = _preamble(data), len(MAGIC) + 2, Part("checksums", CRC_BYTES)
    around = [Part("magic, version", begin), Part("lengths", start.end - begin), Part("header", start.header_bytes)]
    found = [("", part) for part in (*around, checksum, Part("graph", start.graph_bytes), checksum)]
    for tensor in press.tensors:
        found += [(tensor.name, part) for part in parts(tensor)]
        found.append(("", checksum))
    return found


def _row(tensor: Tensor) -> Row:
    plain = (tensor.chain, tensor.form, tensor.dtype) == ("raw", "free", "float32")
    expected = 4 * math.prod(tensor.shape)
    if plain and len(tensor.data) == expected:
        return Row(tensor.name, tensor.shape)
    return Row(tensor.name, tensor.shape, len(tensor.data), tensor.chain, tensor.form, tensor.dtype)


def _preamble(data: bytes) -> _Preamble:
    at = len(MAGIC) + 2
    if len(data) < at:
        raise FileError(f"byte {len(data)}: the file ends within its first {at} bytes")
    if data[at - 1] != DICTIONARY:
        raise FileError(f"byte 9: dictionary {data[at - 1]}: written by a newer version; update netpress")
    sizes = []
    for _ in range(4):
        size, at = read_varint(data, at)
        sizes.append(size)
    for size, cap in zip(sizes, (MAX_HEADER_BYTES, MAX_HEADER_BYTES, MAX_GRAPH_BYTES, MAX_GRAPH_BYTES), strict=True):
        if size > cap:
            raise FileError(f"byte 10: header or graph of {size} bytes, at most {cap} allowed")
    if at + sizes[0] + sizes[2] + 2 * CRC_BYTES > len(data):
        raise FileError(f"byte {len(data)}: header and graph of {sizes[0]} and {sizes[2]} bytes do not fit: file cut")
    return _Preamble(sizes[0], sizes[1], sizes[2], sizes[3], at)


def _inflate(packed: bytes, raw_bytes: int, dictionary: bytes, where: str) -> bytes:
    """The inverse of `deflate`; stops as soon as more than `raw_bytes` come out."""
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
