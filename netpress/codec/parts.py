"""Which bytes of a payload are positions, codes, table, scales or values; told without decoding a stream."""

import math
from collections.abc import Callable
from typing import NamedTuple

from netpress.codec import chains, huffman, rans, sides
from netpress.codec.press import Tensor, naming
from netpress.codec.varint import read_varint
from netpress.errors import FileError

PARTS = ("positions", "codes", "coder", "table", "scales", "values")
"""In `coder` are the tables of static coders: code lengths, frequencies, start states; in `scales` those of signs and
the steps of integers, with flags, bits and zero point. Where positions and codes are one stream (chains that begin with
`mask`), all of it counts as codes."""


class Part(NamedTuple):
    """A run of bytes of a payload: one of `PARTS`, how many, and which other part a coder's table serves."""

    name: str
    size: int
    serves: str = ""

    @property
    def coarse(self) -> str:
        """Where only positions, codes, table and values are told apart: coders' tables go with what they code."""
        return self.serves or ("table" if self.name == "scales" else self.name)


def parts(tensor: Tensor, skipped: int = 0) -> list[Part]:
    """The parts of a payload, in order; they add up to it.

    >>> import numpy as np
    >>> from netpress.codec.stored import Stored
    >>> coded = Stored((4,), "shared", "float32", None, np.array([0, 1, 2, 1]), np.float32([0.1, 0.2, 0.3]))
    >>> [(part.name, part.size) for part in parts(Tensor.of("w", coded))]
    [('table', 13), ('codes', 1)]

    Args:
        tensor: as it was read.
        skipped: first bytes of the payload that its chunk leaves out: they are not counted.

    Raises:
        FileError: the payload is damaged; names the tensor.
    """
    with naming(f"tensor {tensor.name!r} at byte {tensor.offset}"):
        how = chains.parse(tensor.chain, tensor.form)
        found = _free(tensor, how) if tensor.form == "free" else _coded(tensor, how)
        if any(part.size < 0 for part in found):
            raise FileError(f"parts that do not fit into {len(tensor.data)} bytes")
    counted = []
    for part in found:
        hidden = min(skipped, part.size)
        skipped -= hidden
        if part.size > hidden:
            counted.append(part._replace(size=part.size - hidden))
    return counted


def _coded(tensor: Tensor, how: chains.Chain) -> list[Part]:
    found, at, alphabet = _front(tensor, how)
    coder, data = how.first, tensor.data
    if how.place.startswith("rel"):
        gaps, at = _gaps(data, at, how)
        found, coder = found + gaps, how.second
    return found + _stream(data[at:], coder, alphabet + (how.place == "mask"), "codes")


def _free(tensor: Tensor, how: chains.Chain) -> list[Part]:
    data, found, at = tensor.data, list[Part](), 0
    if how.place in chains.WHOLE:
        at = read_varint(data, 0)[1]
        size, at = read_varint(data, at)
        return [Part("values", at), *_stream(data[at:], how.first, size, "values")]
    if how.place.startswith("rel"):
        found, at = _gaps(data, 0, how)
    elif how.place == "mask":
        size, start = read_varint(data, 0)
        at = start + size
        found = [Part("positions", start), *_stream(data[start:at], how.first, 2, "positions")]
    return [*found, Part("values", len(data) - at)]


def _front(tensor: Tensor, how: chains.Chain) -> tuple[list[Part], int, int]:
    """Table or scales, where they end, and how many codes there are."""
    data = tensor.data
    if tensor.form in sides.FORMS:
        side, end = sides.read(data, 0, tensor.form, tensor.shape, half=how.half)
        return [Part("scales", end)], end, side.alphabet
    size, at = read_varint(data, 0)
    if not how.grid:
        end = at + size * (2 if how.half else 4)
        return [Part("table", end)], end, size
    side, steps = sides.read(data, at, "affine", (1,), half=False)
    end = steps + math.ceil(size * side.bits / 8)
    return [Part("table", at), Part("scales", steps - at), Part("table", end - steps)], end, size


def _gaps(data: bytes, at: int, how: chains.Chain) -> tuple[list[Part], int]:
    """Gaps at byte `at`, and the byte behind them."""
    size, start = read_varint(data, read_varint(data, at)[1])
    end = start + size
    stream = _stream(data[start:end], how.first, 1 << int(how.place[3:]), "positions")
    return [Part("positions", start - at), *stream], end


def _stream(data: bytes, coder: str, alphabet: int, name: str) -> list[Part]:
    tables = _TABLES[coder](data, alphabet) if coder in _TABLES and alphabet > 1 else 0
    return [Part("coder", tables, name), Part(name, len(data) - tables)]


_TABLES: dict[str, Callable[[bytes, int], int]] = {"huffman": huffman.table_bytes, "rans": rans.table_bytes}
