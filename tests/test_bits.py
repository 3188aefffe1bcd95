"""Fixed-width packing, and the bit code of the tables (`netpress.codec.tables`)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.codec import bits, tables
from netpress.errors import FileError

ALPHABETS = st.one_of(st.integers(1, 300), st.integers(1, 65_536))


@given(alphabet=ALPHABETS, count=st.integers(0, 70), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_round_trip_and_layout(alphabet, count, seed):
    symbols = np.random.default_rng(seed).integers(0, alphabet, count)
    data = bits.encode(symbols, alphabet)
    width = bits.width(alphabet)
    text = "".join(format(s, f"0{width}b") for s in symbols.tolist()) if width else ""
    assert data == tables.to_bytes(text)
    assert 2 ** (width - 1) < alphabet <= 2**width or alphabet == 1
    assert (bits.decode(data, alphabet, count) == symbols).all()
    assert bits.decode(memoryview(data), alphabet, count).dtype == np.int32


def test_more_symbols_than_one_block():
    symbols = np.random.default_rng(0).integers(0, 30, bits._BLOCK * 2 + 5).astype(np.uint8)
    assert (bits.decode(bits.encode(symbols, 30), 30, symbols.size) == symbols).all()


@pytest.mark.parametrize(
    ("data", "alphabet", "count", "message"),
    [
        (b"\x4a\x00", 3, 4, "1 bytes expected"),
        (b"", 3, 4, "1 bytes expected"),
        (b"\x41", 3, 3, "zeros expected"),
        (b"\xff", 3, 4, "below 3"),
        (b"\x00", 1, 4, "0 bytes expected"),
        (b"\x00", 3, 0, "0 bytes expected"),
        (b"", 0, 0, "alphabet"),
        (b"", 65_537, 0, "alphabet"),
        (b"", 3, -1, "count"),
    ],
)
def test_damage_is_refused(data, alphabet, count, message):
    with pytest.raises(FileError, match=message):
        bits.decode(data, alphabet, count)


@pytest.mark.parametrize(
    ("symbols", "alphabet"),
    [(np.array([3]), 3), (np.array([-1]), 3), (np.array([0.5]), 3), (np.zeros((1, 1), int), 3), (np.array([0]), 0)],
)
def test_symbols_outside_the_alphabet_are_refused(symbols, alphabet):
    with pytest.raises(ValueError, match=r"symbols|alphabet"):
        bits.encode(symbols, alphabet)


@given(numbers=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 15)), max_size=30))
@settings(deadline=None)
def test_exp_golomb_round_trip(numbers):
    data = tables.to_bytes("".join(tables.golomb(v, k) for v, k in numbers))
    reader = tables.TableReader.open("test", data, alphabet=100)
    assert [reader.golomb(k) for _, k in numbers] == [v for v, _ in numbers]
    assert reader.close() == len(data)


@given(present=st.lists(st.booleans(), min_size=1, max_size=80).filter(any))
@settings(deadline=None)
def test_presence_round_trip(present):
    data = tables.to_bytes(tables.presence(np.array(present)))
    reader = tables.TableReader.open("test", data, alphabet=len(present))
    assert reader.presence(len(present)).tolist() == np.flatnonzero(present).tolist()


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"\x80", b"\x01\xff", b"\x2f"])
def test_tables_that_break_off_or_do_not_add_up_are_refused(data):
    with pytest.raises(FileError, match="table"):
        tables.TableReader.open("test", data, alphabet=4).presence(4)


def test_padding_of_a_table_must_be_zero():
    reader = tables.TableReader.open("test", b"\xa1", alphabet=4)
    reader.golomb(0)
    with pytest.raises(FileError, match="zeros expected"):
        reader.close()
