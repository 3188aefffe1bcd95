"""Side data of the forms that are no plain table: scales of sign patterns, steps of integer grids.

    signs:   w = s where the code is 1, 0 - s where it is 0
    affine:  w = (q - zero point) * step, with whole q in 0 .. 2^bits - 1

Both in float32, rounded to the nearest, ties to even (IEEE 754), so that every machine restores the same bits.
`docs/format.md`, section 4, has the bytes.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netpress.codec import bits as packing
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError

FORMS = ("signs", "affine")
MIN_BITS, MAX_BITS = 2, 8
# Between them q * step neither underflows nor overflows: its quotient by the step rounds back to q.
MIN_STEP, MAX_STEP = 2.0**-126, 2.0**119


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Scales or steps, and what they mean.

    Args:
        scale: float32; as many axes as the tensor, 1 along those where it does not vary. For a table: (1,).
        axes: those along which it may vary, rising.
        trained: whether training moves it.
        bits: affine: of an integer, 2 to 8; signs: 0.
        zero_point: affine: the integer that stands for zero; signs: 0.
    """

    scale: NDArray[np.float32]
    axes: tuple[int, ...] = ()
    trained: bool = False
    bits: int = 0
    zero_point: int = 0

    @property
    def alphabet(self) -> int:
        """How many codes there are: 2 for signs, else 2^bits."""
        return 2 if not self.bits else 1 << self.bits


def scale_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes along `axes`, 1 along the others.

    >>> scale_shape((4, 3, 5, 5), (0, 1))
    (4, 3, 1, 1)
    """
    return tuple(size if axis in axes else 1 for axis, size in enumerate(shape))


def values(
    side: Side, codes: NDArray[np.integer], shape: tuple[int, ...], positions: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """What the codes stand for.

    >>> values(Side(np.float32([[0.5], [2]]), (0,)), np.array([1, 0, 0]), (2, 2), np.array([0, 1, 3]))
    array([ 0.5, -0.5, -2. ], dtype=float32)
    >>> values(Side(np.float32([0.25]), bits=3, zero_point=4), np.array([0, 4, 7]), (3,))
    array([-1.  ,  0.  ,  0.75], dtype=float32)

    Args:
        side: of the tensor.
        codes: of each entry inside the support, row-major [n].
        shape: of the tensor.
        positions: of the entries [n]; None means everywhere.

    Returns:
        float32 [n]; never -0.0.
    """
    scale = np.broadcast_to(side.scale, shape).reshape(-1)
    scale = scale if positions is None else scale[positions]
    if side.bits:
        return (codes.astype(np.int32) - side.zero_point).astype(np.float32) * scale
    zero = np.float32(0)
    return np.where(codes == 1, scale + zero, zero - scale)  # a scale of -0.0 gives +0.0 too


def grid_codes(side: Side, table: NDArray[np.float32]) -> NDArray[np.int32]:
    """The integers of a table that lies on a grid; the inverse of `values` for one.

    >>> grid_codes(Side(np.float32([0.25]), bits=3, zero_point=4), np.float32([-1, 0, 0.75])).tolist()
    [0, 4, 7]

    Raises:
        ValueError: an entry is not on the grid.
    """
    with np.errstate(over="ignore"):
        codes = np.clip(np.rint(table / side.scale) + side.zero_point, 0, side.alphabet - 1)
    found = np.where(np.isfinite(codes), codes, 0).astype(np.int32)
    if values(side, found, table.shape).tobytes() != table.tobytes():
        raise ValueError(f"expected a table on the grid of step {side.scale.tolist()} in {side.bits} bits, got others")
    return found


def fault(side: Side, form: str, shape: tuple[int, ...]) -> str:
    """What is wrong with side data, in words; empty where nothing is.

    >>> fault(Side(np.float32([[1, 1]])), "signs", (3, 2))
    'expected scales of shape (1, 1), got (1, 2)'
    >>> fault(Side(np.float32([[0]]), bits=8, zero_point=128), "affine", (3, 2))
    'expected steps within 2^-126 .. 2^119, got 0.0'
    """
    expected = scale_shape(shape, side.axes)
    if any(not 0 <= axis < len(shape) for axis in side.axes) or list(side.axes) != sorted(set(side.axes)):
        return f"expected rising axes below {len(shape)}, got {side.axes}"
    if side.scale.shape != expected or side.scale.dtype != np.float32:
        return f"expected scales of shape {expected}, got {side.scale.shape}"
    if form == "signs":
        if side.bits or side.zero_point:
            return f"expected no bits and no zero point beside signs, got {side.bits}, {side.zero_point}"
        return "" if np.isfinite(side.scale).all() else "expected finite scales, got NaN or an infinity"
    if not MIN_BITS <= side.bits <= MAX_BITS or not 0 <= side.zero_point < side.alphabet:
        return (
            f"expected {MIN_BITS} to {MAX_BITS} bits and a zero point below 2^bits, got {side.bits}, {side.zero_point}"
        )
    wrong = side.scale[~((side.scale >= MIN_STEP) & (side.scale <= MAX_STEP))]
    return f"expected steps within 2^-126 .. 2^119, got {wrong.flat[0]}" if wrong.size else ""


def write(side: Side, scales: bytes) -> bytes:
    """Flags, bits and zero point, then `scales`, which are written already."""
    flags = int(side.trained) | sum(2 << axis for axis in side.axes)
    grid = bytes([side.bits, side.zero_point]) if side.bits else b""
    return write_varint(flags) + grid + scales


def read(data: bytes, at: int, form: str, shape: tuple[int, ...], *, half: bool) -> tuple[Side, int]:
    """Side data at byte `at`, and the byte behind it.

    Raises:
        FileError: damaged, or what `fault` finds.
    """
    flags, at = read_varint(data, at)
    axes = tuple(axis for axis in range(flags.bit_length() - 1) if flags >> (axis + 1) & 1)
    if axes and axes[-1] >= len(shape):
        raise FileError(f"scales along axis {axes[-1]} of a tensor with {len(shape)}")
    bits = zero_point = 0
    if form == "affine":
        if len(data) < at + 2:
            raise FileError(f"bits and zero point do not fit into {len(data)} bytes")
        bits, zero_point, at = data[at], data[at + 1], at + 2
    dtype = np.dtype("<f2" if half else "<f4")
    count = math.prod(scale_shape(shape, axes))
    end = at + count * dtype.itemsize
    if end > len(data):
        raise FileError(f"{count} scales do not fit into {len(data)} bytes")
    scale = np.frombuffer(data[at:end], dtype).astype(np.float32).reshape(scale_shape(shape, axes))
    side = Side(scale, axes, bool(flags & 1), bits, zero_point)
    if wrong := fault(side, form, shape):
        raise FileError(wrong)
    return side, end


def write_grid(side: Side, table: NDArray[np.float32]) -> bytes:
    """A table on a grid: side data, then an integer of `bits` bits per entry."""
    step = side.scale.astype("<f4").tobytes()
    return write(side, step) + packing.pack(grid_codes(side, table), side.bits)


def read_grid(data: bytes, at: int, size: int) -> tuple[Side, NDArray[np.float32], int]:
    """A table of `size` entries written by `write_grid`, and the byte behind it.

    Raises:
        FileError: damaged.
    """
    side, at = read(data, at, "affine", (1,), half=False)
    if side.axes:
        raise FileError("a table has one step, got one per axis")
    end = at + -(-size * side.bits // 8)
    if end > len(data):
        raise FileError(f"a table of {size} values does not fit into {len(data)} bytes")
    codes = packing.unpack(data[at:end], side.bits, size)
    return side, values(side, codes, (size,)), end
