"""What a graph takes of a tensor on an integer grid: `t<i>.codes`, `t<i>.scale`, `t<i>.zero` of `DequantizeLinear`.

w = (codes - zero) * scale,  codes = q - 2^(bits - 1) in int8, +0.0 outside the support
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netpress.codec import sides
from netpress.codec.stored import Stored
from netpress.errors import FileError


class Quantized(NamedTuple):
    """The three inputs of `DequantizeLinear`.

    Args:
        codes: int8, the tensor's shape.
        scale: float32, a scalar, or one axis long.
        zero: int8, as `scale`.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    zero: NDArray[np.int8]


def quantized(stored: Stored) -> Quantized:
    """A tensor on an integer grid as integers.

    >>> side = sides.Side(np.float32([0.5]), bits=4, zero_point=8)
    >>> found = quantized(Stored((3,), "affine", "float32", np.array([0, 2]), np.array([0, 15]), side=side))
    >>> found.codes.tolist(), found.scale.item(), found.zero.item()
    ([-8, 0, 7], 0.5, 0)

    Args:
        stored: of form affine, or shared with a grid.

    Raises:
        FileError: it has no grid, or steps along two axes.
    """
    side, codes = stored.side, stored.codes
    if side is None or codes is None or not side.bits or len(side.axes) > 1:
        raise FileError(f"form {stored.form!r}: expected integers with one step, or with steps along one axis")
    whole = codes if stored.table is None else sides.grid_codes(side, stored.table)[codes]
    middle = 1 << (side.bits - 1)
    flat = np.full(math.prod(stored.shape), side.zero_point - middle, np.int8)
    flat[slice(None) if stored.positions is None else stored.positions] = (whole - middle).astype(np.int8)
    scale = side.scale.reshape(-1 if side.axes else ())
    zero = np.full(scale.shape, side.zero_point - middle, np.int8)
    return Quantized(flat.reshape(stored.shape), scale, zero)
