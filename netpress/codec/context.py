"""Context coding: small whole numbers of a tensor, each told by the chances that its neighbours suggest.

Source: adaptive binary coding of quantized weights as in DeepCABAC (Wiedemann et al., 2020); mixing of several models'
predictions in the logistic domain as in PAQ (Mahoney, 2005); range coder with carry (Martin, 1979).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from netpress.errors import FileError

if TYPE_CHECKING:
    from netpress.codec.context_kernel import State

_WHAT = "context stream"
Whole = NDArray[np.integer]


def encode(values: Whole, *, note: int = 0) -> bytes:
    """Code the numbers of a tensor.

    >>> decode(encode(np.array([[0, 2], [-1, 0]])), (2, 2))
    (array([[ 0,  2],
           [-1,  0]], dtype=int32), 0)

    Args:
        values: integers of any shape, near zero.
        note: 0 or 1: a bit of the caller's, which comes back.
    """
    from netpress.codec import context_kernel as kernel

    work = np.ascontiguousarray(values).astype(np.int32)
    room = work.size + 4096
    while True:
        data = np.zeros(room + 64 * (work.size // max(_three(values.shape)[0], 1)), np.uint8)
        state, means = _fresh(data, _three(values.shape))
        state.coder[kernel.RANGE] = 1 << 32
        if kernel.run(state, work.reshape(-1), _three(values.shape), means, 0) != kernel.FULL:
            return (bytes([note]) + _finish(state)).rstrip(b"\0")
        room *= 2


def decode(data: bytes, shape: Sequence[int]) -> tuple[NDArray[np.int32], int]:
    """Read what `encode` wrote: the numbers and the caller's bit.

    Raises:
        FileError: bytes are left over.
    """
    from netpress.codec import context_kernel as kernel

    values = np.zeros(math.prod(shape), np.int32)
    note, data = (data[0] if data else 0), data[1:]
    if note > 1:
        raise FileError(f"{_WHAT}: first byte {note}: written by a newer version; update netpress")
    state, means = _fresh(np.frombuffer(data, np.uint8).copy(), _three(shape))
    state.coder[kernel.RANGE] = 1 << 32
    state.coder[kernel.CODE] = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
    state.coder[kernel.AT] = 4
    used = kernel.run(state, values, _three(shape), means, 1)
    if len(data) > used or data[-1:] == b"\0":
        raise FileError(f"{_WHAT}: at most {used} bytes expected, the last not zero, got {len(data)}")
    return values.reshape(shape), note


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    """Rows, columns and taps."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return shape[0], shape[1], math.prod(shape[2:])


def _fresh(data: NDArray[np.uint8], shape: tuple[int, int, int]) -> tuple["State", tuple[Whole, Whole]]:
    from netpress.codec import context_kernel as kernel

    slots = kernel.TOTAL * kernel.KINDS
    squash, stretch, trust, rate = _tables()
    state = kernel.State(
        chance=np.full(slots, 1 << 21, np.int32),
        seen=np.zeros(slots, np.int16),
        weight=np.full(kernel.KINDS * kernel.MODELS, 16000, np.int32),
        input=np.zeros(kernel.MODELS, np.int64),
        slot=np.zeros(kernel.MODELS, np.int64),
        coder=np.zeros(4, np.int64),
        data=data,
        squash=squash,
        stretch=stretch,
        trust=trust,
        rate=rate,
    )
    return state, (np.zeros(shape[1] * shape[2], np.int32), np.zeros(shape[1], np.int32))


def _tables() -> tuple[Whole, Whole, Whole, Whole]:
    x = np.arange(-3071, 3072) / 256
    squash = np.clip(np.floor(65536 / (1 + np.exp(-x))), 1, 65535).astype(np.int32)
    q = (np.arange(65536) + 0.5) / 65536
    stretch = np.clip(np.rint(256 * np.log(q / (1 - q))), -3071, 3071).astype(np.int32)
    n = np.arange(256)
    trust = (256 * (n + 0.3) / (n + 1.2)).astype(np.int32)
    trust[0] = 0
    rate = (65536 / (n + 1.6)).astype(np.int32)
    return squash, stretch, trust, rate


def _finish(state: "State") -> bytes:
    """Flush."""
    from netpress.codec import context_kernel as kernel

    low, size, at = (int(state.coder[i]) for i in (kernel.LOW, kernel.RANGE, kernel.AT))
    for free in (32, 24, 16, 8, 0):
        mask = (1 << free) - 1
        value = (low + mask) & ~mask
        if value < low + size:
            break
    whole = int.from_bytes(state.data[:at].tobytes(), "big") << 32
    return (whole + value).to_bytes(at + 4, "big").rstrip(b"\0")
