"""Sparse positions as gaps of a few bits (relative index), with fillers where a gap is too long.

The non-zero entries of a flattened tensor are visited in order; each stores its distance to the one before (the
first: to index 0), as the code distance - 1 in b bits. A distance above 2^b is broken up: a *filler* advances by 2^b
and stands for no entry. Distance 0 occurs only for a first entry at index 0; a flag says so and its code is 0 and
ignored.

Two ways to tell fillers from entries:

- the paper's (`encode`, `Gaps.literal`): 2^b codes; a filler has the code 2^b - 1 and a value of zero in the value
  stream. Items stored: entries + fillers, each b bits and one value.
- the file's (`gaps`): the last of the 2^b codes only ever means "advance by 2^b - 1, no entry"; a filler stores no
  value, and a first entry at index 0 needs no flag. The paper's form pays for a filler in both streams, this one once.

Source: Han et al., Deep Compression, section 2. The paper does not say what becomes of a first entry at index 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netpress.errors import FileError

MIN_BITS, MAX_BITS = 3, 8
_WHAT = "relative index"


@dataclass(frozen=True, slots=True)
class Gaps:
    """Gaps between the entries of a sparse vector, fillers included.

    Args:
        codes: (items,) distance - 1, in 0..2^bits - 1.
        filler: (items,) true where the item stands for no entry; its code is 2^bits - 1.
        first_at_zero: the first entry lies at index 0.
        bits: b, 3..8.
    """

    codes: NDArray[np.int32]
    filler: NDArray[np.bool_]
    first_at_zero: bool
    bits: int

    def literal(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The paper's value stream: the entries' values, with a zero for each filler.

        Args:
            values: (entries,) in the order of the positions.

        Returns:
            (items,) as long as `codes`.

        >>> encode(np.array([1, 4, 15]), bits=3).literal(np.array([3.4, 0.9, 1.7], np.float32)).tolist()[2]
        0.0
        """
        out = np.zeros(self.codes.size, values.dtype)
        out[~self.filler] = values
        return out


def encode(positions: NDArray[np.int64], bits: int) -> Gaps:
    """Turn positions into gaps.

    Args:
        positions: (entries,) indices into the flattened tensor, ascending, each once.
        bits: b, width of a code, 3..8.

    Raises:
        ValueError: positions not ascending or negative, or bits out of range.

    >>> gaps = encode(np.array([1, 4, 15]), bits=3)
    >>> (gaps.codes + 1).tolist(), gaps.filler.tolist()
    ([1, 3, 8, 3], [False, False, True, False])
    """
    _check_bits(bits, ValueError)
    steps = np.array(positions, np.int64)
    steps[1:] -= positions[:-1]
    first_at_zero = bool(steps.size and steps[0] == 0)
    if first_at_zero:
        steps[0] = 1  # code 0, ignored
    if steps.size and int(steps.min()) < 1:
        raise ValueError(f"positions must be ascending and not negative; a step of {steps.min()} was found")
    fillers = (steps - 1) >> bits
    entries = np.arange(steps.size) + np.cumsum(fillers)
    items = int(entries[-1]) + 1 if steps.size else 0
    codes = np.full(items, (1 << bits) - 1, np.int32)
    codes[entries] = (steps - 1) & ((1 << bits) - 1)
    filler = np.ones(items, np.bool_)
    filler[entries] = False
    return Gaps(codes, filler, first_at_zero, bits)


def decode(gaps: Gaps, size: int) -> NDArray[np.int64]:
    """Turn gaps back into positions.

    Args:
        gaps: from `encode`, or read from a file in the paper's form.
        size: number of elements of the flattened tensor.

    Returns:
        (entries,) ascending positions, all in 0..size-1.

    Raises:
        FileError: a code out of range, a filler that no encoder writes, or a position beyond the tensor.

    >>> decode(encode(np.array([1, 4, 15]), bits=3), size=16)
    array([ 1,  4, 15])
    """
    _check_bits(gaps.bits, FileError)
    top = (1 << gaps.bits) - 1
    codes, filler = gaps.codes, gaps.filler
    if codes.shape != filler.shape:
        raise FileError(f"{_WHAT}: {codes.size} codes but {filler.size} filler marks; fetch the file again")
    if codes.size == 0:
        if gaps.first_at_zero:
            raise FileError(f"{_WHAT}: an entry at index 0 is announced, but there are no entries")
        return np.zeros(0, np.int64)
    if int(codes.min()) < 0 or int(codes.max()) > top or bool((codes[filler] != top).any()):
        raise FileError(f"{_WHAT}: codes 0..{top}, and {top} for fillers, expected; fetch the file again")
    if filler[-1] or (gaps.first_at_zero and (filler[0] or codes[0] != 0)):
        raise FileError(f"{_WHAT}: a filler stands where no entry follows, or before index 0; fetch the file again")
    ends = np.cumsum(codes, dtype=np.int64)
    ends += np.arange(0 if gaps.first_at_zero else 1, ends.size + (0 if gaps.first_at_zero else 1))
    if int(ends[-1]) >= size:
        raise FileError(f"{_WHAT}: positions below {size} expected, got {ends[-1]}; fetch the file again")
    return ends[~filler]


def gaps(positions: NDArray[np.int64], bits_per_gap: int) -> NDArray[np.int64]:
    """Turn positions into gaps, fillers included.

    >>> gaps(np.array([0, 2, 12]), 3).tolist()
    [0, 1, 7, 2]

    Args:
        positions: [n], ascending, each once.
        bits_per_gap: b, 3..8.

    Returns:
        [m] symbols in 0..2^b - 1.
    """
    top = (1 << bits_per_gap) - 1
    skips = np.diff(positions, prepend=-1) - 1
    fillers = skips // top
    symbols = np.full(len(positions) + int(fillers.sum()), top, np.int64)
    symbols[np.cumsum(fillers + 1) - 1] = skips % top
    return symbols


def from_gaps(symbols: NDArray[np.integer], bits_per_gap: int, *, elements: int) -> NDArray[np.int64]:
    """Turn gaps back into positions.

    >>> from_gaps(np.array([0, 1, 7, 2]), 3, elements=13)
    array([ 0,  2, 12])

    Raises:
        FileError: a filler at the end, or a position beyond the tensor.
    """
    top = (1 << bits_per_gap) - 1
    kept = symbols != top
    ends = np.cumsum(symbols + kept, dtype=np.int64) - 1
    if len(ends) and (not kept[-1] or ends[-1] >= elements):
        raise FileError(f"gaps end at entry {ends[-1]} of {elements}, or with a filler")
    positions: NDArray[np.int64] = ends[kept]
    return positions


def _check_bits(bits: int, error: type[ValueError] | type[FileError]) -> None:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise error(f"{_WHAT}: width {MIN_BITS}..{MAX_BITS} bits expected, got {bits}")
