"""Version 2 of the file: header and graph in one stream, one checksum, lengths left out where they can be derived."""

import json
import zlib
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from test_container import HOSTILE, little_memory, small_press

from netpress import store, zoo
from netpress.candidate import Candidate, Inputs
from netpress.codec import container, header, press, small, stored
from netpress.codec.container import MAGIC, Press, Tensor, dumps, layout, loads
from netpress.codec.header import Arch, Header, Row
from netpress.codec.sides import Side
from netpress.codec.varint import write_varint
from netpress.errors import FileError
from netpress.forms import Affine, Form, project

ABOUT = Header(Arch("own", "Net"), (3, 8, 8))
SMALL = dumps(small_press())


def framed(raw, *, rest=b""):
    """A file around any header and graph, with a right checksum."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = MAGIC + b"\x02" + coder.compress(raw) + coder.flush() + rest
    return data + zlib.crc32(data).to_bytes(4, "little")


def with_kinds(raw):
    """A header of version 1 as version 2 writes it, where that can be said at all."""
    fields = json.loads(raw)
    rows = [list(row) + [0, "raw", "free", "float32"][len(row) - 2 :] for row in fields[4]]
    kinds = [[row[3], row[4], "", row[5]] for row in rows]
    fields = fields[:4] + [[row[:2] for row in rows]] + (fields[5:] + [[], {}, {}][len(fields) - 5 :])
    return json.dumps([*fields, kinds, list(range(len(rows)))]).encode()


def integers(shape, bits, step=0.1):
    side = Side(np.full([1] * len(shape), step, np.float32), (), True, bits, 1 << (bits - 1))
    return stored.Stored(shape, "affine", "float32", None, np.arange(np.prod(shape)) % (1 << bits), side=side)


def test_round_trip():
    assert SMALL[8] == 2
    assert loads(SMALL) == small_press()
    assert dumps(loads(SMALL)) == SMALL
    assert len(SMALL) < len(dumps(small_press(), version=1)) - 20


def test_every_flipped_bit_is_found():
    for index in range(8 * len(SMALL)):
        damaged = bytearray(SMALL)
        damaged[index // 8] ^= 1 << (index % 8)
        with pytest.raises(FileError), little_memory():
            loads(bytes(damaged))


def test_every_other_value_of_every_byte_is_found():
    data = dumps(Press(Header(Arch("zoo", "lenet5"), (1, 28, 28)), (Tensor.of("a", integers((4,), 8)),)))
    for at in range(len(data)):
        for value in set(range(256)) - {data[at]}:
            with pytest.raises(FileError):
                loads(data[:at] + bytes([value]) + data[at + 1 :])


def test_cut_at_every_position_and_extended():
    for end in range(len(SMALL)):
        with pytest.raises(FileError, match=r"byte \d"):
            loads(SMALL[:end])
    for more in (b"\0", SMALL, SMALL[-4:]):
        with pytest.raises(FileError, match="damaged"):
            loads(SMALL + more)


def test_large_files_name_the_damaged_tensor():
    rng = np.random.default_rng(0)
    tensors = tuple(Tensor.of(name, stored.free(rng.normal(size=9000))) for name in "ab")
    assert dumps(Press(ABOUT, tensors[:0]))[8] == 2
    data = bytearray(dumps(Press(ABOUT, tensors)))
    assert len(data) > container.SMALL_BYTES
    assert data[8] == 1
    data[-100] ^= 1
    with pytest.raises(FileError, match="tensor 'b' at byte"):
        loads(bytes(data))


def test_the_bound_is_the_size_of_the_file():
    def data_of(count):
        return dumps(Press(ABOUT, (Tensor.of("a", stored.free(np.arange(count) % 251 / 256)),)))

    sizes = {len(data): data[8] for data in map(data_of, range(8150, 8200))}
    assert all(version == (2 if size < container.SMALL_BYTES else 1) for size, version in sizes.items())
    assert set(sizes.values()) == {1, 2}
    assert dumps(Press(Header(ABOUT.arch, (1,), meta={"a": "x" * small.MAX_RAW_BYTES}), ()))[8] == 1


def test_layout_accounts_for_every_byte():
    places = layout(SMALL)
    assert [p.part for p in places if not p.tensor] == ["magic, version", "header and graph", "lengths", "checksums"]
    assert sum(place.size for place in places) == len(SMALL)
    assert [p.offset for p in places] == [0, *(p.offset + p.size for p in places)][:-1]
    found = b"".join(SMALL[p.offset : p.offset + p.size] for p in places if p.tensor == "fc.bias")
    assert found == small_press().tensors[1].data


def test_kinds_share_the_first_bytes_of_payloads():
    tensors = tuple(Tensor.of(f"layer{i}.weight", integers((5, 1 + i), 4, 0.1 + i / 7)) for i in range(30))
    data = dumps(Press(ABOUT, tensors))
    assert loads(data).tensors == tensors
    places = layout(data)
    for tensor in tensors:
        bytes_ = sum(place.size for place in places if place.tensor == tensor.name)
        assert len(tensor.data) - bytes_ == 3  # flags, bits, zero point
        assert [p.part for p in places if p.tensor == tensor.name] == ["scales", "codes"]
    assert sum(place.size for place in places) == len(data)


def test_the_largest_tensor_has_no_length():
    one = Press(ABOUT, (Tensor.of("a", integers((50, 50), 8)),))
    two = Press(ABOUT, (*one.tensors, Tensor.of("b", integers((3,), 8))))
    raw = Press(ABOUT, (Tensor.of("a", stored.free(np.float32([0.1, 0.2]))),))
    lengths = [sum(place.size for place in layout(dumps(p)) if place.part == "lengths") for p in (one, two, raw)]
    assert lengths == [0, 1, 0]


@pytest.mark.parametrize("case", sorted(set(HOSTILE) - {"lying size", "duplicate key"}))
def test_hostile_headers(case):
    raw = HOSTILE[case]
    with suppress(ValueError, KeyError, IndexError, TypeError, RecursionError):  # no header at all: as it is
        raw = with_kinds(raw)
    with pytest.raises(FileError) as caught, little_memory():
        loads(framed(raw + b"\0"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("kinds", "places", "what"),
    [
        ("[]", "[]", "0 kinds for 1"),
        ("[[]]", "[0]", "1 to 4"),
        ('[["raw"]]', "[1]", "one of 1"),
        ('[["raw"]]', "[-1]", "one of 1"),
        ('[["raw"]]', "[true]", "int"),
        ('[["raw"]]', "[0,0]", "2 kinds"),
        ('["raw"]', "[0]", "list"),
        ("[[1]]", "[0]", "str"),
        ('[["bits","signs","0"]]', "[0]", "hex"),
        ('[["bits","signs","0G"]]', "[0]", "hex"),
        (f'[["bits","signs","{"00" * 17}"]]', "[0]", "hex"),
        ('[["raw","free","","float32",0]]', "[0]", "1 to 4"),
        ('[["raw","free","","object"]]', "[0]", "newer"),
        ('[["xz","affine"]]', "[0]", "newer"),
    ],
)
def test_hostile_kinds(kinds, places, what):
    raw = f'[["own","Net"],[1],[],[],[["a",[1]]],[],{{}},{{}},{kinds},{places}]'.encode()
    with pytest.raises(FileError, match=what):
        loads(framed(raw + b"\0", rest=b"\0" * 4))


def test_the_frame_of_the_hostile_ones_is_sound():
    raw = b'[["own","Net"],[1],[],[],[["a",[1]]],[],{},{},[["raw"]],[0]]'
    assert loads(framed(raw + b"\0g", rest=b"\0" * 4)).graph == b"g"
    for rest in (b"", b"\0" * 3, b"\0" * 5):
        with pytest.raises(FileError, match="expected tensors of"):
            loads(framed(raw + b"\0", rest=rest))
    with pytest.raises(FileError, match="zero byte"):
        loads(framed(raw, rest=b"\0" * 4))
    with pytest.raises(FileError, match="8 entries"):
        loads(framed(raw.replace(b",[0]]", b"]") + b"\0", rest=b"\0" * 4))


@pytest.mark.parametrize("lengths", [b"", b"\xff", b"\x80\x00", b"\xff" * 9, b"\x05", write_varint(1 << 60)])
def test_hostile_lengths(lengths):
    raw = b'[["own","Net"],[1],[],[],[["a",[2]],["b",[2]],["c",[3]]],[],{},{},[["bits","signs"]],[0,0,0]]'
    with pytest.raises(FileError):
        loads(framed(raw + b"\0", rest=lengths))


def test_deflate_bomb():
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = MAGIC + b"\x02" + coder.compress(b" " * (64 << 20)) + coder.flush()
    with pytest.raises(FileError, match="unpacked"), little_memory(3 * small.MAX_RAW_BYTES):
        loads(bomb + press.crc(bomb))


def test_header_of_any_tensor_round_trips():
    rows = (Row("a", (3,), 4, "raw"), Row("b", (), 1, "rans", "shared"), Row("c", (2,), 9, "bits", prefix=b"\x01\xff"))
    rows += (Row("d", (2, 2), 1, "raw", dtype="int8"),)
    raw = header.dump_small(ABOUT, rows)
    assert header.parse_small(raw) == (ABOUT, tuple(replace(row, size_bytes=None) for row in rows))
    assert json.loads(raw)[8:] == [
        [["raw"], ["rans", "shared"], ["bits", "free", "01ff"], ["raw", "free", "", "int8"]],
        [0, 1, 2, 3],
    ]


@pytest.mark.parametrize(("codec", "most"), [("context", 45), ("rans", 55), ("auto", 65)])
def test_what_stands_around_the_tensors_of_lenet5(codec, most, tmp_path):
    """Guards that the exporter still writes what the dictionary holds: without it, they are 500 bytes."""
    net, forms = zoo.create("lenet5").eval(), {}
    for i, (name, parameter) in enumerate(net.named_parameters()):
        weights, bits = parameter.data, 4 + i % 3
        support = None if weights.ndim == 1 else weights.abs() > 2 * weights.std()
        step = (weights.abs().max() / (1 << (bits - 1))).reshape([1] * weights.ndim)
        forms[name] = Form(support, Affine.symmetric(step, bits))
        weights.copy_(project(forms[name], weights))
    inputs = Inputs((1, 28, 28), (0.1307,), (0.3081,))
    saved = store.save(
        Candidate(net, forms, Arch("zoo", "lenet5"), inputs, tuple("0123456789")), tmp_path / "a.press", codec=codec
    )
    print(codec, saved.overhead_bytes)
    assert saved.overhead_bytes <= most
    assert sum(sum(parts.values()) for parts in saved.parts.values()) + saved.overhead_bytes == saved.file_bytes
