"""Relative index: the paper's example, both ways to tell fillers, round trips, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.codec import relative_index
from netpress.codec.relative_index import Gaps
from netpress.errors import FileError

BITS = st.integers(3, 8)
POSITIONS = st.one_of(
    st.sets(st.integers(0, 60)),
    st.sets(st.integers(0, 5000), max_size=30),
    st.sets(st.integers(0, 8).map(lambda j: 256 * j)),
).map(lambda found: np.array(sorted(found), np.int64))


def literal_scan(positions, bits):
    """The paper's scan, step by step: (distance, filler) pairs."""
    items, before = [], 0
    for position in positions:
        gap = position - before
        while gap > 2**bits:
            items.append((2**bits, True))
            gap -= 2**bits
        items.append((gap, False))
        before = position
    return items


def test_the_example_of_the_paper():
    gaps = relative_index.encode(np.array([1, 4, 15]), bits=3)
    values = gaps.literal(np.array([3.4, 0.9, 1.7], np.float32))
    pairs = list(zip((gaps.codes + 1).tolist(), np.round(values.astype(float), 3).tolist(), strict=True))
    assert pairs == [(1, 3.4), (3, 0.9), (8, 0.0), (3, 1.7)]
    assert relative_index.gaps(np.array([1, 4, 15]), 3).tolist() == [1, 2, 7, 3]
    assert relative_index.decode(gaps, 16).tolist() == [1, 4, 15]


@pytest.mark.parametrize(("position", "fillers"), [(8, 0), (9, 1), (16, 1), (17, 2), (24, 2)])
def test_whole_spans_take_no_filler_too_many(position, fillers):
    gaps = relative_index.encode(np.array([position]), bits=3)
    assert int(gaps.filler.sum()) == fillers
    assert int(gaps.codes[-1]) + 1 == position - 8 * fillers


def test_a_first_entry_at_index_zero_is_a_flag():
    gaps = relative_index.encode(np.array([0, 3]), bits=3)
    assert gaps.first_at_zero
    assert gaps.codes.tolist() == [0, 2]
    assert relative_index.decode(gaps, 4).tolist() == [0, 3]
    assert not relative_index.encode(np.array([1, 3]), bits=3).first_at_zero


@given(positions=POSITIONS, bits=BITS)
@settings(max_examples=200, deadline=None)
def test_round_trip_and_agreement_with_the_scan(positions, bits):
    gaps = relative_index.encode(positions, bits)
    expected = literal_scan(positions.tolist(), bits)
    distances = gaps.codes + 1
    if gaps.first_at_zero:
        distances[0] = 0
    assert list(zip(distances.tolist(), gaps.filler.tolist(), strict=True)) == expected
    size = int(positions[-1]) + 1 if positions.size else 0
    assert (relative_index.decode(gaps, size) == positions).all()
    symbols = relative_index.gaps(positions, bits)
    assert (relative_index.from_gaps(symbols, bits, elements=size) == positions).all()
    if positions.size:
        with pytest.raises(FileError, match="below"):
            relative_index.decode(gaps, size - 1)


@given(symbols=st.lists(st.integers(0, 7), max_size=20).map(lambda s: np.array(s, np.int32)), size=st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_any_gaps_give_good_positions_or_are_refused(symbols, size):
    try:
        positions = relative_index.from_gaps(symbols, 3, elements=size)
    except FileError:
        return
    assert (np.diff(positions) > 0).all()
    assert positions.size == 0 or (positions[0] >= 0 and positions[-1] < size)
    assert (relative_index.gaps(positions, 3) == symbols).all()


@pytest.mark.parametrize("positions", [[3, 3], [4, 2], [-1, 2], [0, 0]])
def test_positions_out_of_order_are_refused(positions):
    with pytest.raises(ValueError, match="ascending"):
        relative_index.encode(np.array(positions), bits=4)


@pytest.mark.parametrize("bits", [2, 9])
def test_widths_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match=r"3\.\.8 bits"):
        relative_index.encode(np.array([1]), bits=bits)
    with pytest.raises(FileError, match=r"3\.\.8 bits"):
        relative_index.decode(Gaps(np.zeros(1, np.int32), np.zeros(1, np.bool_), first_at_zero=False, bits=bits), 9)


@pytest.mark.parametrize(
    ("codes", "filler", "first_at_zero", "message"),
    [
        ([1, 8], [False, False], False, "codes 0..7"),
        ([-1], [False], False, "codes 0..7"),
        ([6, 0], [True, False], False, "for fillers"),
        ([0, 7], [False, True], False, "no entry follows"),
        ([7, 0], [True, False], True, "before index 0"),
        ([3], [False], True, "before index 0"),
        ([], [], True, "no entries"),
        ([1], [False, False], False, "marks"),
    ],
)
def test_gaps_that_no_encoder_writes_are_refused(codes, filler, first_at_zero, message):
    gaps = Gaps(np.array(codes, np.int32), np.array(filler, np.bool_), first_at_zero, 3)
    with pytest.raises(FileError, match=message):
        relative_index.decode(gaps, 1000)
