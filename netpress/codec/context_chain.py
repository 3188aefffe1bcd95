"""Codes of a tensor as whole numbers around zero, for the coders that look at neighbours, and back.

`context` takes any; `logistic` dense ones, without a support.

Everywhere (no support): v = code - z. With a support: v = 0 outside; inside v = code - z below z and code - z + 1 from
z on, so that no entry inside is 0; or, where no code inside is z, just code - z (`CLOSE`, a bit that the stream keeps).

z is the zero point of an integer grid; for a table without a support the index of the value nearest to zero (the first
of several), with one the number of values below zero; 1 for signs; 0 for free values, which have a mask only.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from netpress.codec import context, logistic
from netpress.codec.compiled import compiler
from netpress.codec.sides import Side
from netpress.errors import FileError

Codes = NDArray[np.integer]

CODERS = ("context", "logistic")
CLOSE = 1
"""The code z occurs outside the support only."""

SMALL = 1 << 16
WORTH = 0.98
"""Above `SMALL` elements the file must shrink to this share, as reading takes longer than that of other chains."""
LARGEST, SLOW = context.MAX_ELEMENTS, 1 << 14
"""Larger tensors are not tried; the second number is for machines without numba."""


def zero_of(table: NDArray[np.float32] | None, side: Side | None, *, support: bool) -> int:
    """The code that stands for zero, or would.

    >>> zero_of(np.float32([-2, -1, 0.5]), None, support=False), zero_of(np.float32([-2, -1, 0.5]), None, support=True)
    (2, 2)
    """
    if table is not None:
        if support:
            return int(np.count_nonzero(table < 0))
        sizes = np.abs(table)
        return int(np.argmin(np.where(np.isnan(sizes), np.inf, sizes))) if len(table) else 0
    if side is None:
        return 0
    return side.zero_point if side.bits else 1


def write(
    codes: Codes, zero: int, shape: tuple[int, ...], positions: NDArray[np.int64] | None, coders: Iterable[str] = CODERS
) -> tuple[str, bytes]:
    """The coder that is shortest, and the stream of the codes inside a support, or everywhere.

    >>> coder, stream = write(np.array([0, 2]), 1, (3,), np.array([0, 2]))
    >>> read(stream, 1, (3,), size=3, place="mask", coder=coder)
    (array([0, 2]), array([0, 2], dtype=int32))

    Args:
        codes: of each entry inside the support, row-major [n].
        zero: `zero_of`.
        shape: of the tensor.
        positions: the support [n]; None means everywhere.
        coders: those to try; "context" steps in where no other can.
    """
    values = codes.astype(np.int32) - zero
    found = []
    if positions is None:
        whole, note = values.reshape(shape), 0
        if "logistic" in coders and logistic.may_hold(whole):
            found.append(("logistic", logistic.encode(whole)))
    else:
        note = CLOSE * int(values.size > 0 and not (values == 0).any())
        flat = np.zeros(math.prod(shape), np.int32)
        flat[positions] = values if note else values + (values >= 0)
        whole = flat.reshape(shape)
    if "context" in coders or not found:
        found.insert(0, ("context", context.encode(whole, note=note)))
    return min(found, key=lambda stream: len(stream[1]))


def read(
    data: bytes, zero: int, shape: tuple[int, ...], *, size: int, place: str, coder: str
) -> tuple[NDArray[np.int64] | None, NDArray[np.int32]]:
    """Positions (None without a support, for which `place` is "mask") and codes, which lie below `size`.

    Raises:
        FileError: damage, or a code out of range.
    """
    values, note = context.decode(data, shape) if coder == "context" else (logistic.decode(data, shape), 0)
    flat, positions = values.reshape(-1), None
    if place:
        positions = np.flatnonzero(flat)
        flat = flat[positions]
        flat = flat if note == CLOSE else flat - (flat > 0)
    elif note:
        raise FileError(f"{coder} stream: the bit {note} is for tensors with a support")
    codes = flat + np.int32(zero)
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < size:
        raise FileError(f"{coder} stream: codes below {size} expected, got {codes.min()}..{codes.max()}")
    return positions, codes


def may_pay(elements: int) -> bool:
    """Whether it is tried at all when all coders are: not where writing would take long."""
    return elements <= (SLOW if compiler() is None else LARGEST)


def pays(size: int, others: int, elements: int) -> bool:
    """Whether a stream of `size` bytes is worth more than another chain's.

    >>> pays(995, 1000, 10_000), pays(995, 1000, 1_000_000)
    (True, False)
    """
    return size < others * (1 if elements <= SMALL else WORTH)
