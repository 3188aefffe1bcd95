"""Huffman codes against brute force and the entropy; damage is refused."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.codec import huffman
from netpress.errors import FileError


def entropy_bits(counts):
    used = counts[counts > 0]
    return float((used * np.log2(used.sum() / used)).sum())


def textbook_cost(counts):
    """Total bits of a Huffman code without a limit: the sum of all merged weights."""
    heap = [int(c) for c in counts if c]
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    return cost


def brute_force_cost(counts, limit):
    """Least total bits over all lengths 1..limit that satisfy Kraft's inequality, the commonest symbol the shortest."""
    c = sorted((int(v) for v in counts if v), reverse=True)

    def search(i, shortest, space):
        if i == len(c):
            return 0
        options = [
            length * c[i] + rest
            for length in range(shortest, limit + 1)
            if space >= 2 ** (limit - length)
            and (rest := search(i + 1, length, space - 2 ** (limit - length))) is not None
        ]
        return min(options, default=None)

    return search(0, 1, 2**limit)


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any))
@settings(max_examples=60, deadline=None)
def test_lengths_are_optimal_for_small_alphabets(counts):
    c = np.array(counts)
    lengths = huffman.code_lengths(c)
    assert ((lengths > 0) == (c > 0)).all()
    assert int((c * lengths).sum()) == brute_force_cost(counts, 6)


@given(counts=st.lists(st.integers(0, 1000), min_size=2, max_size=200).filter(lambda c: sum(map(bool, c)) > 1))
@settings(max_examples=60, deadline=None)
def test_lengths_cost_as_the_textbook_and_within_a_bit_of_the_entropy(counts):
    c = np.array(counts)
    lengths = huffman.code_lengths(c)
    cost = int((c * lengths).sum())
    assert (1 << (16 - lengths[lengths > 0])).sum() == 1 << 16
    if lengths.max() < 16:
        assert cost == textbook_cost(counts)
    assert entropy_bits(c) <= cost + 1e-6
    assert cost < entropy_bits(c) + c.sum()


def test_fibonacci_counts_meet_the_limit():
    """Without a limit these need 29 bits."""
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(counts[-1] + counts[-2])
    c = np.array(counts)
    lengths = huffman.code_lengths(c)
    assert int(lengths.max()) == huffman.MAX_LENGTH
    assert (1 << (16 - lengths)).sum() == 1 << 16
    symbols = np.random.default_rng(0).permutation(np.repeat(np.arange(20), counts[:20]))
    assert (huffman.decode(huffman.encode(symbols, 30), 30, symbols.size) == symbols).all()


@pytest.mark.parametrize("limit", [3, 4, 5])
def test_limited_lengths_are_optimal(monkeypatch, limit):
    monkeypatch.setattr(huffman, "MAX_LENGTH", limit)
    c = np.array([1, 1, 2, 3, 5, 8, 13])
    lengths = huffman.code_lengths(c)
    assert int(lengths.max()) <= limit
    assert int((c * lengths).sum()) == brute_force_cost(c, limit)


def test_one_symbol_has_length_one_and_no_payload():
    assert huffman.code_lengths(np.array([0, 7, 0])).tolist() == [0, 1, 0]
    data = huffman.encode(np.full(1000, 2), 5)
    assert len(data) == 1
    assert (huffman.decode(data, 5, 1000) == 2).all()


@given(
    alphabet=st.one_of(st.integers(1, 40), st.integers(1, 65_536)),
    count=st.integers(0, 300),
    seed=st.integers(0, 99),
    skew=st.floats(0, 20),
)
@settings(max_examples=150, deadline=None)
def test_round_trip(alphabet, count, seed, skew):
    symbols = (np.random.default_rng(seed).random(count) ** (1 + skew) * alphabet).astype(np.int64)
    data = huffman.encode(symbols, alphabet)
    assert data == huffman.encode(symbols.astype(np.uint16), alphabet)
    decoded = huffman.decode(memoryview(data), alphabet, count)
    assert decoded.dtype == np.int32
    assert (decoded == symbols).all()
    assert (len(data) == 0) == (count == 0 or alphabet == 1)


@pytest.mark.parametrize("alphabet", [2, 30, 65_536])
def test_many_blocks_and_the_promised_size(alphabet):
    symbols = (np.random.default_rng(1).random(300_000) ** 3 * alphabet).astype(np.int64)
    data = huffman.encode(symbols, alphabet)
    counts = np.bincount(symbols, minlength=alphabet)
    payload = -(-int((counts * huffman.code_lengths(counts)).sum()) // 8)
    assert payload < len(data) < payload + 2 * alphabet
    assert (huffman.decode(data, alphabet, symbols.size) == symbols).all()


def test_the_bits_are_the_ones_described():
    # presence 1 (none absent) 011 (3 present); lengths 2 2 1 from 2: 1 1 011; zeros; then 2 1 0 0 as 0 11 10 10
    data = huffman.encode(np.array([2, 2, 2, 1, 0]), 3)
    assert data == bytes([0b10111101, 0b10000000, 0b00011100])


SYMBOLS = np.clip(np.random.default_rng(0).laplace(size=400) * 3 + 10, 0, 19).astype(np.int64)


def test_every_truncation_and_extension_is_refused():
    data = huffman.encode(SYMBOLS, 20)
    for size in range(len(data)):
        with pytest.raises(FileError):
            huffman.decode(data[:size], 20, SYMBOLS.size)
    for extra in (b"\x00", b"\x01\x02\x03"):
        with pytest.raises(FileError):
            huffman.decode(data + extra, 20, SYMBOLS.size)
        with pytest.raises(FileError):
            huffman.decode(huffman.encode(np.full(9, 1), 3) + extra, 3, 9)
    for count in (0, SYMBOLS.size // 2, SYMBOLS.size + 9):
        with pytest.raises(FileError):
            huffman.decode(data, 20, count)


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_flipped_bits_raise_or_give_symbols(at, bit):
    data = bytearray(huffman.encode(SYMBOLS, 20))
    data[at % len(data)] ^= 1 << bit
    try:
        decoded = huffman.decode(bytes(data), 20, SYMBOLS.size)
    except FileError:
        return
    assert decoded.shape == SYMBOLS.shape
    assert 0 <= int(decoded.min()) <= int(decoded.max()) < 20


@given(data=st.binary(max_size=60), alphabet=st.integers(1, 300), count=st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_any_bytes_raise_or_give_symbols(data, alphabet, count):
    try:
        decoded = huffman.decode(data, alphabet, count)
    except FileError:
        return
    assert decoded.shape == (count,)


def test_lengths_that_do_not_fit_together_are_refused():
    # presence 1 011; lengths 1 1 1 from 2: 011 (-1) 1 1 -> more codes than there is room for
    with pytest.raises(FileError, match="fit together"):
        huffman.decode(bytes([0b10110111, 0b10000000, 0]), 3, 8)
