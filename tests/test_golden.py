"""Files of every released version are read for ever, and today's code still writes the newest ones to the bit."""

import hashlib
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from golden_files import FILES, FOLDER, contents, version
from independent_reader import read

from netpress.codec import container
from netpress.codec.dictionary import DICTIONARIES
from netpress.codec.onnx_bytes import OPERATORS
from netpress.codec.stored import FORMS

PATHS = sorted(FOLDER.glob("*.press"))
classic_zlib = pytest.mark.skipif(
    "ng" in zlib.ZLIB_RUNTIME_VERSION, reason="another deflate encoder may write other, equally valid bytes"
)


def test_none_is_missing():
    assert {path.stem for path in PATHS} >= set(FILES)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_contents_are_as_recorded(path):
    expected, found = json.loads(path.with_suffix(".json").read_text()), contents(path)
    logits = found.pop("logits", None), expected.pop("logits", None)
    assert found == expected
    if logits[1] is not None:
        assert np.abs(np.subtract(*logits)).max() < 1e-5


@classic_zlib
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_reading_and_writing_gives_the_same_bytes(path):
    data = path.read_bytes()
    assert container.dumps(container.loads(data), version=version(path.stem)) == data


@classic_zlib
@pytest.mark.parametrize("name", FILES)
def test_todays_code_writes_the_same_bytes(name):
    assert container.dumps(FILES[name](), version=version(name)) == (FOLDER / f"{name}.press").read_bytes()


def test_every_chain_is_among_them():
    chains = {t.chain for path in PATHS for t in container.read(path).tensors}
    coders, places = ["bits", "huffman", "rans"], ["mask", *(f"rel{b}" for b in range(3, 9))]
    assert chains >= {"raw", "raw+half", *coders, *(f"{place}+{coder}" for place in places for coder in coders)}
    assert chains >= {"bits+half", "rans+grid", *(f"{place}+rans+grid" for place in places)}
    assert chains >= {f"{place}+{coder}" for place in ("whole", "steps") for coder in coders}
    assert {t.form for path in PATHS for t in container.read(path).tensors} == set(FORMS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_reader_written_from_the_page_agrees(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    header, tensors, graph = read(path.read_bytes(), DICTIONARIES)
    assert [header[1], header[2], header[3], *header[5:]] == expected["header"]
    assert graph == container.read(path).graph
    for found, wanted in zip(tensors, expected["tensors"], strict=True):
        *about, raw = found
        same = hashlib.sha256(raw).hexdigest() if wanted[-1].startswith("sha256:") else raw.hex()
        assert [*about, same] == [*wanted[:-1], wanted[-1].removeprefix("sha256:")]


def test_the_page_tells_the_truth():
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    assert all(hashlib.sha256(each).hexdigest() in page for each in DICTIONARIES.values())
    listed = re.search(r"of these operators:\n(.*?);", page, re.DOTALL)
    assert set(listed[1].split()) == OPERATORS
    assert all(f"{len(each):,} bytes" in page for each in DICTIONARIES.values())
