"""Canonical Huffman codes of at most 16 bits.

Layout (bits are written as `netpress.codec.tables` says). No symbols, or an alphabet of one symbol: no bytes at all.
Else:

- table: presence, then the code length of every present symbol, as the difference d to the length before (at first:
  to the bit length of P - 1, with P present symbols), folded into a whole number (2 d - 1 for d > 0, else -2 d) and
  written in Exp-Golomb code of order 0; zeros fill the last byte. If one symbol only is present, the table ends after
  presence, and so does the stream.
- payload: the codes of all symbols, the first bit of a code first; zeros fill the last byte, and nothing follows.

Codes are canonical: by length, then by symbol, counting up from zero, with a zero appended wherever the length grows
by one. They must use up the code space (the sum of 2^-length is 1).

Source: Huffman, A method for the construction of minimum-redundancy codes (1952); lengths by package-merge (Larmore
and Hirschberg, 1990), which is optimal under the limit; used for weights and gaps by Han et al., Deep Compression,
section 4. We differ in the limit, and in that a stream of one repeated symbol takes no payload.
"""

import numpy as np
from numpy.typing import NDArray

from netpress.codec.tables import TableReader, check_request, checked, golomb, presence, to_bytes
from netpress.errors import FileError

MAX_LENGTH = 16
_WHAT = "Huffman stream"
_ENCODE_BLOCK = 1 << 17  # symbols
_DECODE_BLOCK = 1 << 16  # bits
_JUMPS_LOG2 = 5  # the chain of codes is walked in python 2^5 codes at a time


def code_lengths(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Lengths of an optimal prefix code with at most 16 bits: minimises sum of counts * lengths.

    Args:
        counts: (alphabet,) how often each symbol occurs; zero: it gets no code.

    Returns:
        (alphabet,) lengths in bits; 0 where the count is 0, and 1 where only one symbol occurs.

    >>> code_lengths(np.array([5, 1, 0, 2]))
    array([1, 2, 0, 2])
    """
    lengths = np.zeros(counts.size, np.int64)
    present = np.flatnonzero(counts)
    if present.size > 1 << MAX_LENGTH:
        raise ValueError(f"at most {1 << MAX_LENGTH} symbols can have a code, got {present.size}")
    if present.size < 2:
        lengths[present] = 1
        return lengths
    order = present[np.argsort(counts[present], kind="stable")]
    weights = counts[order].astype(np.int64)
    level, is_leaf = weights, [np.ones(order.size, np.bool_)]
    for _ in range(MAX_LENGTH - 1):  # package-merge: pair the cheapest, merge the pairs with the leaves, and again
        pairs = level[: level.size // 2 * 2].reshape(-1, 2).sum(axis=1)
        both = np.concatenate([weights, pairs])
        ranks = np.argsort(both, kind="stable")
        level = both[ranks]
        is_leaf.append(ranks < order.size)
    taken = 2 * order.size - 2
    for leaves in reversed(is_leaf):
        n = int(np.count_nonzero(leaves[:taken]))
        lengths[order[:n]] += 1
        taken = 2 * (taken - n)
    return lengths


def encode(symbols: NDArray[np.integer], alphabet: int) -> bytes:
    """Code symbols with whole bits each.

    Args:
        symbols: (count,) integers in 0..alphabet-1.
        alphabet: number of symbols, 1..65,536.

    Returns:
        The stream, with its own table; the same bytes for the same symbols.

    Raises:
        ValueError: a symbol outside the alphabet.

    >>> encode(np.array([1, 0, 2, 2]), alphabet=3).hex()
    'bd80e0'
    >>> decode(encode(np.array([1, 0, 2, 2]), alphabet=3), alphabet=3, count=4)
    array([1, 0, 2, 2], dtype=int32)
    """
    values = checked(symbols, alphabet)
    if values.size == 0 or alphabet == 1:
        return b""
    counts = np.bincount(values, minlength=alphabet)
    lengths = code_lengths(counts)
    present = np.flatnonzero(lengths)
    if present.size == 1:
        return to_bytes(presence(lengths > 0))
    codes = np.zeros(alphabet, np.uint64)
    order, first = _canonical(lengths)
    codes[order] = first >> (MAX_LENGTH - lengths[order])
    return _write_table(lengths) + _payload(values, lengths, codes, bits=int((counts * lengths).sum()))


def _canonical(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Symbols in the order of their codes, and each code followed by zeros up to 16 bits."""
    present = np.flatnonzero(lengths)
    order = present[np.argsort(lengths[present], kind="stable")]
    room = 1 << (MAX_LENGTH - lengths[order])
    return order, np.cumsum(room) - room


def _payload(values: NDArray[np.integer], lengths: NDArray[np.int64], codes: NDArray[np.uint64], *, bits: int) -> bytes:
    """Lay the codes end to end: each touches two 32-bit words at most, and a word is the sum of its parts."""
    words = np.zeros(bits // 32 + 2, np.uint32)
    start = 0
    for i in range(0, values.size, _ENCODE_BLOCK):
        part = values[i : i + _ENCODE_BLOCK]
        length = lengths[part]
        ends = np.cumsum(length) + start
        at = ends - length
        first = int(at[0]) >> 5
        word = (at >> 5) - first
        shifted = codes[part] << (64 - (at & 31) - length).astype(np.uint64)
        high, low = (shifted >> np.uint64(32)).astype(np.float64), (shifted & np.uint64(0xFFFFFFFF)).astype(np.float64)
        sums = np.zeros(int(word[-1]) + 2, np.float64)  # whole numbers below 2^32: exact
        sums[:-1] += np.bincount(word, high)
        sums[1:] += np.bincount(word, low)
        words[first : first + sums.size] |= sums.astype(np.uint32)
        start = int(ends[-1])
    return words.astype(">u4").tobytes()[: -(-bits // 8)]


def _write_table(lengths: NDArray[np.int64]) -> bytes:
    used = lengths[lengths > 0]
    steps = np.diff(used, prepend=(used.size - 1).bit_length()).tolist()
    return to_bytes(presence(lengths > 0) + "".join(golomb(2 * d - 1 if d > 0 else -2 * d, 0) for d in steps))


def decode(data: bytes | memoryview, alphabet: int, count: int) -> NDArray[np.int32]:
    """Decode what `encode` wrote.

    Returns:
        (count,) symbols.

    Raises:
        FileError: the stream is cut, too long, or damaged.
    """
    check_request(_WHAT, data, alphabet, count)
    if count == 0 or alphabet == 1:
        return np.zeros(count, np.int32)
    symbols, lengths, size = _read_table(data, alphabet)
    payload = data[size:]
    if symbols.size == 1:
        if len(payload):
            raise FileError(f"{_WHAT}: {size} bytes expected, got {len(data)}; fetch the file again")
        return np.full(count, symbols[0], np.int32)
    if len(payload) * 8 < count or len(payload) > 2 * count:
        raise FileError(f"{_WHAT}: {count} codes cannot take {len(payload)} bytes; fetch the file again")
    return _decode_payload(payload, symbols, lengths, count)


def table_bytes(data: bytes | memoryview, alphabet: int) -> int:
    """How many bytes of a stream are its table.

    >>> table_bytes(encode(np.array([0, 1, 2, 1]), 3), 3)
    2

    Raises:
        FileError: the table is damaged.
    """
    return _read_table(data, alphabet)[2] if len(data) else 0


def _read_table(data: bytes | memoryview, alphabet: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Read present symbols, their code lengths, and the number of bytes these took."""
    reader = TableReader.open(_WHAT, data, alphabet)
    symbols = reader.presence(alphabet)
    lengths = np.ones(symbols.size, np.int64)
    before = (symbols.size - 1).bit_length()
    for i in range(symbols.size if symbols.size > 1 else 0):
        folded = reader.golomb(0)
        before += (folded + 1) // 2 if folded % 2 else -(folded // 2)
        if not 1 <= before <= MAX_LENGTH:
            raise FileError(f"{_WHAT}: code lengths 1..{MAX_LENGTH} expected, got {before}; fetch the file again")
        lengths[i] = before
    space = int((1 << (MAX_LENGTH - lengths)).sum())
    if symbols.size > 1 and space != 1 << MAX_LENGTH:
        raise FileError(f"{_WHAT}: its code lengths do not fit together ({space} of {1 << MAX_LENGTH}); fetch it again")
    return symbols, lengths, reader.close()


def _decode_payload(
    payload: bytes | memoryview, symbols: NDArray[np.int64], lengths: NDArray[np.int64], count: int
) -> NDArray[np.int32]:
    """Find the length of the code that would begin at every bit, then follow the chain of real ones."""
    longest = int(lengths.max())
    order = np.lexsort((symbols, lengths))
    room = 1 << (longest - lengths[order])
    symbol_of = np.repeat(symbols[order], room).astype(np.int32)
    length_of = np.repeat(lengths[order], room)
    raw = np.frombuffer(payload, np.uint8)
    out = np.empty(count, np.int32)
    done, at = 0, 0
    while done < count:
        base = at // 8
        window = _windows(raw[base : base + _DECODE_BLOCK // 8 + 2], longest)
        starts, end = _follow(length_of.take(window), at % 8)
        part = symbol_of[window[starts[: count - done]]]
        out[done : done + part.size] = part
        done += part.size
        at = 8 * base + (end if part.size == starts.size else int(starts[part.size]))
        if done < count and at >= 8 * raw.size:
            raise FileError(f"{_WHAT}: ends {count - done} symbols early; fetch the file again")
    if -(-at // 8) != raw.size or raw[-1] & ((1 << (8 * raw.size - at)) - 1):
        raise FileError(f"{_WHAT}: ends at bit {at} of {8 * raw.size}, or with bits that are not zero; fetch it again")
    return out


def _windows(raw: NDArray[np.uint8], longest: int) -> NDArray[np.int64]:
    """The ``longest`` bits that begin at each bit of a block (of as many whole bytes as there are, at most a block)."""
    size = min(raw.size, _DECODE_BLOCK // 8)
    padded = np.zeros(size + 2, np.int64)
    padded[: raw.size] = raw[: size + 2]
    three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    shifts = np.arange(24 - longest, 16 - longest, -1)
    return ((three[:, None] >> shifts) & ((1 << longest) - 1)).reshape(-1)


def _follow(length: NDArray[np.int64], start: int) -> tuple[NDArray[np.int64], int]:
    """Follow the chain start, start + length[start], ... to the end of the block.

    Jumps of 1, 2, 4 ... codes are tabulated for every bit; python walks in the longest ones, and the codes between are
    filled in by the shorter ones. Bits past the block lead to themselves.

    Returns:
        Where each code begins, and where the first one begins that does not lie in this block.
    """
    bits = length.size
    jump = np.arange(bits + MAX_LENGTH)
    jump[:bits] += length
    jumps = [jump]
    for _ in range(_JUMPS_LOG2):
        jumps.append(jumps[-1].take(jumps[-1]))
    heads = []
    longest = jumps.pop().data
    at = start
    while at < bits:
        heads.append(at)
        at = longest[at]
    starts = np.array(heads, np.int64)
    for jump in reversed(jumps):
        starts = np.stack([starts, jump.take(starts)], axis=-1).reshape(-1)
    return starts[: int(np.searchsorted(starts, bits))], at
