import contextlib
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.codec import chains, relative_index, sides, stored, whole_numbers
from netpress.codec.stored import Stored, free, pack, restore, restored_bytes, unpack
from netpress.errors import FileError

CODECS = ("auto", "bits", "huffman", "rans", "context", "logistic")


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def read(packed, value):
    return unpack(packed.data, shape=value.shape, form=value.form, dtype=value.dtype, chain=packed.chain)


def shared(rng, shape, *, density=0.1, table=16):
    elements = math.prod(shape)
    positions = np.flatnonzero(rng.random(elements) < density)
    codes = rng.integers(0, table, len(positions))
    return Stored(shape, "shared", "float32", positions, codes, rng.normal(size=table).astype(np.float32))


@st.composite
def stores(draw):
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=4)))
    elements = math.prod(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    positions = None
    if draw(st.booleans()):
        positions = np.flatnonzero(rng.random(elements) < draw(st.sampled_from([0.0, 0.02, 0.5, 1.0])))
    count = elements if positions is None else len(positions)
    if draw(st.booleans()):
        size = draw(st.integers(1, 300)) if count else draw(st.integers(0, 3))
        table = rng.normal(size=size).astype(draw(st.sampled_from(["float16", "float32"]))).astype(np.float32)
        dtype = draw(st.sampled_from(["float32", "float16"]))
        return Stored(shape, "shared", dtype, positions, rng.integers(0, max(size, 1), count), table)
    dtype = draw(st.sampled_from(stored.DTYPES))
    raw = rng.integers(0, 256, count * np.dtype(dtype).itemsize, np.uint8)
    values = raw % 2 == 1 if dtype == "bool" else raw.view(dtype)  # floats: any bits, NaN and -0.0 among them
    return Stored(shape, "free", dtype, positions, values=values)


@given(stores(), st.sampled_from(CODECS))
@settings(max_examples=200, deadline=None)
def test_what_is_packed_is_restored_bit_for_bit(value, codec):
    packed = pack(value, codec)
    assert sum(packed.parts.values()) == len(packed.data)
    assert same(restore(read(packed, value)), restore(value))
    assert pack(value, codec) == packed


@given(stores(), st.data())
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


def test_outside_the_support_is_plus_zero_and_inside_keeps_its_sign():
    value = free(np.float32([-0.0, -0.0, 3.0]), positions=np.array([1]))
    back = restore(read(pack(value), value))
    assert np.signbit(back).tolist() == [False, True, False]


@pytest.mark.parametrize("place", ["mask", *(f"rel{b}" for b in chains.GAP_BITS)])
@pytest.mark.parametrize("form", ["free", "shared"])
@pytest.mark.parametrize("coder", chains.CODERS)
def test_every_chain_works(place, form, coder, monkeypatch):
    rng = np.random.default_rng(0)
    value = shared(rng, (20, 50), density=0.03)
    if form == "free":
        value = free(restore(value), value.positions)
    monkeypatch.setattr(chains, "places", lambda *args, **kwargs: [place])
    packed = pack(value, coder)
    assert packed.chain == f"{place}+{coder}"
    assert same(restore(read(packed, value)), restore(value))


def test_two_coders_may_share_a_chain():
    assert str(chains.parse("rel4+huffman+rans+half", "shared")) == "rel4+huffman+rans+half"
    assert str(chains.parse("rel4+rans+rans", "shared")) == "rel4+rans"


@pytest.mark.parametrize("kept", [[], [0], [999], [0, 999], [7], [8], [6, 15], list(range(1000))])
@pytest.mark.parametrize("bits", chains.GAP_BITS)
def test_gaps_at_the_edges(kept, bits):
    positions = np.array(kept, np.int64)
    symbols = relative_index.gaps(positions, bits)
    assert not len(symbols) or symbols.max() < 1 << bits
    assert relative_index.from_gaps(symbols, bits, elements=1000).tolist() == kept


def test_half_is_taken_only_where_nothing_is_lost():
    exact, not_exact = np.float32([0.5, -0.0, np.inf]), np.float32([0.5, 0.1, 0])
    assert pack(free(exact)).chain == "raw+half"
    assert len(pack(free(exact)).data) == 6
    assert pack(free(not_exact)).chain == "raw"
    assert pack(free(np.float32([1e-9, 1e9]))).chain == "raw"


@st.composite
def integers(draw):
    dtype = draw(st.sampled_from([d for d in stored.DTYPES if "int" in d]))
    limits = np.iinfo(dtype)
    low = draw(st.integers(limits.min, limits.max))
    span = draw(st.sampled_from([0, 1, 5, 300, 65535, 65536, 2**62]))
    shape = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    high = min(low + span, limits.max)
    values = rng.integers(low, high, math.prod(shape), dtype, endpoint=True)
    return free((np.sort(values) if draw(st.booleans()) else values).reshape(shape))


@given(integers(), st.sampled_from(CODECS), st.data())
@settings(max_examples=200, deadline=None)
def test_whole_numbers_come_back_or_are_found_damaged(value, codec, data):
    packed = pack(value, codec)
    assert same(restore(read(packed, value)), restore(value))
    assert len(packed.data) <= value.values.nbytes
    for place in chains.WHOLE:
        written = whole_numbers.write(value.values, place, [codec] if codec in chains.CODERS else chains.CODERS)
        if written is None:
            continue
        how = {"shape": value.shape, "form": "free", "dtype": value.dtype, "chain": f"{place}+{written[0]}"}
        assert same(restore(unpack(written[1], **how)), restore(value))
        raw = bytearray(written[1])
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        with contextlib.suppress(FileError):
            assert restore(unpack(bytes(raw), **how)).shape == value.shape


def test_an_index_that_rises_over_and_over_takes_few_bits():
    rng = np.random.default_rng(0)
    groups = [np.sort(rng.choice(400, 100, replace=False)) for _ in range(4)]
    packed = pack(free(np.concatenate(groups)))
    assert packed.chain.startswith("steps+")
    assert len(packed.data) < 4 * 100 * 4 / 8  # 4 bits an entry, of 64
    assert pack(free(np.array([3, 1, 2]))).chain == "whole+bits"
    assert pack(free(np.array([0, 1 << 16]))).chain == "raw"
    assert pack(free(np.float32([1, 2, 3]))).chain == "raw+half"
    assert pack(free(np.array([1, 2]), positions=np.array([0, 1]))).chain.startswith(("mask", "rel"))


def test_auto_is_never_larger_than_one_coder_and_near_the_entropy():
    rng = np.random.default_rng(1)
    value = shared(rng, (500, 800), density=0.08, table=32)
    sizes = {codec: len(pack(value, codec).data) for codec in CODECS}
    assert sizes["auto"] <= min(sizes.values())
    assert sizes["rans"] < sizes["huffman"] < sizes["bits"]
    n, kept = 400_000, len(value.positions)
    p = kept / n
    entropy_bytes = (n * -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) + kept * 5) / 8 + 32 * 4
    assert entropy_bytes < sizes["auto"] < 1.02 * entropy_bytes + 200


def test_large_tensors_try_only_likely_places():
    rng = np.random.default_rng(2)
    sparse = np.flatnonzero(rng.random(200_000) < 0.01)
    places = chains.places(sparse, 200_000, np.zeros(len(sparse), int), table_size=1, coders=("huffman",))
    assert len(places) == 2
    assert set(places) <= {"rel4", "rel5", "rel6", "rel7", "rel8"}  # a Huffman mask takes a bit per entry


@pytest.mark.parametrize(
    ("shape", "form", "dtype", "chain", "what"),
    [
        ((2,), "ternary", "float32", "raw", "newer version"),
        ((2,), "affine", "float32", "raw", "does not fit"),
        ((2,), "signs", "float16", "bits", "is for float32"),
        ((2,), "signs", "float32", "bits+grid", "does not fit"),
        ((2,), "free", "float32", "raw+grid", "does not fit"),
        ((2,), "free", "bfloat16", "raw", "newer version"),
        ((2,), "free", "float32", "zstd", "newer version"),
        ((2,), "free", "float32", "whole+rans", "is for integers"),
        ((2,), "free", "bool", "steps+rans", "is for integers"),
        ((2,), "shared", "int64", "steps+rans", "does not fit"),
        ((2,), "free", "int64", "whole+bits+half", "does not fit"),
        ((2,), "free", "int64", "whole+bits+bits", "does not fit"),
        ((2,), "free", "int64", "steps", "newer version"),
        ((2,), "free", "float32", "rel9+rans", "newer version"),
        ((2,), "free", "float32", "rans", "does not fit"),
        ((2,), "shared", "float32", "raw", "does not fit"),
        ((2,), "free", "float32", "mask+rans+rans", "does not fit"),
        ((1 << 16, 1 << 16), "free", "float32", "raw", "at most"),
        ((0, 10**18), "free", "float32", "raw", "at most"),
        ((1,) * 33, "free", "float32", "raw", "at most"),
    ],
)
def test_what_a_header_may_not_say(shape, form, dtype, chain, what):
    with pytest.raises(FileError, match=what):
        restored_bytes(shape, form=form, dtype=dtype, chain=chain)


@pytest.mark.parametrize(
    ("data", "form", "dtype", "chain"),
    [
        (b"\0" * 399, "free", "float32", "raw"),
        (b"\0" * 401, "free", "float32", "raw"),
        (b"\2" * 100, "free", "bool", "raw"),
        (b"\0" * 200, "free", "int16", "raw+half"),
        (b"\xff\xff\xff\x7f", "shared", "float32", "rans"),  # table of 2^28
        (b"\x80\x00", "shared", "float32", "rans"),  # length not in its shortest form
        (b"\0", "shared", "float32", "rans"),  # codes without a table
        (b"\0\0x", "free", "float32", "rel5+rans"),  # trailing byte
        (b"\xff\xff\xff\x7f\0", "free", "float32", "rel5+rans"),  # 2^28 gaps
        (b"\0\xff\x7f", "free", "float32", "rel5+rans"),  # stream longer than the data
        (b"\xff\x7f", "free", "float32", "mask+rans"),
        (b"\1\1\xff\0\0\0\0", "free", "float32", "rel8+bits"),  # a filler at the end
        (b"\1\1\xfe\0\0\0\0", "free", "float32", "rel8+bits"),  # beyond the tensor
        (b"", "shared", "float32", "rans"),
        (b"", "free", "int64", "whole+bits"),
        (b"\0", "free", "int64", "whole+bits"),
        (b"\0\0", "free", "int64", "whole+bits"),  # no number at all
        (b"\0\1x", "free", "int64", "whole+bits"),  # trailing byte
        (b"\0\x81\x80\4" + bytes(213), "free", "int64", "whole+bits"),  # a span of 65,537
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f\1", "free", "int64", "steps+bits"),  # beyond 2^61
        (b"\2\2" + bytes(13), "free", "uint8", "whole+bits"),  # -1
        (b"\xfd\3\2" + bytes(13), "free", "uint8", "whole+bits"),  # 255 and 256
        (b"\0\2" + bytes(12), "free", "int64", "whole+bits"),
        (b"\0\3" + b"\xff" * 25, "free", "int64", "steps+bits"),  # a symbol beyond the span
    ],
)
def test_lying_payloads(data, form, dtype, chain):
    tracemalloc.start()
    with pytest.raises(FileError):
        unpack(data, shape=(100,), form=form, dtype=dtype, chain=chain)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [
        Stored((2,), "free", "float32"),
        Stored((2,), "free", "float32", values=np.zeros(3, np.float32)),
        Stored((2,), "free", "float32", values=np.zeros(2)),
        Stored((2,), "free", "float32", np.array([1, 0]), values=np.zeros(2, np.float32)),
        Stored((2,), "free", "float32", np.array([0, 2]), values=np.zeros(2, np.float32)),
        Stored((2,), "shared", "float32", codes=np.array([0, 1]), table=np.float32([1])),
        Stored((2,), "shared", "float32", codes=np.array([0, 1]), table=np.zeros(2)),
        Stored((2,), "signs", "float32", values=np.zeros(2, np.float32)),
    ],
)
def test_contradictions_are_refused_before_writing(value):
    with pytest.raises(ValueError, match=r"expected|must"):
        pack(value)


@pytest.mark.parametrize("codec", ["bits", "huffman", "rans", "context", "auto"])
def test_the_last_code_of_a_narrow_type_inside_a_support(codec):
    codes = np.array([255, 131, 0], np.uint8)
    side = sides.Side(np.float32([0.5]), (), trained=False, bits=8, zero_point=128)
    tensor = Stored((6,), "affine", "float32", np.array([0, 2, 5]), codes, side=side)
    packed = pack(tensor, codec)
    back = unpack(packed.data, shape=(6,), form="affine", dtype="float32", chain=packed.chain)
    assert restore(back).tolist() == restore(tensor).tolist() == [63.5, 0.0, 1.5, 0.0, 0.0, -64.0]
