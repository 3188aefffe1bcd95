"""Fixed-width packing: every symbol in ceil(log2(alphabet)) bits.

Layout: symbol i takes the bits i*w .. (i+1)*w - 1 of the stream, most significant bit first, both inside a symbol and
inside a byte; zeros fill the last byte. An alphabet of one symbol has w = 0 and takes no bytes.
"""

import numpy as np
from numpy.typing import NDArray

from netpress.codec.tables import check_request, checked
from netpress.errors import FileError

_WHAT = "bit-packed stream"
_BLOCK = 1 << 18  # values at a time: stays in the cache; a multiple of 8, so that blocks begin at whole bytes


def width(alphabet: int) -> int:
    """Number of bits of one symbol: ceil(log2(alphabet)).

    >>> [width(a) for a in (1, 2, 3, 32, 33)]
    [0, 1, 2, 5, 6]
    """
    return (alphabet - 1).bit_length()


def encode(symbols: NDArray[np.integer], alphabet: int) -> bytes:
    """Pack symbols at fixed width.

    Args:
        symbols: (count,) integers in 0..alphabet-1.
        alphabet: number of symbols, 1..65,536.

    Returns:
        ceil(count * width(alphabet) / 8) bytes.

    Raises:
        ValueError: a symbol outside the alphabet.

    >>> encode(np.array([1, 0, 2, 2]), alphabet=3).hex()
    '4a'
    """
    return pack(checked(symbols, alphabet), width(alphabet))


def decode(data: bytes | memoryview, alphabet: int, count: int) -> NDArray[np.int32]:
    """Unpack what `encode` wrote.

    Returns:
        (count,) symbols.

    Raises:
        FileError: wrong length, padding that is not zero, or a symbol outside the alphabet.

    >>> decode(bytes.fromhex("4a"), alphabet=3, count=4)
    array([1, 0, 2, 2], dtype=int32)
    """
    check_request(_WHAT, data, alphabet, count)
    values = unpack(data, width(alphabet), count)
    if count and int(values.max()) >= alphabet:
        raise FileError(f"{_WHAT}: symbols below {alphabet} expected, got {values.max()}; fetch the file again")
    return values


def pack(values: NDArray[np.integer], width: int) -> bytes:
    """Pack whole numbers of ``width`` bits each (0..16); the caller answers for their range.

    >>> pack(np.array([5, 1, 7]), width=3).hex()
    'a780'
    """
    size = -(-values.size * width // 8)
    blocks = [_pack_block(values[i : i + _BLOCK], width) for i in range(0, values.size, _BLOCK)]
    return b"".join(blocks)[:size]


def _pack_block(values: NDArray[np.integer], width: int) -> bytes:
    """Eight values fill exactly ``width`` bytes: build them as two 64-bit words, high and low, and keep those bytes."""
    groups = -(-values.size // 8)
    padded = np.zeros(groups * 8, np.uint64)
    padded[: values.size] = values
    words = np.zeros((groups, 2), np.uint64)
    for j, column in enumerate(padded.reshape(groups, 8).T):
        shift = 64 - (j + 1) * width  # left shift inside the high word; negative: it reaches into the low word
        if shift >= 0:
            words[:, 0] |= column << np.uint64(shift)
        else:
            words[:, 1] |= column << np.uint64(64 + shift)
            if -shift < width:
                words[:, 0] |= column >> np.uint64(-shift)
    return words.astype(">u8").view(np.uint8).reshape(groups, 16)[:, :width].tobytes()


def unpack(data: bytes | memoryview, width: int, count: int) -> NDArray[np.int32]:
    """Unpack ``count`` numbers of ``width`` bits each (0..16).

    Raises:
        FileError: wrong length, or padding that is not zero.

    >>> unpack(bytes.fromhex("a780"), width=3, count=3)
    array([5, 1, 7], dtype=int32)
    """
    size = -(-count * width // 8)
    if len(data) != size:
        raise FileError(f"{_WHAT}: {size} bytes expected for {count} x {width} bits, got {len(data)}")
    if size and data[-1] & ((1 << (8 * size - count * width)) - 1):
        raise FileError(f"{_WHAT}: zeros expected after the last symbol; fetch the file again")
    out = np.zeros(count, np.int32)
    raw = np.frombuffer(data, np.uint8)
    if width == 0:
        return out
    for start in range(0, count, _BLOCK):
        part = out[start : start + _BLOCK]
        part[:] = _unpack_block(raw[start // 8 * width :], width, part.size)
    return out


def _unpack_block(raw: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint64]:
    groups = -(-count // 8)
    size = -(-count * width // 8)
    flat = np.zeros(groups * width, np.uint8)
    flat[:size] = raw[:size]
    octets = np.zeros((groups, 16), np.uint8)
    octets[:, :width] = flat.reshape(groups, width)
    words = octets.view(">u8").astype(np.uint64)
    mask = np.uint64((1 << width) - 1)
    values = np.empty((groups, 8), np.uint64)
    for j in range(8):
        shift = 64 - (j + 1) * width
        if shift >= 0:
            values[:, j] = words[:, 0] >> np.uint64(shift)
        else:
            values[:, j] = words[:, 1] >> np.uint64(64 + shift)
            if -shift < width:
                values[:, j] |= words[:, 0] << np.uint64(-shift)
    values &= mask
    return values.reshape(-1)[:count]
