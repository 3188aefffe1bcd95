"""`netpress inspect` shows every byte: by tensor and part, and what stands around them."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from golden_files import FOLDER, sided, sparse, with_chain
from independent_reader import Bits

from netpress import inspect
from netpress.codec import chains, container, stored
from netpress.codec.container import Press, Tensor
from netpress.codec.header import Arch, Header
from netpress.codec.parts import PARTS, parts
from netpress.errors import FileError

GOLDEN = sorted(FOLDER.glob("*.press"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_parts_add_up_to_the_file(path):
    facts = json.loads(json.dumps(inspect.describe(path)))
    assert facts["version"] == int(path.stem[1])
    assert sum(facts["around"].values()) == facts["overhead_bytes"]
    assert sum(facts["parts"].values()) + facts["overhead_bytes"] == facts["file_bytes"] == path.stat().st_size
    for row in facts["tensors"]:
        assert sum(row["parts"].values()) == row["bytes"]
        assert set(row["parts"]) <= set(PARTS)
    names = {
        1: {"magic, version", "lengths", "header", "graph", "checksums"},
        2: {"magic, version", "lengths", "header and graph", "checksums"},
    }
    assert set(facts["around"]) <= names[facts["version"]]
    assert facts["around"]["checksums"] == (4 if facts["version"] == 2 else 8 + 4 * len(facts["tensors"]))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_lines_add_up_too(path):
    lines = inspect.text(inspect.describe(path)).split("\n\n")[1].splitlines()
    last = [line.rsplit("  ", 1)[-1].strip().replace(",", "") for line in lines[1:]]
    sizes = dict(zip((line.split("  ")[0] for line in lines[1:]), last, strict=True))
    together = [int(size) for size in last]
    at = list(sizes).index("all tensors")
    assert sum(together[:at]) == together[at]
    assert sum(together[at:-1]) == together[-1] == path.stat().st_size


@pytest.mark.parametrize("coder", chains.CODERS)
@pytest.mark.parametrize("place", ["", "mask", *(f"rel{b}" for b in chains.GAP_BITS)])
def test_parts_are_those_that_the_writer_counted(place, coder):
    values = [sided((4, 30), form, bits=bits, everywhere=not place) for form, bits in (("signs", 0), ("affine", 8))]
    values += [sided((4, 30), "shared", bits=5, everywhere=not place), *([sparse((9, 9), "free")] if place else [])]
    values += [sparse((9, 90), "shared")] if place else [stored.free(np.arange(99) * 7919 % 31)]
    for value in values:
        with mock.patch.object(chains, "places", return_value=[place]):
            packed = stored.pack(value, coder)
        found = dict.fromkeys(packed.parts, 0)
        for part in parts(Tensor("w", value.shape, value.form, value.dtype, packed.chain, packed.data)):
            found[part.coarse] += part.size
        assert found == packed.parts


def test_the_table_of_a_coder_is_told_apart():
    codes = np.arange(3000) ** 2 % 17 % 5
    for coder in ("huffman", "rans"):
        value = stored.Stored((3000,), "shared", "float32", None, codes, np.float32([1, 2, 3, 4, 5.1]))
        found = {part.name: part.size for part in parts(Tensor.of("w", value, coder))}
        assert found["table"] == 1 + 5 * 4
        # a code length or a frequency of five symbols, and one start state of rans
        assert 2 <= found["coder"] <= (4 if coder == "huffman" else 12)
        entropy = -sum(p * np.log2(p) for p in np.bincount(codes) / 3000) * 3000 / 8
        assert entropy - 8 <= found["codes"] <= 1.1 * entropy


def test_scales_hold_flags_bits_and_zero_point_unless_the_header_does():
    tensors = tuple(Tensor.of(name, sided((5, 7), "affine", bits=8, everywhere=True), "bits") for name in "abcdefgh")
    data = container.dumps(Press(Header(Arch("own", "N"), (1,)), tensors))
    assert [(part.name, part.size) for part in parts(tensors[0])] == [("scales", 7), ("codes", 35)]
    sizes = [place.size for place in container.layout(data) if place.part == "scales"]
    assert sizes in ([4] * 8, [2] * 8, [0] * 8, [])  # equal steps may go to the header as well
    assert Bits(tensors[0].data[7:]).take(8) == tensors[0].unpack().codes[0]


def test_positions_and_codes_in_one_stream_are_said_to_be(tmp_path):
    path, tensor = tmp_path / "a.press", with_chain("w", sided((9, 9), "affine", bits=4), "mask", "rans")
    container.write(path, Press(Header(Arch("own", "N"), (1,)), (tensor,)))
    assert "positions and codes are one stream" in inspect.text(inspect.describe(path))
    assert "positions" not in inspect.describe(path)["parts"]
    assert "positions and codes" not in inspect.text(inspect.describe(Path(FOLDER / "v1-long-streams.press")))


def test_damaged_payloads_are_named():
    for chain in ("rel5+rans", "mask+rans"):
        tensor = Tensor("w", (8,), "free", "int64", chain, b"\x01\x7f\x00", offset=7)
        with pytest.raises(FileError, match="'w' at byte 7"):
            parts(tensor)
