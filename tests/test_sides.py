"""Signs, integer grids and tables on a grid, as a file holds them: numpy only."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.codec import chains, sides, stored
from netpress.codec.quantized import quantized
from netpress.codec.sides import Side
from netpress.codec.stored import Stored, pack, restore, unpack
from netpress.errors import FileError

STEPS = st.floats(sides.MIN_STEP, sides.MAX_STEP, width=32) | st.sampled_from([0.25, 1.0, 0.1])
SCALES = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 0.0625, -3.0])


def read(packed, value):
    return unpack(packed.data, shape=value.shape, form=value.form, dtype=value.dtype, chain=packed.chain)


@st.composite
def sided(draw):
    """A tensor of signs, of integers, or with a table on a grid; with or without a support."""
    shape = tuple(draw(st.lists(st.integers(0, 6), min_size=1, max_size=4)))
    elements = math.prod(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    positions = None
    if draw(st.booleans()):
        positions = np.flatnonzero(rng.random(elements) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])))
    count = elements if positions is None else len(positions)
    form = draw(st.sampled_from(["signs", "affine", "shared"]))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1))))) if form != "shared" else ()
    size = (1,) if form == "shared" else sides.scale_shape(shape, axes)
    numbers = draw(st.lists(SCALES if form == "signs" else STEPS, min_size=math.prod(size), max_size=math.prod(size)))
    scale, trained = np.array(numbers, np.float32).reshape(size), draw(st.booleans())
    if form == "signs":
        return Stored(shape, form, "float32", positions, rng.integers(0, 2, count), side=Side(scale, axes, trained))
    bits = draw(st.integers(2, 8))
    side = Side(scale, axes, trained, bits, draw(st.integers(0, 2**bits - 1)))
    if form == "affine":
        return Stored(shape, form, "float32", positions, rng.integers(0, 2**bits, count), side=side)
    table = sides.values(side, rng.integers(0, 2**bits, draw(st.integers(1, 40))), (1,))
    return Stored(shape, form, "float32", positions, rng.integers(0, len(table), count), table, side=side)


@given(sided(), st.sampled_from(["auto", "bits", "huffman", "rans"]))
@settings(max_examples=200, deadline=None)
def test_what_is_packed_comes_back_with_its_scales(value, codec):
    packed = pack(value, codec)
    assert sum(packed.parts.values()) == len(packed.data)
    back = read(packed, value)
    found, expected = restore(back), restore(value)
    assert found.tobytes() == expected.tobytes()
    assert not (np.signbit(found) & (found == 0)).any()
    assert (back.codes == value.codes).all()
    for name in ("axes", "trained", "bits", "zero_point"):
        assert getattr(back.side, name) == getattr(value.side, name)
    assert back.side.scale.tobytes() == value.side.scale.tobytes()
    assert packed.chain.endswith("+grid") == (value.form == "shared")


@given(sided(), st.data())
@settings(max_examples=200, deadline=None)
def test_damage_raises_or_stays_in_bounds(value, data):
    packed = pack(value)
    raw = bytearray(packed.data)
    for _ in range(data.draw(st.integers(1, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        back = restore(unpack(bytes(raw), shape=value.shape, form=value.form, dtype=value.dtype, chain=packed.chain))
    except FileError:
        return
    assert back.shape == value.shape
    assert np.isfinite(back).all()


@pytest.mark.parametrize("place", ["mask", *(f"rel{b}" for b in chains.GAP_BITS)])
@pytest.mark.parametrize("form", ["signs", "affine", "shared"])
@pytest.mark.parametrize("coder", chains.CODERS)
def test_every_chain_works(place, form, coder, monkeypatch):
    rng = np.random.default_rng(0)
    positions = np.flatnonzero(rng.random(900) < 0.05)
    side = Side(np.float32([[0.1]]), bits=0 if form == "signs" else 4, zero_point=0 if form == "signs" else 8)
    table = None
    if form == "shared":
        side = Side(np.float32([0.1]), bits=4, zero_point=8)
        table = sides.values(side, np.array([1, 7, 8]), (1,))
    codes = rng.integers(0, 2, len(positions))
    value = Stored((30, 30), form, "float32", positions, codes, table, side=side)
    monkeypatch.setattr(chains, "places", lambda *args, **kwargs: [place])
    packed = pack(value, coder)
    assert packed.chain == f"{place}+{coder}" + "+grid" * (form == "shared")
    assert restore(read(packed, value)).tobytes() == restore(value).tobytes()


@given(sided())
@settings(max_examples=100, deadline=None)
def test_the_parts_that_a_graph_takes_give_the_same_tensor(value):
    side = value.side
    if not side.bits or len(side.axes) > 1:
        with pytest.raises(FileError, match="expected integers"):
            quantized(value)
        return
    codes, scale, zero = quantized(value)
    assert (codes.dtype, scale.dtype, zero.dtype) == (np.int8, np.float32, np.int8)
    along = tuple(len(scale) if axis in side.axes else 1 for axis in range(len(value.shape))) if side.axes else ()
    back = (codes.astype(np.int32) - zero.reshape(along)).astype(np.float32) * scale.reshape(along)
    assert back.tobytes() == restore(value).tobytes()


def test_a_filter_of_nine_signs_takes_nine_bits():
    codes = np.array([0, 1, 0, 0, 1, 0, 0, 1, 0])  # the slide's example: [-1, 1, -1] in every row
    scale = Side(np.float32([[[[0.0463556]]]]), trained=True)
    one = pack(Stored((1, 1, 3, 3), "signs", "float32", None, codes, side=scale), "bits")
    assert one.parts == {"codes": 2, "table": 1 + 4}
    assert one.data.hex() == "01" + np.float32(0.0463556).tobytes().hex() + "4900"
    many = Stored((64, 64, 3, 3), "signs", "float32", None, np.tile(codes, 4096), side=scale)
    assert len(pack(many, "bits").data) == 5 + 4096 * 9 // 8
    assert pack(many).chain != "bits"  # nine signs that repeat say little: an entropy coder finds out


def test_the_scale_of_a_kernel_is_its_own_and_short_where_that_is_exact():
    scale = np.float32([[0.5, 0.25], [1, -2]])[:, :, None, None]
    value = Stored((2, 2, 1, 1), "signs", "float32", None, np.array([1, 0, 0, 1]), side=Side(scale, (0, 1)))
    packed = pack(value, "bits")
    assert packed.chain == "bits+half"
    assert packed.data.hex() == "06" + scale.astype("<f2").tobytes().hex() + "90"
    assert restore(read(packed, value)).ravel().tolist() == [0.5, -0.25, -1, -2]


def test_integers_are_written_as_they_are():
    value = Stored(
        (4,), "affine", "float32", None, np.array([0, 8, 15, 9]), side=Side(np.float32([0.1]), (), True, 4, 8)
    )
    packed = pack(value, "bits")
    assert packed.data.hex() == "01" + "0408" + np.float32(0.1).tobytes().hex() + "08f9"
    assert (restore(read(packed, value)) == np.float32([-8, 0, 7, 1]) * np.float32(0.1)).all()


def test_a_table_on_a_grid_takes_integers():
    side = Side(np.float32([0.1]), bits=8, zero_point=128)
    table = sides.values(side, np.array([0, 128, 255]), (1,))
    value = Stored((5,), "shared", "float32", None, np.array([0, 1, 2, 2, 1]), table, side=side)
    packed = pack(value, "bits")
    assert packed.data.hex() == "03" + "000880" + np.float32(0.1).tobytes().hex() + "0080ff" + "1a40"
    assert packed.parts == {"table": 11, "codes": 2}


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_integer_of_every_step_comes_back_from_its_product(bits):
    rng = np.random.default_rng(bits)
    steps = np.float32([sides.MIN_STEP, sides.MAX_STEP, *np.exp(rng.uniform(-80, 80, 200))])
    for step in steps:
        for zero_point in (0, 1 << (bits - 1), (1 << bits) - 1):
            side = Side(np.array([step]), bits=bits, zero_point=zero_point)
            codes = np.arange(1 << bits)
            assert (sides.grid_codes(side, sides.values(side, codes, codes.shape)) == codes).all()


STEP = np.float32(0.1).tobytes()


@pytest.mark.parametrize(
    ("data", "form", "chain"),
    [
        (b"", "signs", "bits"),
        (b"\4" + STEP, "signs", "bits"),  # scales along an axis that is not there
        (b"\2" + STEP, "signs", "bits"),  # 100 scales announced
        (b"\0\0\0\xc0\x7f" + bytes(13), "signs", "bits"),  # a scale of NaN
        (b"\0\0\0\x80\x7f" + bytes(13), "signs", "bits"),  # of infinity
        (b"\0" + STEP + bytes(12), "signs", "bits"),  # a byte is missing
        (b"\0\1\0" + STEP + bytes(13), "affine", "bits"),  # one bit
        (b"\0\x09\0" + STEP + bytes(113), "affine", "bits"),  # nine
        (b"\0\2\4" + STEP + bytes(25), "affine", "bits"),  # zero point out of range
        (b"\0\2\2" + bytes(4) + bytes(25), "affine", "bits"),  # step 0
        (b"\0\2\2" + np.float32(-0.1).tobytes() + bytes(25), "affine", "bits"),
        (b"\0\2\2" + np.float32(1e-38).tobytes() + bytes(25), "affine", "bits"),
        (b"\0\2\2" + np.float32(1e36).tobytes() + bytes(25), "affine", "bits"),
        (b"\0\2", "affine", "bits"),
        (b"\xff\xff\x03", "shared", "bits+grid"),
        (b"\xff\xff\x03\0\2\2" + STEP, "shared", "bits+grid"),  # 65,535 entries in no bytes
        (b"\1\2\2\2" + STEP + b"\0", "shared", "bits+grid"),  # steps along an axis
        (b"\1\0\2\2" + STEP + b"\1", "shared", "bits+grid"),  # padding that is not zero
        (b"\xff\xff\xff\x7f\0\2\2" + STEP, "shared", "bits+grid"),
    ],
)
def test_lying_payloads(data, form, chain):
    tracemalloc.start()
    with pytest.raises(FileError):
        unpack(data, shape=(100,), form=form, dtype="float32", chain=chain)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


CODES = np.array([0, 1])


@pytest.mark.parametrize(
    "value",
    [
        Stored((2,), "signs", "float32", codes=CODES),
        Stored((2,), "signs", "float32", codes=CODES, side=Side(np.float32(1))),
        Stored((2,), "signs", "float32", codes=CODES, side=Side(np.float32([1, 2]))),
        Stored((2,), "signs", "float32", codes=CODES + 1, side=Side(np.float32([1]))),
        Stored((2,), "signs", "float32", codes=CODES, side=Side(np.float32([np.nan]))),
        Stored((2,), "signs", "float32", codes=CODES, side=Side(np.float32([1]), bits=3)),
        Stored((2,), "signs", "float32", codes=CODES, side=Side(np.ones(1))),
        Stored((2,), "signs", "float16", codes=CODES, side=Side(np.float32([1]))),
        Stored((2,), "affine", "float32", codes=CODES, side=Side(np.float32([1]))),
        Stored((2,), "affine", "float32", codes=CODES + 3, side=Side(np.float32([1]), bits=2, zero_point=2)),
        Stored((2,), "affine", "float32", codes=CODES, side=Side(np.float32([0]), bits=2, zero_point=2)),
        Stored((2,), "affine", "float32", codes=CODES, side=Side(np.float32([1, 1]), (1,), bits=2)),
        Stored((2,), "affine", "float32", codes=CODES, side=Side(np.float32([1]), bits=9)),
        Stored((2,), "free", "float32", values=np.float32([0, 1]), side=Side(np.float32([1]))),
        Stored((2,), "shared", "float32", None, CODES, np.float32([0, 0.3]), side=Side(np.float32([1]), bits=8)),
        Stored((2,), "shared", "float32", None, CODES, np.float32([0, np.inf]), side=Side(np.float32([1]), bits=8)),
        Stored((2,), "shared", "float32", None, CODES, np.float32([0, 1]), side=Side(np.float32([1]))),
    ],
)
def test_contradictions_are_refused_before_writing(value):
    with pytest.raises(ValueError, match=r"expected|must|is for"):
        pack(value)


def test_the_forms_of_before_have_no_side():
    packed = pack(stored.free(np.float32([1, 2])))
    assert unpack(packed.data, shape=(2,), form="free", dtype="float32", chain=packed.chain).side is None
