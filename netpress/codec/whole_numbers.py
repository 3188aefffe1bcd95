"""Whole numbers as symbols: indices of channels, positions, counters.

    whole    s[i] = v[i] - low
    steps    s[i] = (v[i] - v[i - 1]) mod size, with v[-1] = low

where low is the least of the numbers and size = greatest - low + 1, at most 65,536, so every symbol is below size. An
index that rises, over and over, has small steps: where it falls back to a small number, the step is small as well, as
steps count modulo the range. `docs/format.md`, section 4, has the bytes.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from netpress.codec import chains
from netpress.codec.chains import Chain
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError

Whole = NDArray[np.integer]

MAX_SIZE = 1 << 16
MAX_LOW = 1 << 61
"""Beyond it a lowest number is not written: folded, it must fit a varint, and sums must fit 64 bits."""


def write(values: NDArray[np.generic], place: str, coders: Iterable[str]) -> tuple[str, bytes] | None:
    """The coder chosen and the payload, or None where this is no way to write the numbers.

    Args:
        values: (n,) of any type; None comes back unless they are integers that span at most 65,536.
        place: "whole" or "steps".
        coders: those allowed.

    >>> write(np.array([7, 8, 9, 7, 8, 9]), "steps", ["bits"])[1].hex(" ", 1)
    '0d 03 15 50'
    >>> write(np.array([0.5]), "whole", ["bits"]) is None
    True
    """
    if values.dtype.kind not in "iu" or not values.size:
        return None
    low, high = int(values.min()), int(values.max())
    size = high - low + 1
    if size > MAX_SIZE or not -MAX_LOW < low < MAX_LOW:
        return None
    symbols = (values.astype(np.int64) - low).astype(np.int32)  # within int64: MAX_LOW
    if place == "steps":
        symbols = np.diff(symbols, prepend=np.int32(0)) % np.int32(size)
    coder, stream = chains.shortest(symbols, size, coders)
    return coder, write_varint(_folded(low)) + write_varint(size) + stream


def read(data: bytes, how: Chain, count: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Read what `write` wrote.

    Args:
        data: the payload, nothing behind it.
        how: the chain.
        count: how many numbers.
        dtype: of the numbers.

    Raises:
        FileError: damage, or numbers that the type does not hold.
    """
    folded, at = read_varint(data, 0)
    size, at = read_varint(data, at)
    low, limits = _unfolded(folded), np.iinfo(dtype)  # type: ignore[type-var]
    if not 1 <= size <= MAX_SIZE or not -MAX_LOW < low < MAX_LOW:
        raise FileError(f"whole numbers from {low} on that span {size}: at most {MAX_SIZE} from within 2^61 allowed")
    if low < limits.min or low + size - 1 > limits.max:
        raise FileError(f"whole numbers {low} to {low + size - 1} do not fit {dtype}")
    symbols = chains.decode(data[at:], size, count, how.first)
    numbers = symbols.astype(np.int64)
    if how.place == "steps":
        numbers = np.cumsum(numbers) % size  # at most 2^31 symbols below 2^16: the sum fits 64 bits
    return (numbers + low).astype(dtype)


def _folded(number: int) -> int:
    """Whole numbers as those from 0 on: 0, 1, -1, 2, -2 as 0, 1, 2, 3, 4.

    >>> [_folded(n) for n in (0, 1, -1, 2, -2)]
    [0, 1, 2, 3, 4]
    """
    return 2 * number - 1 if number > 0 else -2 * number


def _unfolded(folded: int) -> int:
    return (folded + 1) // 2 if folded % 2 else -(folded // 2)
