"""What a file's contents buy at run time: every form and every edit has its words, and only what is there is named."""

import json
from pathlib import Path

import pytest

from netpress import arch, gains
from netpress import inspect as inspection
from netpress.codec import container, stored
from netpress.codec.header import Arch, Header
from netpress.gains import Gain

GOLDEN = Path(__file__).parent / "golden"
PLAIN = {"form": "free", "parameters": 9, "kept": 9}


def said(tensors=(PLAIN,), edits=(), operators=()):
    return {gain.what: gain for gain in gains.gains(tensors, edits, operators)}


def test_a_plain_network_has_nothing_to_say():
    assert said() == {}


def test_every_form_has_words():
    coded = [form for form in stored.FORMS if form != "free"]
    found = said([{**PLAIN, "form": form} for form in coded])
    assert len(found) == len(coded) >= 3
    assert all(gain.where == "1 tensor" for gain in found.values())


def test_every_edit_of_a_network_has_its_kind():
    assert set(arch._EDITS) - set(gains.EDITS) == set()


@pytest.mark.parametrize(
    ("edits", "what", "where"),
    [
        ([("conv", "a", 3, 8, 1), ("norm", "n", 8), ("linear", "b", 8, 10), ("pruned", "a")], "removed", "2 layers"),
        ([("svd", "a", 4), ("svd", "b", 4), ("cp", "c", 4)], "cheaper layers", "2 svd, 1 cp"),
        ([("beside", "a"), ("beside", "b")], "branches", "2 layers"),
        ([("bias", "a"), ("identity", "n")], "folded batch norms", "1 layer"),
        ([("indexed", "n", 8), ("regrouped", "a", 4, 8), ("regrouped", "b", 4, 8)], "condensed", "2 layers"),
        ([("kernel_sums", "a", 16)], "condensed", "1 layer"),
        ([("condensed", "a", 4, 8)], "condensed", "1 layer"),
        ([("scaled", "n", 1)], "merged batch norms", "1 layer"),
    ],
)
def test_structure_is_named_once_and_counted(edits, what, where):
    (gain,) = said(edits=edits).values()
    assert gain.what.startswith(what)
    assert gain.where == where


def test_what_changes_training_only_buys_nothing():
    assert said(edits=[("dropout", "d", 0.1)]) == {}


def test_integers_are_fast_only_where_activations_are_integers_too():
    tensors = [{**PLAIN, "form": "affine"}]
    assert said(tensors, operators=("Conv", "DequantizeLinear"))["integers"].buys.startswith("size only")
    assert "speed" in said(tensors, operators=("DequantizeLinear", "QuantizeLinear"))["integers"].buys


ROUNDS = [("round", "", "input", 0, 1), ("round", "conv", "conv2d", 0, 1)]


def test_rounded_values_are_counted_beside_the_tensors():
    whole = {**PLAIN, "form": "affine", "grid_bits": 7, "shape": [3, 3]}
    gain = said([whole, whole], ROUNDS)["integers"]
    assert gain.where == "2 tensors, 2 rounded values"
    assert gain.buys.startswith("size, and speed on ONNX Runtime: in full where")
    assert said(edits=ROUNDS)["integers"].where == "0 tensors, 2 rounded values", "weights that all stayed float"


@pytest.mark.parametrize(("bits", "shape", "right"), [(7, [3, 3], True), (8, [3, 3], False), (8, [3], True)])
def test_weights_of_8_bits_are_right_on_some_processors_only(bits, shape, right):
    buys = said([{**PLAIN, "form": "affine", "grid_bits": bits, "shape": shape}], ROUNDS)["integers"].buys
    assert ("answers are right on all" in buys) == right
    assert ('weights must have 7 bits or answers are wrong: quantize with kernels = "reduced"' in buys) != right


def test_a_table_of_integers_counts_as_both():
    found = said([{**PLAIN, "form": "shared", "grid_bits": 8}], operators=("QuantizeLinear",))
    assert list(found) == ["shared values", "integers"]


def test_a_file_is_read_for_it_and_every_line_is_shown(capsys):
    facts = inspection.describe(GOLDEN / "v1-integer-network.press")
    json.dumps(facts)
    assert [gain["what"] for gain in facts["gains"]] == ["zeros", "shared values", "sign patterns", "integers"]
    assert facts["gains"][-1]["buys"].startswith("size only")  # its activations are floats
    lines = inspection.text(facts).splitlines()
    assert [str(Gain(**gain)) in lines for gain in facts["gains"]] == [True] * 4
    assert "gains" in inspection.describe(GOLDEN / "v1-small-network.press")


def test_zeros_are_those_that_are_not_stored():
    facts = inspection.describe(GOLDEN / "v1-every-chain.press")
    sparse = sum(row["kept"] < row["parameters"] for row in facts["tensors"])
    (zeros,) = (gain for gain in facts["gains"] if gain["what"] == "zeros")
    assert zeros["where"] == f"{sparse} tensors"


def test_a_graph_that_is_refused_is_still_inspected(tmp_path):
    path = tmp_path / "bad.press"
    path.write_bytes(container.dumps(container.Press(Header(Arch("own", "Bad"), (1, 8, 8)), (), b"no graph")))
    assert inspection.describe(path)["gains"] == []
