import json
import struct
import time
import tracemalloc
import zlib
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from graphs import LENET5_SHAPES, lenet5
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.codec import container, header, stored
from netpress.codec.container import MAGIC, Press, Tensor, dumps, layout, loads
from netpress.codec.header import Arch, Header
from netpress.codec.varint import read_varint, write_varint
from netpress.errors import FileError


def small_press():
    rng = np.random.default_rng(0)
    positions = np.flatnonzero(rng.random(60) < 0.3)
    codes = rng.integers(0, 4, len(positions))
    weight = stored.Stored((3, 20), "shared", "float32", positions, codes, np.float32([-0.3, -0.1, 0.1, 0.3]))
    tensors = (
        Tensor.of("fc.weight", weight),
        Tensor.of("fc.bias", stored.free(rng.normal(size=3).astype(np.float32))),
        Tensor.of("steps", stored.free(np.array(7))),
    )
    about = Header(
        Arch("zoo", "toy", {"width": 3}, (("select", "fc", 0, (1, 2)), ("dropout", "", 0.5))),
        (1, 4, 5),
        mean=(0.5,),
        std=(0.25,),
        classes=("a", "ä b", ""),
        aliases={"head.weight": "fc.weight"},
        meta={"by": ["x", 1, 0.5, None, True]},
    )
    return Press(about, tensors, b"graph bytes, any")


SMALL = dumps(small_press(), version=1)
"""With a checksum per chunk; `test_small_files` has the same press with one for all."""


@contextmanager
def little_memory(limit_bytes=1_000_000):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()


def raw_file(raw_header, *, graph=b"", chunks=b"", claims=None):
    """A file around any header, with right checksums; `claims` replaces the four lengths."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = coder.compress(raw_header) + coder.flush()
    sizes = claims or (len(packed), len(raw_header), len(graph), len(graph))
    head = MAGIC + b"\x01\x01" + b"".join(write_varint(size) for size in sizes) + packed
    return head + struct.pack("<I", zlib.crc32(head)) + graph + struct.pack("<I", zlib.crc32(graph)) + chunks


def test_round_trip():
    press, back = small_press(), loads(SMALL)
    assert back == press
    assert dumps(back, version=1) == SMALL
    assert back.tensors[0].restore().tobytes() == press.tensors[0].restore().tobytes()
    assert back.tensors[2].restore() == 7


def test_empty_file_of_a_network_without_tensors():
    press = Press(Header(Arch("own", "Net"), (3, 8, 8)), ())
    assert loads(dumps(press)) == press


def test_write_and_read(tmp_path):
    size = container.write(tmp_path / "a.press", small_press())
    assert (tmp_path / "a.press").stat().st_size == size < len(SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["a.press"]
    assert container.read(tmp_path / "a.press") == small_press()
    with pytest.raises(FileError, match=r"b\.press: cannot be read"):
        container.read(tmp_path / "b.press")
    with pytest.raises(FileError, match="more than the limit"):
        container.read(tmp_path / "a.press", limit_bytes=10)


def test_layout_accounts_for_every_byte():
    places = layout(SMALL)
    assert sum(place.size for place in places) == len(SMALL)
    assert [p.offset for p in places] == [0, *(p.offset + p.size for p in places)][:-1]
    around = ["magic, version", "lengths", "header", "checksums", "graph", "checksums"]
    assert [p.part for p in places if not p.tensor] == [*around, *["checksums"] * 3]
    for tensor in small_press().tensors:
        found = b"".join(SMALL[p.offset : p.offset + p.size] for p in places if p.tensor == tensor.name)
        assert found == tensor.data


@pytest.mark.parametrize("defaults_dropped", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_lenet5_overhead_is_below_600_bytes(defaults_dropped, version):
    rng = np.random.default_rng(3)
    tensors = []
    for name, shape in LENET5_SHAPES.items():
        array = rng.normal(size=shape).astype(np.float32)
        if array.ndim == 1:
            tensors.append(Tensor.of(name, stored.free(array)))
            continue
        positions = np.flatnonzero(rng.random(array.size) < 0.08)
        codes, table = rng.integers(0, 32, len(positions)), rng.normal(size=32).astype(np.float32)
        tensors.append(Tensor.of(name, stored.Stored(shape, "shared", "float32", positions, codes, table)))
    about = Header(Arch("zoo", "lenet5"), (1, 28, 28), (0.1307,), (0.3081,))
    press = Press(about, tuple(tensors), lenet5(defaults_dropped=defaults_dropped))
    data = dumps(press, version=version)
    overhead = len(data) - sum(len(tensor.data) for tensor in tensors)
    print("LeNet-5 overhead:", overhead, "bytes")
    most = (220, 450) if version == 1 else (90, 260)
    assert overhead < most[not defaults_dropped]


def test_cut_at_every_position():
    for end in range(len(SMALL)):
        with pytest.raises(FileError, match=r"byte|tensor"):
            loads(SMALL[:end])


def test_every_flipped_bit_is_found():
    for index in range(8 * len(SMALL)):
        damaged = bytearray(SMALL)
        damaged[index // 8] ^= 1 << (index % 8)
        with pytest.raises(FileError), little_memory():
            loads(bytes(damaged))


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_header_bytes_raise_or_parse(raw):
    with suppress(FileError):
        header.parse(raw)


def test_damaged_tensor_is_named_with_its_place():
    (at,) = [place.offset for place in layout(SMALL) if place.tensor == "fc.bias"]
    damaged = bytearray(SMALL)
    damaged[at + 2] ^= 1
    with pytest.raises(FileError, match=rf"tensor 'fc\.bias' at byte {at}: damaged: checksum"):
        loads(bytes(damaged))


def test_damage_behind_a_right_checksum_is_named_too():
    tensor = Tensor("conv.weight", (8,), "free", "float32", "mask+rans", b"\xff\x01\x00", offset=123)
    with pytest.raises(FileError, match=r"tensor 'conv\.weight' at byte 123: "):
        tensor.restore()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not a .press"),
        (b"PK\x03\x04 something else", "not a .press"),
        (MAGIC.replace(b"\r\n", b"\n") + SMALL[8:], "text mode"),
        (SMALL[:8] + b"\x03" + SMALL[9:], "newer version"),
        (SMALL[:9] + b"\x02" + SMALL[10:], "newer version"),
        (SMALL + b"\0", "cut or extended"),
        (SMALL + SMALL, "cut or extended"),
        (MAGIC + b"\x01\x01" + b"\xff" * 9, "length is cut or longer"),
        (MAGIC + b"\x01\x01" + b"\x80\x00" * 4, "shortest form"),
        (MAGIC + b"\x01\x01" + write_varint(1 << 40) * 4, "at most"),
        (raw_file(b"[]", claims=(9, 1 << 22, 0, 0)), "do not fit|damaged"),
    ],
)
def test_wrong_files(data, what):
    with pytest.raises(FileError, match=what), little_memory():
        loads(data)


def test_deflate_bomb():
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(b" " * (64 << 20)) + bomb.flush()
    start = MAGIC + b"\x01\x01" + write_varint(len(packed)) + write_varint(100) + b"\0\0" + packed
    data = start + struct.pack("<I", zlib.crc32(start)) + b"\0\0\0\0"
    with pytest.raises(FileError, match="unpacked"), little_memory(200_000):
        loads(data)


def header_with(rows="[]", arch='["zoo","n"]', rest="", shape="[1]"):
    return f"[{arch},{shape},[],[],{rows}{rest}]".encode()


HOSTILE = {
    "nested deep": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 500 + b"1" + b"}" * 500,
    "many values": b"[" + b"0," * 1_000_000 + b"0]",
    "nan": header_with(rest=',[],{},{"a":NaN}'),
    "infinite": header_with(rest=',[],{},{"a":1e999}'),
    "mean": b'[["zoo","n"],[1],[1e400]]',
    "mean text": b'[["zoo","n"],[1],["0.5"]]',
    "huge integer": header_with(f'[["a",[{"9" * 5000}]]]'),
    "no list": b'{"arch":1}',
    "not json": b"[1,",
    "not utf-8": b'[["zoo","\xff"],[1]]',
    "surrogate": b'[["zoo","n"],[1],[],[],[],["\\ud800"]]',
    "duplicate key": header_with(rest=',[],{},{"a":1,"a":2}'),
    "source": header_with(arch='["pickle","n"]'),
    "path": header_with(arch='["timm","../../etc/passwd"]'),
    "url": header_with(arch='["timm","hf-hub:a/b"]'),
    "settings": header_with(arch='["zoo","n",[1]]'),
    "edit": header_with(arch='["zoo","n",{},[[1,"a"]]]'),
    "bool shape": header_with('[["a",[true]]]'),
    "negative shape": header_with('[["a",[-1]]]'),
    "negative size": header_with('[["a",[1],-4]]'),
    "float size": header_with('[["a",[1],4.0]]'),
    "nameless": header_with('[["",[1]]]'),
    "control character": header_with('[["a\\u0000b",[1]]]'),
    "long row": header_with('[["a",[1],4,"raw","free","float32",1]]'),
    "twice": header_with('[["a",[0]],["a",[0]]]'),
    "alias of nothing": header_with(rest=',[],{"b":"a"}'),
    "alias hides": header_with('[["a",[0]],["b",[0]]]', rest=',[],{"b":"a"}'),
    "extra entry": header_with(rest=",[],{},{},0"),
    "form": header_with('[["a",[1],4,"raw","affine"]]'),
    "chain": header_with('[["a",[1],4,"xz"]]'),
    "dtype": header_with('[["a",[1],4,"raw","free","object"]]'),
    "huge shape": header_with('[["a",[65536,65536],4,"raw","free","int8"]]'),
    "huge total": header_with("[" + ",".join(f'["a{i}",[2000000000],4,"mask+rans"]' for i in range(9)) + "]"),
    "expansion": header_with('[["a",[20000000],4,"mask+rans","free","bool"]]'),
    "lying size": header_with('[["a",[1],99999999,"mask+rans"]]'),
    "no data": header_with('[["a",[1000]]]'),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(case):
    with pytest.raises(FileError) as caught:
        loads(raw_file(HOSTILE[case]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("raw", [b'["' + b'\\"' * 2_000_000, b'"' * 4_000_000, b"[" * 4_000_000])
def test_hostile_text_is_refused_in_linear_time(raw):
    start = time.perf_counter()
    with pytest.raises(FileError):
        header.parse(raw)
    assert time.perf_counter() - start < 5  # a second pass per quote would take hours


@pytest.mark.parametrize("case", ["huge shape", "huge total", "expansion", "lying size", "huge integer", "no data"])
def test_hostile_sizes_allocate_nothing(case):
    data = raw_file(HOSTILE[case])
    with pytest.raises(FileError), little_memory(200_000):
        loads(data)


def test_control_headers_are_read():
    """The frame of the hostile headers is itself sound."""
    assert loads(raw_file(header_with())).header.arch.name == "n"
    crc = struct.pack("<I", zlib.crc32(b"\0" * 4))
    assert loads(raw_file(header_with('[["a",[1]]]'), chunks=b"\0" * 4 + crc)).tensors[0].name == "a"


def test_limit_bytes():
    with pytest.raises(FileError, match=r"'fc\.weight': restored size 240"):
        loads(SMALL, limit_bytes=239)


def test_what_cannot_be_read_is_not_written():
    about = Header(Arch("zoo", "toy"), (1,))
    twice = Tensor.of("a", stored.free(np.zeros(1, np.float32)))
    with pytest.raises(FileError, match="twice"):
        dumps(Press(about, (twice, twice)))
    with pytest.raises(FileError, match="JSON"):
        dumps(Press(Header(Arch("zoo", "toy", {"a": float("nan")}), (1,)), ()))
    with pytest.raises(FileError, match="source"):
        dumps(Press(Header(Arch("pickle", "toy"), (1,)), ()))
    empty = Tensor("a", (1 << 26,), "free", "float32", "mask+bits", b"")
    with pytest.raises(FileError, match="limit"):
        dumps(Press(about, (empty,)))


@given(st.integers(0, 2**62))
def test_varint(value):
    data = b"x" + write_varint(value)
    assert read_varint(data, 1) == (value, len(data))


def test_header_is_plain_json():
    about = Header(Arch("zoo", "toy", {"width": 3}, (("select", "fc", 0, (1, 2)), ("dropout", "", 0.5))), (1,))
    fields = json.loads(header.dump(about, ()))
    assert fields[0] == ["zoo", "toy", {"width": 3}, [["select", "fc", 0, [1, 2]], ["dropout", "", 0.5]]]
