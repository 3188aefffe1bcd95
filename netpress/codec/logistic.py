"""Logistic coding: dense whole numbers, each by a curve around the value that its neighbours suggest.

    chance of all numbers below v = L((v - 1/2 - m) / s),   L(z) = 1 / (1 + e^-z)

m is a linear prediction from four neighbours, s a linear function of the sizes around: in the kernel, the row and the
column so far. Their weights are fitted to the tensor and stand in front of the stream, about 20 bytes, instead of a
table of frequencies; then rANS. One step per number: several times faster than `context`, and shorter on dense kernels.
`docs/format.md`, section 5, has all of it to the bit.

Source: the idea of TMW and MRP (Meyer and Tischer, 1997; Matsuda et al., 2000), which code an image by a prediction and
a spread from its surroundings; rANS: Duda (2013). The features, and rows and columns for pictures, are ours.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netpress.codec.compiled import given
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError

_WHAT = "logistic stream"
Floats = NDArray[np.float64]

MAX_COUNT, MAX_SIZE, MAX_ELEMENTS = 1 << 12, 1 << 16, 1 << 26
_SAMPLE = 1 << 13
_EXPECT, _SPREAD = 4, 6
_FACTORS = 0.62, 0.7, 0.78
"""Of the mean error: the scale of a logistic curve is 0.72 of it, where it is one."""


def encode(values: NDArray[np.integer]) -> bytes:
    """Code the numbers of a tensor.

    >>> decode(encode(np.array([[5, 6], [7, 9]])), (2, 2))
    array([[5, 6],
           [7, 9]], dtype=int32)

    Args:
        values: integers of any shape, at least one; `may_hold` says which.

    Raises:
        ValueError: they span too much.
    """
    from netpress.codec import logistic_kernel as kernel

    if not may_hold(values):
        raise ValueError(f"expected 1 to {MAX_ELEMENTS} numbers that span at most {MAX_COUNT}, got {values.size}")
    flat, dims = np.ascontiguousarray(values, np.int32).reshape(-1), _dims(values.shape)
    low, count = int(flat.min()), int(np.ptp(flat)) + 1
    often, weights = fit(flat, dims)
    parts, words = given(np.zeros(2 * flat.size, np.int32)), given(np.zeros(flat.size + 2, np.int32))
    kernel.spans(tables(), _settings(low, count, often, weights), _fresh(dims[1]), given(flat), dims, parts)
    at = kernel.squeeze(parts, words, flat.size)
    folded = 2 * low if low >= 0 else -2 * low - 1
    head = bytes([often]) + write_varint(folded) + write_varint(count) + bytes(weight & 255 for weight in weights)
    return head + np.asarray(words[at:]).astype("<u2").tobytes()


def decode(data: bytes, shape: Sequence[int]) -> NDArray[np.int32]:
    """Read what `encode` wrote.

    Args:
        data: the stream, nothing behind it.
        shape: of the tensor.

    Raises:
        FileError: damage.
    """
    from netpress.codec import logistic_kernel as kernel

    elements, dims = math.prod(shape), _dims(shape)
    if not 0 < elements <= MAX_ELEMENTS or len(data) < 7:
        raise FileError(f"{_WHAT}: {len(data)} bytes for a tensor of shape {tuple(shape)}; fetch it again")
    folded, at = read_varint(data, 1)
    count, at = read_varint(data, at)
    low, end = -(folded + 1) // 2 if folded % 2 else folded // 2, at + _weights(dims)
    if not data[0] or not 1 <= count <= MAX_COUNT or not -MAX_SIZE <= low <= MAX_SIZE:
        raise FileError(f"{_WHAT}: {count} numbers from {low} on: written by a newer version; update netpress")
    if len(data) < end + 4 or (len(data) - end) % 2:
        raise FileError(f"{_WHAT}: {end + 4} bytes or more expected, in words, got {len(data)}; fetch it again")
    weights = [byte - 256 * (byte > 127 and i < _EXPECT + _SPREAD) for i, byte in enumerate(data[at:end])]
    words = given(np.frombuffer(data[end:], "<u2").astype(np.int32))
    values = given(np.zeros(elements, np.int32))
    if kernel.restore(tables(), _settings(low, count, data[0], weights), _fresh(dims[1]), words, values, dims):
        raise FileError(f"{_WHAT}: does not end where its {elements} numbers end; fetch it again")
    return np.asarray(values, np.int32).reshape(shape)


def may_hold(values: NDArray[np.integer]) -> bool:
    """Whether numbers can be coded so.

    >>> may_hold(np.array([0, 4095])), may_hold(np.array([0, 4096]))
    (True, False)
    """
    if not 0 < values.size <= MAX_ELEMENTS:
        return False
    low, high = int(values.min()), int(values.max())
    return high - low < MAX_COUNT and -MAX_SIZE <= low <= MAX_SIZE


def opened(values: NDArray[np.int32]) -> tuple[Any, Any, tuple[int, int, int, int]]:
    """Settings fitted to numbers, an empty work, and their sizes: for loops of others over the kernel."""
    low, dims = int(values.min()), _dims(values.shape)
    often, weights = fit(values.reshape(-1), dims)
    return _settings(low, int(np.ptp(values)) + 1, often, weights), _fresh(dims[1]), dims


def fit(values: NDArray[np.int32], dims: tuple[int, int, int, int]) -> tuple[int, list[int]]:
    """Weights for a tensor: the byte in front, then expected value (4) and spread (6) in 1/128, taps in 1/64.

    Least squares for the expected value; then for the mean size of its error, relative to itself; then how much larger
    it is at each tap; last the factor between mean error and scale, by the bits it takes.
    """
    often = min(max(round(4 * float(np.abs(values).mean())), 1), 255)
    x, near, around, tap = _seen(values, dims, often)
    expect = np.rint(128 * np.linalg.solve(_gram(near, near) + 4 * np.eye(_EXPECT), _gram(near, x))).clip(-127, 127)
    error = x - near @ expect / 128
    miss, scale, weights = np.abs(error), np.maximum(around[:, 0], 0.5), around[0]
    for _ in range(3):
        relative = around / scale[:, None]
        damped = _gram(relative, relative) + 1e-5 * len(x) * np.eye(_SPREAD)
        weights = np.linalg.solve(damped, _gram(relative, miss / scale))
        scale = np.maximum(around @ weights, 0.2)
    ratio, taps = miss / scale, _taps(dims)
    mean = max(float(ratio.mean()), 1e-9)
    sums = np.bincount(tap, ratio, max(taps, 1)) / mean + 20
    each = np.rint(64 * sums / (np.bincount(tap, minlength=max(taps, 1)) + 20)).clip(1, 255)
    options = [np.rint(128 * factor * weights).clip(-127, 127) for factor in _FACTORS]
    factor = each[tap] / (64 * 128) if taps else 1 / 128
    spread = min(options, key=lambda option: _bits(error, np.maximum(around @ option * factor, 1 / 16)))
    return often, [int(weight) for part in (expect, spread, each[:taps]) for weight in part]


def _seen(
    values: NDArray[np.int32], dims: tuple[int, int, int, int], often: int
) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    """Of a sample: the numbers, their neighbours, the sizes around, their taps."""
    from netpress.codec import logistic_kernel as kernel

    every = -(-values.size // _SAMPLE)
    while math.gcd(every, dims[2]) > 1:  # else only some taps would be seen
        every += 1
    count, width = -(-values.size // every), 1 + _EXPECT + _SPREAD
    out = given(np.zeros(count * width, np.int32))
    settings = _settings(0, 1, often, [0] * (_EXPECT + _SPREAD))
    kernel.observe(tables(), settings, _fresh(dims[1]), given(values), (*dims, every), out)
    seen = np.asarray(out).reshape(count, width).astype(np.float64)
    tap = np.minimum(np.arange(count) * every % dims[2], 63)
    return seen[:, 0], seen[:, 1 : 1 + _EXPECT], seen[:, 1 + _EXPECT :] / 16, tap


def _gram(a: Floats, b: Floats) -> Floats:
    """a' b, summed in one order on every number of threads."""
    return np.asarray(np.einsum("ni,n...->i...", a, b))


def _bits(error: Floats, scale: Floats) -> float:
    """What numbers at these distances cost, all together."""
    chance = (np.tanh((error + 0.5) / (2 * scale)) - np.tanh((error - 0.5) / (2 * scale))) / 2
    return -float(np.log2(np.maximum(chance, 1e-5)).sum())


@cache
def tables() -> Any:
    """The logistic curve of 2^16, its inverse, and two kinds of quotients."""
    from netpress.codec import logistic_kernel as kernel

    z, share = np.arange(-2048, 2048) / 128, (np.arange(4096) + 0.5) / 4096
    out = np.zeros(kernel.TABLES, np.int32)
    out[kernel.CURVE : kernel.CURVE + 4096] = np.floor(65536 / (1 + np.exp(-z)))
    out[kernel.INVERSE : kernel.INVERSE + 4096] = np.rint(128 * np.log(share / (1 - share)))
    out[kernel.OVER + 1 : kernel.OVER + 4096] = (32 << 16) // np.arange(1, 4096)
    out[kernel.SHARE + 2 : kernel.SHARE + 66] = (1 << 16) // np.arange(2, 66)
    return given(out)


def _settings(low: int, count: int, often: int, weights: list[int]) -> Any:
    from netpress.codec import logistic_kernel as kernel

    out = np.full(kernel.SETTINGS, 64, np.int64)
    split = _EXPECT + _SPREAD
    out[: 3 + split] = [low, count, *weights[:split], (1 << 16) // often]
    out[kernel.TAPS : kernel.TAPS + len(weights) - split] = weights[split:]
    return given(out)


def _fresh(columns: int) -> Any:
    from netpress.codec import logistic_kernel as kernel

    return given(np.zeros(kernel.SUMS + columns, np.int64))


def _taps(dims: tuple[int, int, int, int]) -> int:
    """How many taps have a factor of their own."""
    return min(dims[2], 64) if dims[2] > 1 else 0


def _weights(dims: tuple[int, int, int, int]) -> int:
    return _EXPECT + _SPREAD + _taps(dims)


def _dims(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Rows, columns, taps, and how many taps lie side by side."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1, 1
    return shape[0], shape[1], math.prod(shape[2:]), shape[-1] if len(shape) > 2 else 1
