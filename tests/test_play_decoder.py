"""The decoder in JavaScript gives what Python's gives, bit for bit, and refuses what Python refuses."""

import base64
import hashlib
import json
import math
import shutil
import subprocess
import zlib
from pathlib import Path

import golden_files
import javascript
import numpy as np
import pytest
import test_container
import test_small_files
import test_stored
from javascript import file_case, graph_case, tensor_case

from netpress import runtime
from netpress.codec import container, onnx_bytes, sides, stored
from netpress.codec.container import MAGIC, Press, Tensor
from netpress.codec.header import Arch, Header
from netpress.codec.stored import Stored
from netpress.codec.varint import write_varint
from netpress.errors import FileError
from netpress.play import dictionaries

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.press"))
CODECS = ("auto", "bits", "huffman", "rans", "context", "logistic")


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    javascript.needed()
    return javascript.folder(tmp_path_factory.mktemp("decoder"))


def sha(data):
    return hashlib.sha256(data).hexdigest()


def little(array):
    return sha(array.astype(array.dtype.newbyteorder("<")).tobytes())


def attempt(work):
    try:
        return work()
    except FileError:
        return None


def expected(data, limit=container.DEFAULT_LIMIT_BYTES):
    """What Python makes of a file, with None for what it refuses."""
    press = attempt(lambda: container.loads(data, limit_bytes=limit))
    if press is None:
        return None
    about = press.header
    tensors = [
        [t.name, t.shape, t.form, t.dtype, t.chain, attempt(lambda t=t: little(t.restore()))] for t in press.tensors
    ]
    found = {
        "network": [about.arch.source, about.arch.name, about.arch.settings, about.arch.edits],
        "header": [about.input_shape, about.mean, about.std, about.classes, about.aliases, about.meta],
        "tensors": tensors,
        "graph": sha(press.graph),
        "model": attempt(lambda: sha(runtime._model(press))),
    }
    return wide_as_text(json.loads(json.dumps(found)))


def wide_as_text(value):
    """JSON whose whole numbers beyond 2^53 are text, as JavaScript hands them over here."""
    if isinstance(value, dict):
        return {key: wide_as_text(each) for key, each in value.items()}
    if isinstance(value, list):
        return [wide_as_text(each) for each in value]
    return str(value) if type(value) is int and abs(value) > 1 << 53 else value


def plain(answer):
    """An answer of JavaScript with None for what it refuses."""
    if isinstance(answer, dict):
        return None if "error" in answer else {key: plain(value) for key, value in answer.items()}
    return [plain(value) for value in answer] if isinstance(answer, list) else answer


def test_golden_files(where):
    assert len(GOLDEN) == len(golden_files.FILES)
    answers = javascript.decode(where, [file_case(path.read_bytes()) for path in GOLDEN])
    for path, answer in zip(GOLDEN, answers, strict=True):
        assert plain(answer) == expected(path.read_bytes()), path.name
        told = json.loads(path.with_suffix(".json").read_text())
        assert answer["network"] == told["network"]
        assert answer["header"] == told["header"]
        assert [row[:5] for row in answer["tensors"]] == [row[:5] for row in told["tensors"]]
        for row, wanted in zip(answer["tensors"], told["tensors"], strict=True):
            raw = wanted[5]
            assert row[5] == (raw[7:] if raw.startswith("sha256:") else sha(bytes.fromhex(raw))), wanted[0]


def fresh():
    """Tensors of every form, type, and place, in every coder."""
    rng = np.random.default_rng(0)
    shapes = [(), (7,), (3, 5), (4, 3, 3, 3), (2, 3, 1, 5), (0, 3), (40, 90)]
    for shape in shapes:
        elements = math.prod(shape)
        for density in (None, 0.0, 0.1, 1.0):
            positions = None if density is None else np.flatnonzero(rng.random(elements) < density)
            count = elements if positions is None else len(positions)
            table = rng.normal(size=17).astype(np.float32)
            codes = rng.integers(0, 17, count)
            yield Stored(shape, "shared", "float32", positions, codes, table)
            half = table.astype(np.float16).astype(np.float32)
            yield Stored(shape, "shared", "float16", positions, codes, half)
            yield Stored(shape, "shared", "float64", positions, codes, table * np.float32(1e-41))
            values = rng.normal(size=count).astype(np.float32)
            yield Stored(shape, "free", "float32", positions, values=values)
            yield Stored(shape, "free", "float32", positions, values=half[codes])
            axes = tuple(axis for axis in range(len(shape)) if rng.random() < 0.5)
            scale = (rng.random(sides.scale_shape(shape, axes)) + 0.1).astype(np.float32)
            yield Stored(shape, "signs", "float32", positions, rng.integers(0, 2, count), side=sides.Side(scale, axes))
            bits = int(rng.integers(2, 9))
            side = sides.Side(scale, axes, True, bits, int(rng.integers(0, 1 << bits)))
            yield Stored(shape, "affine", "float32", positions, rng.integers(0, 1 << bits, count), side=side)
            grid = sides.Side(np.float32([0.37]), (), False, 5, 11)
            on_grid = sides.values(grid, rng.integers(0, 32, 17), (17,))
            yield Stored(shape, "shared", "float32", positions, codes, on_grid, side=grid)


def typed():
    """Free tensors of every type, any bits; integers near their limits."""
    rng = np.random.default_rng(1)
    for dtype in stored.DTYPES:
        raw = rng.integers(0, 256, 60 * np.dtype(dtype).itemsize, np.uint8)
        values = raw % 2 == 1 if dtype == "bool" else raw.view(dtype)
        yield stored.free(values.reshape(3, 20))
        yield stored.free(values, np.arange(0, 60, 7))
        if "int" in dtype:
            limits = np.iinfo(dtype)
            for low in (limits.min, limits.max - 50, 0):
                yield stored.free(rng.integers(low, min(low + 50, limits.max), 400, dtype, endpoint=True))
    yield stored.free(np.cumsum(rng.integers(0, 5, 300)))


def packed(value, codec):
    found = stored.pack(value, codec)
    return {"shape": value.shape, "form": value.form, "dtype": value.dtype, "chain": found.chain}, found.data


def test_every_form_type_and_coder(where):
    cases, wanted, chains = [], [], set()
    for value in [*fresh(), *typed()]:
        for codec in CODECS:
            about, data = packed(value, codec)
            chains.add(about["chain"])
            cases.append(tensor_case(data, **about))
            wanted.append(little(stored.restore(value)))
    assert javascript.decode(where, cases) == wanted
    assert len(chains) > 25
    assert {"logistic", "mask+context+half"} <= chains


def outcome(about, data):
    back = attempt(lambda: stored.restore(stored.unpack(data, **about)))
    return None if back is None else little(back)


def damaged(about, data, rng):
    """Payloads near a good one: cut, extended, single bits and bytes changed."""
    yield data + b"\0"
    yield data[:-1]
    for _ in range(12):
        raw = bytearray(data)
        for _ in range(int(rng.integers(1, 3))):
            if raw:
                raw[int(rng.integers(0, min(len(raw), 40)))] = int(rng.integers(0, 256))
        yield bytes(raw)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a damaged table may hold what a narrow type cannot
def test_damaged_payloads_are_refused_exactly_where_python_refuses_them(where):
    rng = np.random.default_rng(2)
    cases, wanted = [], []
    for value in [*fresh(), *typed()][::2]:
        if math.prod(value.shape) > 400:
            continue
        for codec in CODECS:
            about, data = packed(value, codec)
            for bad in damaged(about, data, rng):
                cases.append(tensor_case(bad, **about))
                wanted.append(outcome(about, bad))
    answers = [plain(answer) for answer in javascript.decode(where, cases)]
    assert len(cases) > 5000
    assert 0.2 < sum(answer is None for answer in wanted) / len(wanted) < 0.9  # both happen often
    differ = [i for i, pair in enumerate(zip(answers, wanted, strict=True)) if pair[0] != pair[1]]
    assert not differ, [(cases[i], answers[i], wanted[i]) for i in differ[:3]]


def test_lying_payloads(where):
    cases = []
    for mark in test_stored.test_lying_payloads.pytestmark:
        for data, form, dtype, chain in mark.args[1] if mark.name == "parametrize" else ():
            cases.append(tensor_case(data, shape=(100,), form=form, dtype=dtype, chain=chain))
    for mark in test_stored.test_what_a_header_may_not_say.pytestmark:
        for shape, form, dtype, chain, _ in mark.args[1] if mark.name == "parametrize" else ():
            cases.append(tensor_case(b"", shape=shape, form=form, dtype=dtype, chain=chain))
    assert len(cases) > 40
    for case, answer in zip(cases, javascript.decode(where, cases), strict=True):
        assert set(answer) == {"error"}, case


def attacks():
    """The files of `test_container` and `test_small_files` that must be refused."""
    for mark in test_container.test_wrong_files.pytestmark:
        yield from (data for data, _ in mark.args[1]) if mark.name == "parametrize" else ()
    for raw in test_container.HOSTILE.values():
        yield test_container.raw_file(raw)
        yield test_small_files.framed(raw + b"\0")
    for mark in test_small_files.test_hostile_kinds.pytestmark:
        for kinds, places, _ in mark.args[1] if mark.name == "parametrize" else ():
            raw = f'[["own","Net"],[1],[],[],[["a",[1]]],[],{{}},{{}},{kinds},{places}]'.encode()
            yield test_small_files.framed(raw + b"\0", rest=b"\0" * 4)
    raw = b'[["own","Net"],[1],[],[],[["a",[2]],["b",[2]],["c",[3]]],[],{},{},[["bits","signs"]],[0,0,0]]'
    for lengths in (b"", b"\xff", b"\x80\x00", b"\xff" * 9, b"\x05", write_varint(1 << 60)):
        yield test_small_files.framed(raw + b"\0", rest=lengths)
    for version, name in ((1, "chunked"), (2, "small")):
        coder = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = coder.compress(b" " * (8 << 20)) + coder.flush()
        head = MAGIC + bytes([version])
        if name == "chunked":
            head += b"\x01" + write_varint(len(bomb)) + write_varint(100) + b"\0\0"
        start = head + bomb
        yield start + zlib.crc32(start).to_bytes(4, "little") + (b"\0" * 4 if version == 1 else b"")
    yield test_small_files.framed(b'[["own","Net"],[1],[],[],[["a",[1]]],[],{},{},[["raw"]],[0]]', rest=b"\0" * 4)


def test_attack_files_are_refused(where):
    files = list(attacks())
    assert len(files) > 90
    answers = javascript.decode(where, [file_case(data) for data in files])
    for data, answer in zip(files, answers, strict=True):
        refused = attempt(lambda data=data: container.loads(data)) is None
        assert ("error" in answer) == refused, data[:200]
        if refused:
            assert "\n" not in answer["error"]
            assert len(answer["error"]) < 300
    assert sum("error" in answer for answer in answers) > 88


@pytest.mark.parametrize("version", [1, 2])
def test_cut_flipped_and_extended_files(where, version):
    small = container.dumps(test_container.small_press(), version=version)
    files = [small[:end] for end in range(len(small))] + [small + b"\0", small + small]
    files += [small[:i] + bytes([small[i] ^ 1 << bit]) + small[i + 1 :] for i in range(len(small)) for bit in (0, 5)]
    for data, answer in zip(files, javascript.decode(where, [file_case(data) for data in files]), strict=True):
        assert "error" in answer, data


def resealed(data):
    """A damaged version 2 file whose checksum is right again: what is behind the checksum is reached."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def test_every_byte_changed_behind_a_right_checksum(where):
    small = container.dumps(test_container.small_press(), version=2)
    network = (Path(__file__).parent / "golden" / "v2-integer-network.press").read_bytes()
    files = []
    for data in (small, network):
        for at in range(8, len(data) - 4):
            files += [resealed(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]) for bit in range(8)]
    answers = javascript.decode(where, [file_case(data) for data in files])
    refused = 0
    for data, answer in zip(files, answers, strict=True):
        wanted = expected(data)
        refused += wanted is None
        assert plain(answer) == wanted, data
    assert len(files) * 0.3 < refused < len(files)


TEXTS = [
    '"\\u00e9\\n"', '"\u00a0"', '"\U0001f600"', '"\\ud83d\\ude00"', '"\x7f"', '"\u200b"', "1.0", "-0", "1e2", "01",
    "1.", "-", "Infinity", "999999999999999999", "9999999999999999999", "true", "nul", "[1,]", '{"a":1,}',
    '{"a":1 "b":2}',
    '{"__proto__":1}', '{"__proto__":1,"__proto__":2}', '"\\x"', '"\\u12g4"', '"\t"', "\ufeff1", " [ 1 , 2 ] ", "{}",
    "1E400", "-1.5e-3", '{"1":2,"0":1}', "[]]", "[", '"', '"\\',
]  # fmt: skip


def test_json_is_read_as_python_reads_it(where):
    files = [test_container.raw_file(f'[["zoo","n"],[1],[],[],[],[],{{}},{{"k":{t}}}]'.encode()) for t in TEXTS]
    files += [test_container.raw_file(f'[["zoo","n"],[1],[],[],[],[{t}]]'.encode()) for t in TEXTS]
    files += [test_container.raw_file(f'[["zoo","n"],[{t}],[{t}]]'.encode()) for t in TEXTS]
    answers = javascript.decode(where, [file_case(data) for data in files])
    found = [expected(data) for data in files]
    assert [plain(answer) for answer in answers] == found
    assert 20 < sum(one is None for one in found) < 90


def test_the_callers_limit(where):
    data = container.dumps(test_container.small_press())
    low, high = javascript.decode(where, [file_case(data, limit=239), file_case(data, limit=100_000)])
    assert "limit of 239" in low["error"]
    assert "error" not in high


def test_graphs_are_checked_as_python_checks_them(where):
    press = container.read(GOLDEN[0].parent / "v2-integer-network.press")
    good, rng, graphs = press.graph, np.random.default_rng(3), [press.graph, b"", press.graph[:-1]]
    for _ in range(1500):
        raw = bytearray(good)
        for _ in range(int(rng.integers(1, 3))):
            raw[int(rng.integers(0, len(raw)))] = int(rng.integers(0, 256))
        graphs.append(bytes(raw))
    answers = javascript.decode(where, [graph_case(data) for data in graphs])
    refused = 0
    for data, answer in zip(graphs, answers, strict=True):
        facts = attempt(lambda data=data: onnx_bytes.check(data))
        refused += facts is None
        if facts is None:
            assert "error" in answer, data
        else:
            assert answer["wanted"] == list(facts.wanted), data
            assert (answer["inputs"], answer["operators"]) == (list(facts.inputs), list(facts.operators))
    assert 300 < refused < 1450


def test_a_browser_gives_the_same(where):
    """Also where Node is the usual way: logarithms and decoders of the browser are exact too."""
    files = [path.read_bytes() for path in GOLDEN if "small" in path.name or "logistics" in path.name]
    answers = javascript.by_browser(where, [file_case(data) for data in files])
    assert [plain(answer) for answer in answers] == [expected(data) for data in files]


def test_the_dictionaries_are_pythons(where):
    if not shutil.which("node"):
        pytest.skip("no Node on this machine")
    code = "const { DICTIONARIES: d } = await import('./dictionaries.js');console.log(d[1].length, d[2].length)"
    words = ["node", "--input-type=module", "-e", code]
    told = subprocess.run(words, cwd=where, capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(len(dictionaries.DICTIONARIES[number])) for number in (1, 2)]
    assert base64.b64encode(dictionaries.DICTIONARIES[2]).decode() in dictionaries.module()


def test_saboteur_one_wrong_bit_is_seen(where):
    """The comparison itself can fail."""
    value = stored.free(np.float32([1, 2]))
    about, data = packed(value, "auto")
    (answer,) = javascript.decode(where, [tensor_case(data[:-1] + bytes([data[-1] ^ 1]), **about)])
    assert answer != little(stored.restore(value))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # some of them are beyond float16
def test_tables_converted_to_narrow_types(where):
    table = np.float32([0, -1.5, 65504, 1e-7, 6e-8, 2.98e-8, 1.0009765, 1e9, -0.0, np.inf])
    cases, wanted = [], []
    for dtype in ("float16", "float64", "float32"):
        value = Stored((10,), "shared", dtype, None, np.arange(10), table)
        about, data = packed(value, "bits")
        cases.append(tensor_case(data, **about))
        wanted.append(little(stored.restore(value)))
    assert javascript.decode(where, cases) == wanted


def test_header_of_every_kind_of_value(where):
    about = Header(Arch("own", "N", {"a": [1, 0.5, None, True, {"b": "\u00fc"}]}, (("x", "", 1),)), (1,), meta={"z": 3})
    data = container.dumps(Press(about, (Tensor.of("w", stored.free(np.arange(3))),)))
    (answer,) = javascript.decode(where, [file_case(data)])
    assert plain(answer) == expected(data)
