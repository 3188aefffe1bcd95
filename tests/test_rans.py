"""rANS against the entropy and a decoder written from the description of the format; damage is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.codec import rans, tables
from netpress.errors import FileError


def described(data, alphabet, count):
    """Decode as the module's docstring says, with nothing of the module's own but the bit reader."""
    if data[0] == 0x0F:
        return [int.from_bytes(data[1:3], "little")] * count
    lanes, n = 1 << (data[0] & 15), (data[0] >> 4) + 1
    reader = tables.TableReader.open("test", data[1:], alphabet)
    present = reader.presence(alphabet).tolist()
    frequency, p = {}, 2**n // len(present)
    for s in present[:-1]:
        p = frequency[s] = reader.golomb(max(0, p.bit_length() - 1)) + 1
    frequency[present[-1]] = 2**n - sum(frequency.values())
    by_slot, start, c = [], {}, 0
    for s in present:
        start[s] = c
        by_slot += [s] * frequency[s]
        c += frequency[s]
    rest = data[1 + reader.close() :]
    x = [int.from_bytes(rest[4 * j : 4 * j + 4], "little") for j in range(lanes)]
    words = rest[4 * lanes :]
    out = []
    for i in range(count):
        state = x[i % lanes]
        slot = state % 2**n
        s = by_slot[slot]
        out.append(s)
        state = frequency[s] * (state // 2**n) + slot - start[s]
        if state < 2**16:
            state = 2**16 * state + int.from_bytes(words[:2], "little")
            words = words[2:]
        x[i % lanes] = state
    assert words == b""
    assert x == [2**16] * lanes
    return out


def entropy_bytes(symbols):
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(symbols.size / counts)).sum() / 8)


def laplacian(count, alphabet, seed=0):
    draw = np.random.default_rng(seed).laplace(size=count) * alphabet / 12 + alphabet / 2
    return np.clip(draw, 0, alphabet - 1).astype(np.int64)


@given(
    alphabet=st.one_of(st.integers(1, 40), st.integers(1, 65_536)),
    count=st.integers(0, 300),
    seed=st.integers(0, 99),
    skew=st.floats(0, 20),
)
@settings(max_examples=150, deadline=None)
def test_round_trip_and_agreement_with_the_description(alphabet, count, seed, skew):
    symbols = (np.random.default_rng(seed).random(count) ** (1 + skew) * alphabet).astype(np.int64)
    data = rans.encode(symbols, alphabet)
    assert data == rans.encode(symbols.astype(np.uint16), alphabet)
    decoded = rans.decode(memoryview(data), alphabet, count)
    assert decoded.dtype == np.int32
    assert (decoded == symbols).all()
    if data:
        assert described(data, alphabet, count) == symbols.tolist()
    assert (len(data) == 0) == (count == 0 or alphabet == 1)


@pytest.mark.parametrize("lanes_log2", range(13))
@pytest.mark.parametrize("count", [1, 63, 5000])
def test_every_number_of_lanes(monkeypatch, lanes_log2, count):
    monkeypatch.setattr(rans, "_choose_lanes_log2", lambda *_: lanes_log2)
    symbols = laplacian(count, 50)
    symbols[-1] = 49 if symbols[0] != 49 else 48
    data = rans.encode(symbols, 50)
    if count > 1:
        assert data[0] & 15 == lanes_log2
    assert (rans.decode(data, 50, count) == symbols).all()
    assert described(data, 50, count) == symbols.tolist()


@pytest.mark.parametrize("alphabet", [2, 5, 32, 257])
@pytest.mark.parametrize("count", [1000, 30_000, 1_000_000])
def test_size_is_the_entropy(alphabet, count):
    symbols = laplacian(count, alphabet)
    data = rans.encode(symbols, alphabet)
    lanes = 1 << (data[0] & 15)
    reader = tables.TableReader.open("test", data[1:], alphabet)
    present = reader.presence(alphabet)
    table_bytes = reader.at / 8 + 3 * present.size  # at most 24 bits a frequency
    assert len(data) <= 1.005 * entropy_bytes(symbols) + table_bytes + 4 * lanes
    if count == 1_000_000:
        assert len(data) <= 1.005 * entropy_bytes(symbols)
        assert (rans.decode(data, alphabet, count) == symbols).all()


def test_one_symbol_takes_three_bytes():
    assert rans.encode(np.full(10**6, 65_535), 65_536) == b"\x0f\xff\xff"
    assert (rans.decode(b"\x0f\x02\x00", 3, 5) == 2).all()


def test_whole_alphabet_of_65536():
    symbols = np.random.default_rng(0).permutation(65_536)
    data = rans.encode(symbols, 65_536)
    assert (rans.decode(data, 65_536, symbols.size) == symbols).all()
    assert len(data) < 2 * 65_536 * 1.2


def test_frequencies_of_one_giant_and_many_rare_symbols():
    counts = np.ones(30_000, np.int64)
    counts[7] = 10**9
    for n in (15, 16):
        f = rans._frequencies(counts, n)
        assert int(f.sum()) == 2**n
        assert int(f.min()) == 1
        assert int(f.argmax()) == 7


@given(counts=st.lists(st.integers(1, 1000), min_size=2, max_size=6), n=st.integers(3, 6))
@settings(max_examples=60, deadline=None)
def test_frequencies_are_near_the_best(counts, n):
    """Within 2 % of the payload of the best whole frequencies, found by greedy steps (exact for a concave sum)."""
    c = np.array(counts, np.int64)
    best = np.ones(c.size)
    for _ in range(2**n - c.size):
        best[np.argmax(c * np.log2((best + 1) / best))] += 1

    def payload(f):
        return float((c * (n - np.log2(f))).sum())

    f = rans._frequencies(c, n)
    assert int(f.sum()) == 2**n
    assert payload(f) <= 1.02 * payload(best) + 1


STREAMS = [(laplacian(400, 20), 20), (laplacian(9000, 300), 300), (np.full(50, 3), 5)]


@pytest.mark.parametrize(("symbols", "alphabet"), STREAMS[:1] + STREAMS[2:])
def test_every_truncation_is_refused(symbols, alphabet):
    data = rans.encode(symbols, alphabet)
    for size in range(len(data)):
        with pytest.raises(FileError):
            rans.decode(data[:size], alphabet, symbols.size)


@pytest.mark.parametrize(("symbols", "alphabet"), STREAMS)
def test_appended_bytes_and_wrong_counts_are_refused(symbols, alphabet):
    data = rans.encode(symbols, alphabet)
    for extra in (b"\x00", b"\x00\x00", b"\x01\x02\x03"):
        with pytest.raises(FileError):
            rans.decode(data + extra, alphabet, symbols.size)
    if len(data) > 3:
        for count in (symbols.size - 1, symbols.size + 1, 0):
            with pytest.raises(FileError):
                rans.decode(data, alphabet, count)


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), which=st.integers(0, 1), lanes_log2=st.sampled_from([0, 5]))
@settings(max_examples=300, deadline=None)
def test_flipped_bits_raise_or_give_symbols(at, bit, which, lanes_log2):
    symbols, alphabet = STREAMS[which]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rans, "_choose_lanes_log2", lambda *_: lanes_log2)
        data = bytearray(rans.encode(symbols, alphabet))
    data[at % len(data)] ^= 1 << bit
    try:
        decoded = rans.decode(bytes(data), alphabet, symbols.size)
    except FileError:
        return
    assert decoded.shape == symbols.shape
    assert 0 <= int(decoded.min()) <= int(decoded.max()) < alphabet


@given(data=st.binary(max_size=60), alphabet=st.integers(1, 300), count=st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_any_bytes_raise_or_give_symbols(data, alphabet, count):
    try:
        decoded = rans.decode(data, alphabet, count)
    except FileError:
        return
    assert decoded.shape == (count,)


def test_a_stream_of_too_many_steps_is_refused():
    data = rans.encode(np.array([0, 1, 1, 1]), 2)
    with pytest.raises(FileError, match="not allowed"):
        rans.decode(data, 2, (1 << 20) + 1)
    with pytest.raises(FileError, match="empty"):
        rans.decode(b"", 2, (1 << 20) + 1)


@pytest.mark.parametrize("first", [0x0D, 0x0E, 0x1F, 0xFF])
def test_reserved_first_bytes_are_refused(first):
    with pytest.raises(FileError, match="not known"):
        rans.decode(bytes([first]) + rans.encode(laplacian(400, 20), 20)[1:], 20, 400)


def test_symbols_outside_the_alphabet_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.2"):
        rans.encode(np.array([3]), 3)
