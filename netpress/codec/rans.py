"""Interleaved rANS: an entropy coder within a fraction of a per cent of the entropy, fast in numpy.

Layout (numbers of several bytes are little-endian; bits are written as `netpress.codec.tables` says). No symbols, or
an alphabet of one symbol: no bytes at all. Else:

| bytes | meaning |
|---|---|
| 1 | low four bits: log2 of the number of lanes L, 0..12; high four bits: n - 1, where n = 1..16 is the precision |
| table | bits: presence, then the frequency of every present symbol but the last; zeros fill the last byte |
| 4 L | the start state of each lane, uint32 |
| 2 W | words, uint16, up to the end of the stream |

A constant stream (one symbol only occurs) is the byte 0x0f and that symbol as uint16. Every other first byte whose low
four bits are 13, 14 or 15 is refused: room for later versions.

Table: at least two symbols are present. Each frequency f >= 1; they add up to 2^n, which gives the last one. f - 1 is
written in Exp-Golomb code of order max(0, bit length of p - 1), where p is the frequency before (at first: 2^n
divided by the number of present symbols, rounded down). c(s) is the sum of the frequencies of the symbols before s.

Decoding: symbol i belongs to lane i mod L. With x the state of that lane, slot = x mod 2^n; the symbol s is the one
with c(s) <= slot < c(s) + f(s); then x = f(s) * floor(x / 2^n) + slot - c(s); and if x < 2^16, x = 2^16 x + the next
word. Symbols are decoded in order of i, which is the order of the words. A good stream ends with all words used and
every state at 2^16; start states lie in 2^16..2^32-1; count <= 2^20 L. Anything else is refused.

Choices an encoder is free to make: n and the frequencies, and L. Ours takes the n with the smallest table and payload
together, and few lanes where the stream is small (each costs about three bytes).

Source: Duda, Asymmetric numeral systems (2013); interleaving: Giesen, Interleaved entropy coders (2014). Ours differs
in the number of lanes (chosen by size, up to 4,096) and in the table.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netpress.codec.tables import TableReader, check_request, checked, golomb, presence, to_bytes
from netpress.errors import FileError

# x: state, f: frequency, c: cumulated frequency, n: precision in bits, q: quotient
_WHAT = "rANS stream"
_LOW = 1 << 16  # states live in _LOW .. 2^32 - 1
_MAX_PRECISION = 16
_MAX_LANES_LOG2 = 12
_MAX_STEPS_LOG2 = 20
_CONSTANT = b"\x0f"
_FEWEST_LANES = 32  # fewer are slower than one lane of python integers (a step on arrays costs as much as 35 symbols)
_BLOCK = 1 << 16  # symbols looked up at a time: stays in the cache


@dataclass(frozen=True, slots=True)
class _Table:
    symbols: NDArray[np.int64]  # present ones, ascending
    f: NDArray[np.int64]  # their frequencies, adding up to 2^n
    n: int

    @property
    def c(self) -> NDArray[np.int64]:
        return np.cumsum(self.f) - self.f


def encode(symbols: NDArray[np.integer], alphabet: int) -> bytes:
    """Code symbols close to their entropy.

    Args:
        symbols: (count,) integers in 0..alphabet-1.
        alphabet: number of symbols, 1..65,536.

    Returns:
        The stream, with its own table; the same bytes for the same symbols.

    Raises:
        ValueError: a symbol outside the alphabet.

    >>> encode(np.array([2, 2, 2, 2]), alphabet=3).hex()
    '0f0200'
    >>> decode(encode(np.array([1, 0, 2, 2]), alphabet=3), alphabet=3, count=4)
    array([1, 0, 2, 2], dtype=int32)
    """
    values = checked(symbols, alphabet)
    if values.size == 0 or alphabet == 1:
        return b""
    counts = np.bincount(values, minlength=alphabet)
    present = np.flatnonzero(counts)
    if present.size == 1:
        return _CONSTANT + int(present[0]).to_bytes(2, "little")
    table, payload_bytes = _choose_table(present, counts[present])
    lanes_log2 = _choose_lanes_log2(values.size, payload_bytes)
    head = bytes([(table.n - 1) << 4 | lanes_log2])
    if lanes_log2 == 0:
        states, words = _encode_one_lane(values, table, alphabet)
    else:
        states, words = _encode_lanes(values, table, 1 << lanes_log2, alphabet)
    parts = (head, _write_table(table, alphabet), states.astype("<u4").tobytes(), words.astype("<u2").tobytes())
    return b"".join(parts)


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
    if bytes(data[:1]) == _CONSTANT:
        symbol = int.from_bytes(data[1:3], "little")
        if len(data) != 3 or symbol >= alphabet:
            raise FileError(f"{_WHAT}: 3 bytes and a symbol below {alphabet} expected, got {len(data)} and {symbol}")
        return np.full(count, symbol, np.int32)
    table, states, words = _read(data, alphabet, count)
    if states.size == 1:
        return _decode_one_lane(int(states[0]), words, table, count)
    return _decode_lanes(states, words, table, count)


def table_bytes(data: bytes | memoryview, alphabet: int) -> int:
    """How many bytes of a stream are its first byte, table and start states.

    >>> table_bytes(encode(np.arange(100) % 3, 3), 3)
    7

    Raises:
        FileError: the table is damaged.
    """
    if bytes(data[:1]) == _CONSTANT or not len(data):
        return len(data)
    return len(data) - 2 * _read(data, alphabet, 1)[2].size


# --- table ------------------------------------------------------------------------------------------------------------


def _choose_table(present: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[_Table, float]:
    """Try every precision; return the table with the fewest bits in all, and the bytes of its payload."""
    total = int(counts.sum())
    best: tuple[float, float, _Table] | None = None
    for n in range((present.size - 1).bit_length(), _MAX_PRECISION + 1):
        f = _frequencies(counts, n)
        payload = float((counts * (n - np.log2(f))).sum())
        size = payload + _table_bits(f, n)
        if best is None or size < best[0]:
            best = (size, payload, _Table(present, f, n))
        if 1 << n > 64 * total:
            break  # finer frequencies than this cannot pay
    assert best is not None
    return best[2], best[1] / 8


def _frequencies(counts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Round counts to whole frequencies >= 1 that add up to 2^n, close to the shortest payload.

    The rarest m symbols get 1, the others their share of the rest rounded down; what is left over goes where one more
    saves most: d/df of counts * log2(f), taken half-way, counts / (f + 1/2). Whole numbers and one division: the same
    on every machine.
    """
    order = np.argsort(counts, kind="stable")
    c = counts[order]
    left = (1 << n) - np.arange(c.size)
    rest = c.sum() - (np.cumsum(c) - c)
    m = int(np.argmax(c * left >= rest))
    f = np.ones(c.size, np.int64)
    f[m:] = c[m:] * left[m] // rest[m]
    spare = (1 << n) - int(f.sum())
    gain = c / (f + 0.5)
    f[np.argsort(-gain, kind="stable")[:spare]] += 1
    out = np.empty_like(f)
    out[order] = f
    return out


def _orders(f: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Exp-Golomb order for each frequency, from the one before it."""
    before = np.concatenate([[(1 << n) // f.size], f[:-1]]).astype(np.float64)
    order: NDArray[np.int64] = np.frexp(before)[1].astype(np.int64) - 1
    return np.maximum(order, 0)


def _table_bits(f: NDArray[np.int64], n: int) -> int:
    """Length of the frequencies as `_write_table` writes them."""
    k = _orders(f, n)[:-1]
    length = np.frexp((f[:-1] - 1 + (1 << k)).astype(np.float64))[1]
    return int((2 * length - 1 - k).sum())


def _write_table(table: _Table, alphabet: int) -> bytes:
    present = np.zeros(alphabet, np.bool_)
    present[table.symbols] = True
    pairs = zip(table.f[:-1].tolist(), _orders(table.f, table.n)[:-1].tolist(), strict=True)
    return to_bytes(presence(present) + "".join(golomb(f - 1, k) for f, k in pairs))


def _read(data: bytes | memoryview, alphabet: int, count: int) -> tuple[_Table, NDArray[np.uint32], NDArray[np.uint16]]:
    """Read table, start states and words; raise FileError unless they are well formed."""
    if not len(data):
        raise FileError(f"{_WHAT}: empty, but {count} symbols of {alphabet} expected; fetch the file again")
    lanes_log2, n = data[0] & 15, (data[0] >> 4) + 1
    if lanes_log2 > _MAX_LANES_LOG2 or count > 1 << (_MAX_STEPS_LOG2 + lanes_log2):
        raise FileError(f"{_WHAT}: first byte {data[0]:#04x} is not known, or not allowed for {count} symbols")
    reader = TableReader.open(_WHAT, data[1:], alphabet)
    symbols = reader.presence(alphabet)
    f: list[int] = []
    before, rest = (1 << n) // symbols.size, 1 << n
    for _ in range(symbols.size - 1):
        before = reader.golomb(max(0, before.bit_length() - 1)) + 1
        rest -= before
        f.append(before)
    if symbols.size < 2 or rest < 1:
        raise FileError(f"{_WHAT}: frequencies of 2 or more symbols adding up to {1 << n} expected; fetch it again")
    states_at = 1 + reader.close()
    words_at = states_at + (4 << lanes_log2)
    if len(data) < words_at or (len(data) - words_at) % 2:
        raise FileError(f"{_WHAT}: {words_at} bytes and whole words expected, got {len(data)}; fetch the file again")
    states = np.frombuffer(data, "<u4", 1 << lanes_log2, states_at).astype(np.uint32)
    if int(states.min()) < _LOW:
        raise FileError(f"{_WHAT}: start states of {_LOW} or more expected, got {states.min()}; fetch the file again")
    words = np.frombuffer(data[words_at:], "<u2").astype(np.uint16)
    return _Table(symbols, np.array([*f, rest], np.int64), n), states, words


def _choose_lanes_log2(count: int, payload_bytes: float) -> int:
    """One lane where the stream is small, else 0.3 % of the payload or less; at most 2^20 steps of any one."""
    lanes = max(int(min(payload_bytes / 1024, payload_bytes**0.5)), count >> 15)
    return min(lanes.bit_length() - 1, _MAX_LANES_LOG2) if lanes >= _FEWEST_LANES else 0


# --- lanes ------------------------------------------------------------------------------------------------------------


def _encode_lanes(
    values: NDArray[np.integer], table: _Table, lanes: int, alphabet: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint16]]:
    """Run all steps backwards, each on all lanes at once; words are laid down from the end of a buffer."""
    f_of, c_of = np.zeros((2, alphabet), np.uint64)
    f_of[table.symbols], c_of[table.symbols] = table.f, table.c
    scale, top = np.uint64(1 << table.n), np.uint64(32 - table.n)
    x = np.full(lanes, _LOW, np.uint64)
    words = np.empty(values.size, np.uint16)
    at = values.size
    rows = -(-values.size // lanes)
    block = max(1, _BLOCK // lanes)
    for first in reversed(range(0, rows, block)):
        part = values[first * lanes : (first + block) * lanes]
        fs, cs = f_of[part], c_of[part]
        steps = scale - fs
        for i in reversed(range(0, part.size, lanes)):
            f = fs[i : i + lanes]
            active = x[: f.size]
            full = (active >> top >= f).nonzero()[0]
            if full.size:
                over = active[full]
                words[at - full.size : at] = over & np.uint64(0xFFFF)
                active[full] = over >> np.uint64(16)
                at -= full.size
            q = active // f
            q *= steps[i : i + lanes]  # 2^n q + x mod f + c = x + (2^n - f) q + c
            active += q
            active += cs[i : i + lanes]
    return x, words[at:]


def _decode_lanes(
    states: NDArray[np.uint32], words: NDArray[np.uint16], table: _Table, count: int
) -> NDArray[np.int32]:
    """Run all steps forwards, each on all lanes at once; slots are turned into symbols a block at a time."""
    symbol_of, f_of, bias_of = _slots(table)
    lanes, n, mask = states.size, np.uint64(table.n), np.uint64((1 << table.n) - 1)
    x = states.astype(np.uint64)
    out = np.empty(count, np.int32)
    slots = np.empty(max(1, _BLOCK // lanes) * lanes, np.uint64)
    index = slots.view(np.int64)
    at = 0
    for start in range(0, count, slots.size):
        size = min(slots.size, count - start)
        for i in range(0, size, lanes):
            end = min(i + lanes, size)
            active = x[: end - i]
            np.bitwise_and(active, mask, out=slots[i:end])
            active >>= n
            active *= f_of.take(index[i:end])
            active += bias_of.take(index[i:end])
            low = (active < _LOW).nonzero()[0]
            if low.size:
                if at + low.size > words.size:
                    raise FileError(f"{_WHAT}: ends {count - start - i} symbols early; fetch the file again")
                active[low] = active[low] << np.uint64(16) | words[at : at + low.size]
                at += low.size
        symbol_of.take(index[:size], out=out[start : start + size], mode="clip")
    _check_end(x.tolist(), words.size - at)
    return out


def _slots(table: _Table) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint64]]:
    """For each slot 0..2^n-1: symbol, frequency, and slot - c."""
    bias = np.arange(1 << table.n) - np.repeat(table.c, table.f)
    f = np.repeat(table.f, table.f)
    return np.repeat(table.symbols, table.f).astype(np.int32), f.astype(np.uint64), bias.astype(np.uint64)


def _check_end(states: list[int], words_left: int) -> None:
    if words_left or any(x != _LOW for x in states):
        raise FileError(f"{_WHAT}: does not end where its symbols end ({words_left} words left); fetch the file again")


# --- one lane: the same, one symbol at a time -------------------------------------------------------------------------


def _encode_one_lane(
    values: NDArray[np.integer], table: _Table, alphabet: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint16]]:
    f_of, c_of = np.zeros((2, alphabet), np.int64)
    f_of[table.symbols], c_of[table.symbols] = table.f, table.c
    n, top, x = table.n, 32 - table.n, _LOW
    words: list[int] = []
    for f, c in zip(f_of[values[::-1]].tolist(), c_of[values[::-1]].tolist(), strict=True):
        if x >> top >= f:
            words.append(x & 0xFFFF)
            x >>= 16
        x = (x // f << n) + x % f + c
    return np.array([x], np.uint64), np.array(words[::-1], np.uint16)


def _decode_one_lane(x: int, words: NDArray[np.uint16], table: _Table, count: int) -> NDArray[np.int32]:
    symbol_of, f_of, bias_of = _slots(table)
    f, bias, n, mask = f_of.tolist(), bias_of.tolist(), table.n, (1 << table.n) - 1
    queue = iter(words.tolist())
    slots = np.empty(count, np.int64)
    for i in range(count):
        slot = x & mask
        slots[i] = slot
        x = f[slot] * (x >> n) + bias[slot]
        if x < _LOW:
            word = next(queue, None)
            if word is None:
                raise FileError(f"{_WHAT}: ends {count - i} symbols early; fetch the file again")
            x = x << 16 | word
    _check_end([x], sum(1 for _ in queue))
    return symbol_of[slots]
