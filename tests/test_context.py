import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_context import curve, read_context, read_logistic, squash, stretch

from netpress.codec import compiled, context, context_chain, context_kernel, context_tables, logistic, sides, stored
from netpress.codec.stored import Stored, pack, restore, unpack
from netpress.errors import FileError

WAYS = (0, context.TURNED, context.GAPS, context.TURNED + context.GAPS)


@st.composite
def numbers(draw):
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    most = draw(st.sampled_from([1, 2, 7, 300, 65536]))
    values = rng.integers(-most, most, shape, endpoint=True)
    return np.where(rng.random(shape) < draw(st.sampled_from([0.01, 0.3, 1.0])), values, 0)


def trained(rng, shape=(24, 16, 3, 3)):
    """Kernels whose neighbours agree, rows and columns of unlike size."""
    smooth = rng.normal(size=shape)
    smooth[..., 1:] += 0.8 * smooth[..., :-1]
    scale = rng.gamma(1, size=(shape[0], 1, 1, 1)) * rng.gamma(1, size=(1, shape[1], 1, 1))
    return np.rint(4 * smooth * scale).clip(-30, 30).astype(int)


def sparse(rng, shape=(200, 300)):
    """Few entries, in rows and columns that hold many or none."""
    chance = 0.02 * rng.gamma(0.3, 3, (shape[0], 1)) * rng.gamma(0.3, 3, (1, shape[1]))
    return np.where(rng.random(shape) < chance, rng.choice([-2, -1, 1, 2], shape), 0)


@given(numbers(), st.sampled_from([None, *WAYS]), st.integers(0, 1))
@settings(max_examples=150, deadline=None)
def test_numbers_come_back(values, way, note):
    data = context.encode(values, note=note, ways=None if way is None else [way])
    back, bit = context.decode(data, values.shape)
    assert back.shape == values.shape
    assert np.array_equal(back, values)
    assert bit == note
    assert not data.endswith(b"\0")


@given(numbers(), st.sampled_from(WAYS))
@settings(max_examples=40, deadline=None)
def test_the_page_says_enough_to_read_them(values, way):
    data = context.encode(values, ways=[way])
    assert read_context(data, values.shape) == (values.reshape(-1).tolist(), 0)


@given(numbers(), st.sampled_from(WAYS), st.data())
@settings(max_examples=150, deadline=None)
def test_damage_raises_or_gives_other_numbers(values, way, data):
    raw = bytearray(context.encode(values, ways=[way]))
    for _ in range(data.draw(st.integers(1, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        back, _ = context.decode(bytes(raw), values.shape)
    except FileError:
        return
    assert back.shape == values.shape
    assert not back.size or np.abs(back).max() < 1 << 17


def test_bytes_of_noise_are_read_to_an_end():
    rng = np.random.default_rng(0)
    for shape in ((40,), (7, 9), (3, 4, 5, 5), (2, 2, 100)):
        for first in range(8):
            noise = bytes([first]) + rng.bytes(20_000) + b"\1"
            with pytest.raises(FileError, match="bytes expected"):
                context.decode(noise, shape)


@pytest.mark.parametrize(
    ("data", "shape", "what"),
    [
        (b"\x08", (3,), "newer version"),
        (b"\xff\x01", (3,), "newer version"),
        (b"\0", (3,), "the last not zero"),
        (b"\1\2\0", (3,), "the last not zero"),
        (b"\1\2\3", (0, 1 << 31), "3 bytes for a tensor"),
        (b"", (1 << 31,), "0 bytes for a tensor"),
        (b"\1", (1 << 14, 1 << 13), "1 bytes for a tensor"),
    ],
)
def test_what_cannot_be_is_refused(data, shape, what):
    with pytest.raises(FileError, match=what):
        context.decode(data, shape)


def test_no_bytes_are_zeros():
    assert context.encode(np.zeros((30, 40), int)) == b""
    assert not context.decode(b"", (30, 40))[0].any()
    assert context.decode(b"", (0, 1 << 31))[0].size == 0
    assert context.encode(np.zeros((3, 0), int), note=1) == b"\1"


@pytest.mark.parametrize("values", [[context.MAX_SIZE + 1], [-context.MAX_SIZE - 1, 0]])
def test_larger_numbers_are_refused(values):
    with pytest.raises(ValueError, match="up to 65536"):
        context.encode(np.array(values))


def entropy_bytes(values):
    share = np.unique(values, return_counts=True)[1] / values.size
    return -values.size * float((share * np.log2(share)).sum()) / 8


def test_neighbours_save_bytes():
    rng = np.random.default_rng(0)
    assert len(context.encode(trained(rng))) < 0.92 * entropy_bytes(trained(np.random.default_rng(0)))
    few = sparse(rng)
    assert len(context.encode(few)) < 0.85 * entropy_bytes(few)
    noise = rng.integers(-3, 4, (60, 60))
    assert len(context.encode(noise)) < 1.03 * entropy_bytes(noise) + 2  # nothing to learn costs little
    assert len(context.encode(np.full((500, 500), 5))) < 100


CASES = """
import hashlib, sys
{first}
import numpy as np
from unittest import mock
from netpress.codec import compiled, context, logistic
rng, found = np.random.default_rng(0), hashlib.sha256()
for shape in [(5, 6, 3, 3), (3, 4), (40, 30), (17,), (2, 2, 70), (4, 1, 5, 5), ()]:
    for most in (1, 5, 60000):
        values = rng.integers(-most, most, shape, endpoint=True)
        values = values * (rng.random(shape) < 0.3)
        for way in (0, 2, 4, 6):
            data = context.encode(values, ways=[way])
            assert np.array_equal(context.decode(data, shape)[0], values)
            found.update(data)
        with mock.patch.object(logistic, "fit", lambda _, dims: (9, [60, 50, -20, -9, 30, 18, -9, 20, 17, 15, *range(
            min(dims[2], 64) if dims[2] > 1 else 0)])):
            data = logistic.encode(values % 200)
        assert np.array_equal(logistic.decode(data, shape), values % 200)
        found.update(data)
print(compiled.compiler() is not None, found.hexdigest())
"""


def test_without_numba_the_bytes_are_the_same():
    def run(first):
        code = CASES.format(first=first)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    slow, fast = run("sys.modules['numba'] = None"), run("")
    assert slow[0] == "False"
    assert fast[0] == str(compiled.compiler() is not None)
    assert slow[1] == fast[1]


def test_no_table_hangs_on_a_rounding():
    """Logarithm and exponential may differ in the last bit from machine to machine."""
    share = (np.arange(4096) + 0.5) / 4096
    exact = 256 * np.log(share / (1 - share))
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6
    t = np.arange(-context_kernel.TOP, context_kernel.TOP + 1)
    exact = 65536 / (1 + np.exp(-t / 256))
    distance = np.abs(exact - np.rint(exact))
    assert np.delete(distance, context_kernel.TOP).min() > 1e-6  # at 0 it is 32,768 exactly
    table = list(context_tables.tables())
    assert table[: context_kernel.SQUASH] == [stretch(j) for j in range(4096)]
    assert table[context_kernel.SQUASH : context_kernel.SQUASH + len(t)] == [squash(int(x)) for x in t]
    digest = hashlib.sha256(np.array(table, "<i4").tobytes()).hexdigest()
    assert digest in (Path(__file__).parents[1] / "docs" / "format.md").read_text()


# --- logistic ---------------------------------------------------------------------------------------------------------


@st.composite
def dense(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from([1, 2, 7, 300, 4096]))
    low = draw(st.sampled_from([0, -count // 2, 5, -65536, 60000]))
    return np.rint(rng.beta(4, 4, shape) * (count - 1)).astype(int) + low


@given(dense())
@settings(max_examples=150, deadline=None)
def test_dense_numbers_come_back(values):
    back = logistic.decode(logistic.encode(values), values.shape)
    assert back.shape == values.shape
    assert np.array_equal(back, values)


@given(dense())
@settings(max_examples=25, deadline=None)
def test_the_page_says_enough_to_read_dense_ones(values):
    assert read_logistic(logistic.encode(values), values.shape) == values.reshape(-1).tolist()


@given(dense(), st.data())
@settings(max_examples=150, deadline=None)
def test_damage_of_dense_ones_raises_or_gives_other_numbers(values, data):
    raw = bytearray(logistic.encode(values))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        back = logistic.decode(bytes(raw), values.shape)
    except FileError:
        return
    assert back.shape == values.shape


@pytest.mark.parametrize(
    ("data", "shape", "what"),
    [
        (b"", (3,), "0 bytes"),
        (bytes(40), (0,), "40 bytes"),
        (bytes(40), (1 << 31,), "40 bytes"),
        (bytes([0, 0, 1]) + bytes(14), (3,), "newer version"),
        (bytes([1, 0, 0]) + bytes(14), (3,), "newer version"),
        (bytes([1, 0, 0x81, 0x20]) + bytes(14), (3,), "newer version"),
        (bytes([1, 0, 1]) + bytes(12), (3,), "or more expected"),
        (bytes([1, 0, 1]) + bytes(15), (3,), "or more expected"),
        (bytes([1, 0, 1]) + bytes(14), (3,), "does not end"),
    ],
)
def test_dense_streams_that_cannot_be_are_refused(data, shape, what):
    with pytest.raises(FileError, match=what):
        logistic.decode(data, shape)


def test_settings_from_strangers_do_not_make_it_slow():
    """Weights that point nowhere: a number is found in at most some thirty looks."""
    head = bytes([255, 0xFF, 0x1F, 0x80, 0x20, *[127] * 10])
    noise = np.random.default_rng(0).integers(0, 256, 60_000, np.uint8).tobytes()
    with pytest.raises(FileError, match="does not end"):
        logistic.decode(head + noise, (100, 100))


def test_dense_kernels_save_more():
    rng = np.random.default_rng(0)
    kernels = trained(rng, (48, 32, 3, 3))
    assert len(logistic.encode(kernels)) < 0.87 * entropy_bytes(kernels)
    noise = rng.integers(-3, 4, (60, 60))
    assert len(logistic.encode(noise)) < 1.12 * entropy_bytes(noise)
    with pytest.raises(ValueError, match="span at most 4096"):
        logistic.encode(np.array([0, 4096]))


def test_no_logistic_table_hangs_on_a_rounding():
    z = np.arange(-2048, 2048)
    exact = 65536 / (1 + np.exp(-z / 128))
    assert np.delete(np.abs(exact - np.rint(exact)), 2048).min() > 1e-6
    share = (np.arange(4096) + 0.5) / 4096
    exact = 128 * np.log(share / (1 - share))
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6
    table = list(logistic.tables())
    assert table[:4096] == [curve(int(x)) for x in z]
    digest = hashlib.sha256(np.array(table[:4096], "<i4").tobytes()).hexdigest()
    assert digest in (Path(__file__).parents[1] / "docs" / "format.md").read_text()


# --- chains -----------------------------------------------------------------------------------------------------------


def values_of(form, shape, rng):
    codes = rng.integers(0, 16, shape)
    if form == "signs":
        return codes % 2, None, sides.Side(np.float32([0.5]).reshape((1,) * len(shape)))
    if form == "affine":
        return codes, None, sides.Side(np.float32([0.5]).reshape((1,) * len(shape)), bits=4, zero_point=7)
    return codes, rng.normal(size=16).astype(np.float32), None


@pytest.mark.parametrize("codec", context_chain.CODERS)
@pytest.mark.parametrize("form", ["shared", "affine", "signs"])
@pytest.mark.parametrize("density", [None, 0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (9, 8), (30,), (0, 4), ()])
def test_every_form_may_be_coded(form, density, shape, codec):
    rng = np.random.default_rng(0)
    codes, table, side = values_of(form, shape, rng)
    positions = None if density is None else np.flatnonzero(rng.random(shape).reshape(-1) < density)
    kept = codes.reshape(-1) if positions is None else codes.reshape(-1)[positions]
    value = Stored(shape, form, "float32", positions, kept, table, side=side)
    packed = pack(value, codec)
    wanted = "mask+context" if positions is not None else codec if codes.size else "context"
    assert packed.chain.removesuffix("+half") == wanted
    back = unpack(packed.data, shape=shape, form=form, dtype="float32", chain=packed.chain)
    assert restore(back).tobytes() == restore(value).tobytes()
    assert (back.positions is None) == (positions is None)
    assert sum(packed.parts.values()) == len(packed.data)


def test_free_values_keep_their_mask():
    rng = np.random.default_rng(0)
    dense = sparse(rng).astype(np.float32) / 3
    value = stored.free(dense, np.flatnonzero(dense))
    packed = pack(value, "context")
    back = unpack(packed.data, shape=dense.shape, form="free", dtype="float32", chain=packed.chain)
    assert packed.chain == "mask+context"
    assert restore(back).tobytes() == dense.tobytes()
    assert len(packed.data) < len(pack(value, "rans").data)


@pytest.mark.parametrize("codec", context_chain.CODERS)
def test_tensors_without_codes_or_support_take_other_chains(codec):
    assert pack(stored.free(np.float32([0.1, 2])), codec).chain == "raw"
    assert pack(stored.free(np.array([3, 1, 2])), codec).chain == "whole+bits"


def test_auto_takes_it_where_it_is_shorter():
    rng = np.random.default_rng(0)
    dense = trained(rng)
    grid = sides.Side(np.float32([0.1]).reshape(1, 1, 1, 1), bits=8, zero_point=128)
    value = Stored(dense.shape, "affine", "float32", None, dense.reshape(-1) + 128, side=grid)
    packed = pack(value)
    assert packed.chain == "logistic"
    assert len(packed.data) < 0.9 * len(pack(value, "rans").data)
    flat = Stored((4096,), "shared", "float32", None, rng.integers(0, 16, 4096), np.float32(range(16)))
    assert pack(flat).chain == "bits+half"


def test_large_tensors_must_gain(monkeypatch):
    assert context_chain.pays(979, 1000, 100_000)
    assert not context_chain.pays(985, 1000, 100_000)
    assert not context_chain.may_pay(context.MAX_ELEMENTS + 1)
    monkeypatch.setattr(context_chain, "compiler", lambda: None)
    assert not context_chain.may_pay(1 << 20)


@pytest.mark.parametrize("codes", [[0, 1, 2], [2, 2, 1]])
def test_codes_beyond_the_table_are_found(codes):
    for coder, encode in (("context", context.encode), ("logistic", logistic.encode)):
        with pytest.raises(FileError, match="codes below 2"):
            context_chain.read(encode(np.array(codes)), 0, (3,), size=2, place="", coder=coder)
    with pytest.raises(FileError, match="for tensors with a support"):
        context_chain.read(context.encode(np.array([1, 0]), note=1), 0, (2,), size=2, place="", coder="context")


def test_the_nearest_value_to_zero_stands_for_it():
    table = np.float32([np.nan, -3, 0.5, -0.25, 8])
    assert context_chain.zero_of(table, None, support=False) == 3
    assert context_chain.zero_of(table, None, support=True) == 2
    assert context_chain.zero_of(np.float32([]), None, support=False) == 0
    assert math.prod(()) == 1
