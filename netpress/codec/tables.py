"""What the coders share: argument checks, and the bit code that their tables are written in.

Everywhere in the format the first bit of a byte is its most significant one.

Exp-Golomb code of order k for a whole number v >= 0: with u = v + 2^k and b = bit length of u, write b - 1 - k zeros
and then u in b bits. Order 0 writes 0, 1, 2, 3 as ``1``, ``010``, ``011``, ``00100``.

Presence (which symbols of the alphabet occur): run lengths in symbol order, alternately of absent and of present
symbols, beginning with absent, until they add up to the alphabet. The first run is written as it is (it may be 0),
every later one less 1, all in order 0.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from netpress.errors import FileError

MAX_ALPHABET = 65_536
_LONGEST_NUMBER_BITS = 17  # no number of a table needs more; a longer row of zeros is damage


def checked(symbols: NDArray[np.integer], alphabet: int) -> NDArray[np.integer]:
    """Return the symbols as a contiguous array after checking that each lies in 0..alphabet-1.

    Args:
        symbols: integers, 1-D.
        alphabet: number of symbols, 1..65,536.

    Raises:
        ValueError: wrong shape, type or range (a fault of the caller, not of a file).

    >>> checked(np.array([0, 2, 1]), alphabet=3)
    array([0, 2, 1])
    """
    values = np.ascontiguousarray(symbols)
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"alphabet must be 1..{MAX_ALPHABET}, got {alphabet}")
    if np.ndim(symbols) != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"symbols must be 1-D integers, got {np.ndim(symbols)}-D {values.dtype}")
    if values.size and (int(values.min()) < 0 or int(values.max()) >= alphabet):
        raise ValueError(f"symbols must lie in 0..{alphabet - 1}, got {values.min()}..{values.max()}")
    return values


def check_request(what: str, data: bytes | memoryview, alphabet: int, count: int) -> None:
    """Refuse an alphabet or a count that no encoder writes, and bytes where none are needed.

    Raises:
        FileError: these numbers come from a file's header, so a wrong one is a damaged file.

    >>> check_request("rANS stream", b"", alphabet=3, count=0)
    """
    if not 1 <= alphabet <= MAX_ALPHABET or count < 0:
        raise FileError(f"{what}: alphabet 1..{MAX_ALPHABET} and count >= 0 expected, got {alphabet} and {count}")
    if (count == 0 or alphabet == 1) and len(data):
        raise FileError(f"{what}: 0 bytes expected for {count} symbols of {alphabet}, got {len(data)}")


def golomb(value: int, order: int) -> str:
    """Write one number in Exp-Golomb code, as a string of 0 and 1.

    >>> [golomb(v, 0) for v in range(4)], golomb(5, 2)
    (['1', '010', '011', '00100'], '01001')
    """
    shifted = value + (1 << order)
    return "0" * (shifted.bit_length() - 1 - order) + format(shifted, "b")


def presence(present: NDArray[np.bool_]) -> str:
    """Write which symbols occur, as a string of 0 and 1 (see the top of this module).

    Args:
        present: (alphabet,) true where the symbol occurs.

    >>> presence(np.array([False, True, True, False]))
    '0100101'
    """
    edges = np.flatnonzero(np.diff(present)) + 1
    bounds = [0] * (1 + bool(present[0])) + edges.tolist() + [present.size]
    runs = [b - a for a, b in pairwise(bounds)]
    return golomb(runs[0], 0) + "".join(golomb(run - 1, 0) for run in runs[1:])


def to_bytes(bits: str) -> bytes:
    """Turn a string of 0 and 1 into bytes, padded with zeros at the end.

    >>> to_bytes("101")
    b'\\xa0'
    """
    size = -(-len(bits) // 8)
    return int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big") if size else b""


@dataclass(slots=True)
class TableReader:
    """Reads the bits of a table from the front of a stream; a table that runs past its end raises `FileError`.

    >>> reader = TableReader.open("rANS stream", to_bytes("0100101"), alphabet=4)
    >>> reader.presence(4)
    array([1, 2])
    """

    what: str
    bits: str
    at: int = 0

    @classmethod
    def open(cls, what: str, data: bytes | memoryview, alphabet: int) -> "TableReader":
        """Start at the first byte of ``data``; looks at no more bytes than a table of this alphabet can have."""
        head = bytes(data[: 64 + 5 * alphabet])
        return cls(what, format(int.from_bytes(head, "big"), f"0{8 * len(head)}b") if head else "")

    def golomb(self, order: int) -> int:
        """Read one number written by `golomb`.

        Raises:
            FileError: the bits end inside it, or it is longer than any number of a table.
        """
        one = self.bits.find("1", self.at)
        end = 2 * one - self.at + order + 1
        if one < 0 or end > len(self.bits) or one - self.at + order > _LONGEST_NUMBER_BITS:
            raise FileError(f"{self.what}: its table breaks off or is damaged at bit {self.at}; fetch the file again")
        self.at = end
        return int(self.bits[one:end], 2) - (1 << order)

    def presence(self, alphabet: int) -> NDArray[np.int64]:
        """Read which symbols occur, written by `presence`; returns them in ascending order, at least one.

        Raises:
            FileError: the runs do not add up to the alphabet, or nothing is present.
        """
        runs = [self.golomb(0)]
        total = runs[0]
        while total < alphabet:
            runs.append(self.golomb(0) + 1)
            total += runs[-1]
        if total != alphabet or len(runs) < 2:
            raise FileError(f"{self.what}: its table counts {total} symbols, {alphabet} expected; fetch the file again")
        kinds = np.arange(len(runs)) % 2 == 1
        return np.flatnonzero(np.repeat(kinds, runs))

    def close(self) -> int:
        """Return how many bytes the table took.

        Raises:
            FileError: the bits left over in the last byte are not zero.
        """
        size = -(-self.at // 8)
        if "1" in self.bits[self.at : 8 * size]:
            raise FileError(f"{self.what}: zeros expected after the table's bit {self.at}; fetch the file again")
        return size
