"""Chains of codecs: their names, the streams they consist of, and which one is worth trying.

The grammar is in `stored`; the bytes are in `docs/format.md`, section 5.

Gaps: with b bits per symbol, a symbol s < 2^b - 1 skips s entries and keeps the one behind them; s = 2^b - 1 skips as
many and keeps none. Unlike the relative index of the Deep Compression paper (`relative_index`) a filler takes no entry
in the value stream, the alphabet stays at 2^b, and a first entry at index 0 needs no flag.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netpress.codec import bits, huffman, rans, relative_index
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError

NEWER = "written by a newer version; update netpress"
CODERS = ("bits", "huffman", "rans")
"""In the order in which they are tried; among equally long results the first one wins."""

GAP_BITS = (3, 4, 5, 6, 7, 8)
WHOLE = ("whole", "steps")
"""Ways to write whole numbers as symbols."""
TRY_ALL_ELEMENTS = 1 << 16
"""Tensors up to this size try every place; larger ones only the two that entropy favours."""

_CHAIN = re.compile(
    r"(?:(?P<raw>raw)|(?:(?P<place>mask|rel[3-8]|whole|steps)\+)?"
    r"(?P<first>bits|huffman|rans|context|logistic)(?:\+(?P<second>bits|huffman|rans))?)"
    r"(?P<end>\+half|\+grid)?"
)

Symbols = NDArray[np.integer]

_ENCODE: dict[str, Callable[[Symbols, int], bytes]] = {
    "bits": bits.encode,
    "huffman": huffman.encode,
    "rans": rans.encode,
}
_DECODE: dict[str, Callable[[bytes, int, int], NDArray[np.int32]]] = {
    "bits": bits.decode,
    "huffman": huffman.decode,
    "rans": rans.decode,
}


class Chain(NamedTuple):
    """A parsed chain.

    Args:
        place: how the support is written: "" (everywhere), "mask", or "rel3".."rel8"; or, for whole numbers everywhere,
            how these become symbols: "whole" or "steps" (`whole_numbers`).
        first: "raw", or the coder of the only stream, or of the gaps; "context" and "logistic" are never those of gaps.
        second: the coder of the codes beside gaps, else "".
        half: floats are written in 16 bits.
        grid: the table is written as integers and a step.
    """

    place: str
    first: str
    second: str
    half: bool
    grid: bool = False

    def __str__(self) -> str:
        words = [self.place] if self.place else []
        words += [self.first] if self.second in ("", self.first) else [self.first, self.second]
        return "+".join(words + ["half"] * self.half + ["grid"] * self.grid)


def parse(chain: str, form: str) -> Chain:
    """Read a chain's name.

    >>> parse("rel5+huffman", "shared")
    Chain(place='rel5', first='huffman', second='huffman', half=False, grid=False)

    Raises:
        FileError: an unknown chain, or one that this form cannot have.
    """
    match = _CHAIN.fullmatch(chain)
    if match is None:
        raise FileError(f"chain {chain[:40]!r}: {NEWER}")
    place, first, second = match["place"] or "", match["raw"] or match["first"], match["second"] or ""
    two, half, grid = place.startswith("rel") and form != "free", match["end"] == "+half", match["end"] == "+grid"
    fits = (first == "raw") == (form == "free" and not place) and not (grid and form != "shared")
    if place in WHOLE:
        fits = form == "free" and not half
    if first in ("context", "logistic"):
        fits = fits and place in (("", "mask") if first == "context" else ("",)) and not second
    if (second and not two) or not fits:
        raise FileError(f"chain {chain!r} does not fit form {form!r}")
    return Chain(place, first, second or (first if two else ""), half, grid)


def shortest(symbols: Symbols, alphabet: int, coders: Iterable[str]) -> tuple[str, bytes]:
    """The coder whose stream is shortest, and the stream.

    >>> shortest(np.array([0, 1, 1, 0]), 2, ["bits"])[0]
    'bits'
    """
    streams = [(coder, _encode(symbols, alphabet, coder)) for coder in coders]
    return min(streams, key=lambda stream: len(stream[1]))


def decode(data: bytes, alphabet: int, count: int, coder: str) -> NDArray[np.int32]:
    """Read a stream of `count` symbols below `alphabet`.

    Raises:
        FileError: the stream is damaged, or longer or shorter than it has to be.
    """
    if alphabet <= 1 or not count:
        if data or (count and not alphabet):
            raise FileError(f"expected an empty stream for {count} of {alphabet} symbols, got {len(data)} bytes")
        return np.zeros(count, np.int32)
    return _DECODE[coder](data, alphabet, count)


def _encode(symbols: Symbols, alphabet: int, coder: str) -> bytes:
    """A stream; nothing at all where nothing has to be told."""
    if alphabet <= 1 or not symbols.size:
        return b""
    return _ENCODE[coder](symbols, alphabet)


def write_gaps(positions: NDArray[np.int64], bits_per_gap: int, coders: Iterable[str]) -> tuple[str, bytes]:
    """The support as gaps: number of gaps, bytes of the stream, stream; and the coder chosen."""
    symbols = relative_index.gaps(positions, bits_per_gap)
    coder, stream = shortest(symbols, 1 << bits_per_gap, coders)
    return coder, write_varint(len(symbols)) + write_varint(len(stream)) + stream


def read_gaps(data: bytes, at: int, how: Chain, elements: int) -> tuple[NDArray[np.int64], int]:
    """Positions written by `write_gaps` at byte `at`, and the byte after them.

    Raises:
        FileError: sizes that cannot be, or damage.
    """
    bits_per_gap = int(how.place[3:])
    count, at = read_varint(data, at)
    size, at = read_varint(data, at)
    if count > elements or size > len(data) - at:
        raise FileError(f"{count} gaps in {size} bytes: more than {elements} entries or {len(data)} bytes")
    symbols = decode(data[at : at + size], 1 << bits_per_gap, count, how.first)
    return relative_index.from_gaps(symbols, bits_per_gap, elements=elements), at + size


def places(
    positions: NDArray[np.int64], elements: int, codes: Symbols, *, table_size: int, coders: Iterable[str]
) -> list[str]:
    """The ways to write a support that are worth trying, "mask" first.

    Small tensors try all. For larger ones the streams' sizes are estimated from their symbols' entropy:
    n log2(k) for bits, n max(H, 1) for huffman, n H for rans.

    Args:
        positions: the support [n].
        elements: of the whole tensor.
        codes: those inside the support [n] (zeros for free values).
        table_size: k, how many codes there are.
        coders: those allowed.
    """
    names = ["mask", *(f"rel{b}" for b in GAP_BITS)]
    if elements <= TRY_ALL_ELEMENTS:
        return names
    inside = np.bincount(codes, minlength=table_size)
    dense = np.concatenate([[elements - len(positions)], inside])
    # With free values (one code) the codes' stream is empty and costs nothing.
    costs = [_bits_needed(dense, coders)]
    for b in GAP_BITS:
        histogram = np.bincount(relative_index.gaps(positions, b), minlength=1 << b)
        costs.append(_bits_needed(histogram, coders) + _bits_needed(inside, coders))
    best = sorted(range(len(names)), key=costs.__getitem__)[:2]
    return [names[index] for index in sorted(best)]


def _bits_needed(histogram: NDArray[np.integer], coders: Iterable[str]) -> float:
    total, alphabet = int(histogram.sum()), len(histogram)
    if alphabet <= 1 or not total:
        return 0.0
    shares = histogram[histogram > 0] / total
    entropy = float(-(shares * np.log2(shares)).sum())
    per_symbol = {"bits": float(bits.width(alphabet)), "huffman": max(entropy, 1.0), "rans": entropy}
    return total * min(per_symbol[coder] for coder in coders)
