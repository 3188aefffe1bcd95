"""Values as bytes: little-endian, float32 in 16 bits where nothing is lost by it."""

import numpy as np
from numpy.typing import NDArray

from netpress.errors import FileError

Array = NDArray[np.generic]


def halves(values: Array) -> bool:
    """True where float32 numbers survive a round trip through 16 bits, to the bit.

    >>> halves(np.float32([0.5, -2])), halves(np.float32([0.1]))
    (True, False)
    """
    if values.dtype != np.float32 or not values.size:
        return False
    with np.errstate(over="ignore", under="ignore"):
        back = values.astype(np.float16).astype(np.float32)
    return bool((back.view(np.uint32) == np.ascontiguousarray(values).view(np.uint32)).all())


def to_bytes(values: Array, *, half: bool) -> bytes:
    """Little-endian bytes of the values, float32 in 16 bits with `half`."""
    dtype = np.dtype(np.float16) if half else values.dtype
    return values.astype(dtype.newbyteorder("<"), copy=False).tobytes()


def from_bytes(data: bytes, dtype: str, count: int, *, half: bool) -> Array:
    """Read `count` values that `to_bytes` wrote.

    Raises:
        FileError: wrong length, or what the type cannot be.
    """
    written = np.dtype(np.float16 if half else dtype)
    if half and dtype != "float32":
        raise FileError(f"half is for float32, got {dtype}")
    if len(data) != count * written.itemsize:
        raise FileError(f"expected {count * written.itemsize} bytes for {count} {written} values, got {len(data)}")
    if dtype == "bool" and data.strip(b"\0\1"):
        raise FileError("a truth value is neither 0 nor 1")
    return np.frombuffer(data, written.newbyteorder("<")).astype(dtype)
