"""Context coding: small whole numbers of a tensor, each told by the chances that its neighbours suggest.

A number is told bit by bit: is it zero, has it the sign that its neighbours suggest, how many binary digits has it,
which. Seven predictors guess each of the first three, each from what it looks at: the two neighbours within the kernel,
their sizes, the kernel and the row so far, the value that a linear prediction expects, how much its column holds so
far, beside row and kernel, and beside the columns at both sides. A chance learns fast at first; the guesses are mixed
in the logistic domain, each trusted as it deserves so far. A range coder takes the bits. `docs/format.md`, section 5,
has all of it to the bit; `context_kernel` does it.

Source: adaptive binary coding of quantized weights as in DeepCABAC (Wiedemann et al., 2020), which has one context per
bit; mixing as in PAQ (Mahoney, 2005); range coder with carry (Martin, 1979). The linear prediction, the counts of
columns and the way from sparse rows of dense layers to kernels of one code are ours.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from netpress.codec.compiled import compiler, given
from netpress.errors import FileError

_WHAT = "context stream"
Whole = NDArray[np.integer]

NOTE, TURNED, GAPS = 1, 2, 4
"""Bits of the first byte: the caller's; columns before rows; empty rows and columns are left out."""
TRY_ALL = 1 << 19
"""Up to so many elements all ways are tried."""
MAX_SIZE, MAX_ELEMENTS = 1 << 16, 1 << 26
"""No number is larger, no tensor has more: some seconds of work."""


def encode(values: Whole, *, note: int = 0, ways: Iterable[int] | None = None) -> bytes:
    """Code the numbers of a tensor.

    >>> decode(encode(np.array([[0, 2], [-1, 0]])), (2, 2))
    (array([[ 0,  2],
           [-1,  0]], dtype=int32), 0)

    Args:
        values: integers of any shape, at most `MAX_SIZE` in size; the smaller, the fewer bytes.
        note: 0 or 1: a bit of the caller's, which comes back.
        ways: those to try, of which the shortest is taken; None: the likely ones.

    Raises:
        ValueError: a number is larger, or there are more.
    """
    if values.size > MAX_ELEMENTS:
        raise ValueError(f"expected at most {MAX_ELEMENTS} numbers, got {values.size}")
    if not values.size:
        return bytes([note]).rstrip(b"\0")
    if not -MAX_SIZE <= int(values.min()) <= int(values.max()) <= MAX_SIZE:
        raise ValueError(f"expected numbers up to {MAX_SIZE} in size, got {values.min()}..{values.max()}")
    whole = np.ascontiguousarray(values, np.int32)
    streams = [(way, _encode(whole, way)) for way in (_ways(whole) if ways is None else ways)]
    way, stream = min(streams, key=lambda found: len(found[1]))
    return (bytes([way | note]) + stream).rstrip(b"\0")


def decode(data: bytes, shape: Sequence[int]) -> tuple[NDArray[np.int32], int]:
    """Read what `encode` wrote: the numbers and the caller's bit.

    Args:
        data: the stream, nothing behind it.
        shape: of the tensor.

    Raises:
        FileError: bytes are left over, or the first one is not known, or the tensor is too large.
    """
    from netpress.codec import context_kernel as kernel
    from netpress.codec.context_tables import fresh, tables

    way = data[0] if data else 0
    if way > NOTE + TURNED + GAPS:
        raise FileError(f"{_WHAT}: first byte {way}: written by a newer version; update netpress")
    if math.prod(shape) > MAX_ELEMENTS or (len(data) > 1 and not math.prod(shape)):
        raise FileError(f"{_WHAT}: {len(data)} bytes for a tensor of shape {tuple(shape)}; fetch it again")
    rows, columns, taps, across = _dims(shape, way)
    if not math.prod(shape):
        return np.zeros(shape, np.int32), way & NOTE
    model, work = fresh(columns)
    work[kernel.CODE], work[kernel.AT] = int.from_bytes(data[1:5].ljust(4, b"\0"), "big"), 5
    stream = given(np.frombuffer(data, np.uint8).copy())
    used = np.ones(rows, np.int32), np.ones(columns, np.int32)
    if way & GAPS:
        for part in used:
            taken = given(part)
            kernel.flags(model, tables(), work, stream, taken, 1)
            part[:] = taken
    inside = np.ix_(used[0] > 0, used[1] > 0)
    out = np.zeros((rows, columns, taps), np.int32)
    dims = (int(used[0].sum()), int(used[1].sum()), taps)
    numbers = given(np.zeros(math.prod(dims), np.int32))
    end = kernel.run(model, tables(), work, stream, numbers, (*dims, across, 1))
    if len(data) > end or data[-1:] == b"\0":
        raise FileError(f"{_WHAT}: at most {end} bytes expected, the last not zero, got {len(data)}; fetch it again")
    out[inside] = np.reshape(numbers, dims)
    return np.ascontiguousarray(out.swapaxes(0, 1) if way & TURNED else out).reshape(shape), way & NOTE


def _ways(values: NDArray[np.int32]) -> list[int]:
    """Those worth trying."""
    rows, columns, taps, _ = _dims(values.shape, 0)
    cube = values.reshape(rows, columns, taps)
    empty = int((~cube.any((1, 2))).sum() + (~cube.any((0, 2))).sum())
    if values.size > TRY_ALL or compiler() is None:
        return [GAPS * (8 * empty > rows + columns)]
    turns = (0, TURNED) if min(rows, columns) > 1 else (0,)
    return [turn + gap for turn in turns for gap in ((0, GAPS) if empty else (0,))]


def _encode(values: NDArray[np.int32], way: int) -> bytes:
    """The stream behind the first byte."""
    from netpress.codec import context_kernel as kernel
    from netpress.codec.context_tables import fresh, tables

    rows, columns, taps, across = _dims(values.shape, way)
    cube = values.reshape(columns, rows, taps).swapaxes(0, 1) if way & TURNED else values.reshape(rows, columns, taps)
    used = np.any(cube, (1, 2)).astype(np.int32), np.any(cube, (0, 2)).astype(np.int32)
    if way & GAPS:
        cube = cube[np.ix_(used[0] > 0, used[1] > 0)]
    room = cube.size + 2 * (rows + columns) + 2 * kernel.ROOM
    while True:
        model, work = fresh(columns)
        data = given(np.zeros(room, np.uint8))
        for part in used if way & GAPS else ():
            kernel.flags(model, tables(), work, data, given(part), 0)
        numbers = given(cube.flatten())
        if kernel.run(model, tables(), work, data, numbers, (*cube.shape, across, 0)) >= 0:
            return _finish(work, data)
        room *= 2


def _dims(shape: Sequence[int], way: int) -> tuple[int, int, int, int]:
    """Rows, columns, taps, and how many taps lie side by side."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1, 1
    rows, columns = (shape[1], shape[0]) if way & TURNED else (shape[0], shape[1])
    return rows, columns, math.prod(shape[2:]), max(shape[-1], 1) if len(shape) > 2 else 1


def _finish(work: Sequence[int], data: Sequence[int]) -> bytes:
    """The stream, ended in as few bytes as tell it apart; zeros at its end are not written."""
    from netpress.codec import context_kernel as kernel

    low, size, at = (int(work[i]) for i in (kernel.LOW, kernel.RANGE, kernel.AT))
    value = low
    for free in (32, 24, 16, 8, 0):
        mask = (1 << free) - 1
        value = (low + mask) & ~mask
        if value < low + size:
            break
    whole = int.from_bytes(bytes(data[:at]), "big") << 32
    return (whole + value).to_bytes(at + 4, "big").rstrip(b"\0")
