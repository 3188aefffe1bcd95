"""`netpress diff`: what two files or two runs have in common, what not, and what cannot be compared."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from netpress import diff
from netpress.cli import main
from netpress.codec import container, stored
from netpress.codec.container import Press, Tensor
from netpress.codec.header import Arch, Header
from netpress.codec.stored import Stored
from netpress.errors import FileError

HEADER = Header(Arch("zoo", "lenet5"), (1, 28, 28), (0.1,), (0.3,), tuple("0123456789"))
W = np.arange(12, dtype=np.float32).reshape(3, 4)
RECIPE = {"network": {"name": "lenet5"}, "step": [{"method": "weight_prune", "sparsity": 0.5, "train": {"lr": 0.1}}]}


def file(path, tensors, header=HEADER):
    press = Press(header, tuple(Tensor.of(name, value) for name, value in tensors.items()))
    container.write(path, press)
    return path


def shared(codes, table, shape=(3, 4)):
    return Stored(shape, "shared", "float32", None, np.int64(codes), np.float32(table))


@pytest.fixture
def one(tmp_path):
    return file(tmp_path / "a.press", {"w": stored.free(W), "b": stored.free(np.ones(3, np.float32))})


def toml(recipe):
    step = "".join(
        "[[step]]\n"
        + "".join(f"{k} = {json.dumps(v)}\n" for k, v in s.items() if k != "train")
        # the settings of training are a table of their own, behind
        + "[step.train]\n"
        + "".join(f"{k} = {json.dumps(v)}\n" for k, v in s.get("train", {}).items())
        for s in recipe["step"]
    )
    return f'[network]\nname = "{recipe["network"]["name"]}"\n{step}'


def a_run(folder, press, recipe=RECIPE, **numbers):
    folder.mkdir()
    shutil.copy(press, folder / "model.press")
    stage = {"top1": 0.9, "top5": 1.0, "loss": 0.5, "macs": 100, "validation": {"top1": 0.8}}
    metrics = {"baseline": stage, "final": {**stage, **numbers}, "ratio": 7.5, "seed": 0, "data": {"name": "digits"}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "recipe.toml").write_text(toml(recipe))
    return folder


# --- files ---


def test_a_file_is_itself(one):
    facts = diff.compare(one, one)
    assert facts["same"]
    assert [row["same"] for row in facts["tensors"]] == [True, True]
    assert (facts["accuracy"], facts["recipe"]) == ({}, [])
    said = diff.text(facts)
    assert "the same network to the bit" in said
    assert "2 tensors are the same to the bit" in said
    assert "bytes of" not in said


def test_values_forms_and_bytes(one, tmp_path):
    others = {"w": shared(np.arange(12) % 4, [0, 1, 2, 3]), "b": stored.free(np.ones(3, np.float32))}
    two = file(tmp_path / "b.press", others)
    facts = diff.compare(one, two)
    (w, b) = facts["tensors"]
    assert not facts["same"]
    assert w["form"] == ["free", "shared 4"]
    assert w["shape"] == [[3, 4], [3, 4]]
    assert w["change"] == pytest.approx(np.linalg.norm(np.arange(12) % 4 - np.arange(12)) / np.linalg.norm(W))
    assert (b["same"], b["change"]) == (True, 0.0)
    assert [sum(pair[side] for pair in w["parts"].values()) for side in (0, 1)] == w["bytes"]
    for side, path in enumerate((one, two)):  # every byte of both files is in one line
        lines = [*facts["parts"].values(), *facts["around"].values()]
        assert sum(pair[side] or 0 for pair in lines) == path.stat().st_size == facts["totals"]["file_bytes"][side]
    said = diff.text(facts)
    assert "free -> shared 4" in said
    assert "1 tensor is the same to the bit" in said


def test_structure_and_what_only_one_has(one, tmp_path):
    edits = (("linear", "fc1", 4, 3), ("dropout", "drop", 0.3))
    arch = Arch("zoo", "lenet5", {}, edits)
    first = file(tmp_path / "x.press", {"w": stored.free(W)}, replace(HEADER, arch=arch))
    second = file(
        tmp_path / "y.press",
        {"w": stored.free(W[:2]), "extra": stored.free(W)},
        replace(HEADER, arch=replace(arch, edits=(edits[0], ("linear", "fc2", 2, 2)))),
    )
    facts = diff.compare(first, second)
    assert facts["edits"] == {"alike": 1, "a": [["dropout", "drop", 0.3]], "b": [["linear", "fc2", 2, 2]]}
    rows = {row["name"]: row for row in facts["tensors"]}
    assert rows["w"]["change"] is None
    assert rows["extra"]["shape"] == [None, [3, 4]]
    assert rows["extra"]["bytes"][0] is None
    said = diff.text(facts)
    assert "structure: the first edit is the same" in said
    assert "A only: dropout drop 0.3" in said
    assert "B only: linear fc2 2, 2" in said
    assert "- -> 3x4" in said
    assert "3x4 -> 2x4" in said


def test_one_bit_and_one_number_of_the_header_are_told(one, tmp_path):
    tiny = W.copy()
    tiny[0, 0] = -0.0
    minus = file(tmp_path / "m.press", {"w": stored.free(tiny), "b": stored.free(np.ones(3, np.float32))})
    facts = diff.compare(one, minus)
    assert (facts["tensors"][0]["same"], facts["tensors"][0]["change"]) == (False, 0.0)
    assert not facts["same"]
    header = replace(HEADER, mean=(0.2,))
    other = file(tmp_path / "n.press", {"w": stored.free(W), "b": stored.free(np.ones(3, np.float32))}, header)
    facts = diff.compare(one, other)
    assert not facts["same"]
    assert all(row["same"] for row in facts["tensors"])
    assert "mean: [0.1] -> [0.2]" in diff.text(facts)


def test_nan_makes_no_bad_json(tmp_path):
    bad = np.float32([np.nan, np.inf, 1])
    a = file(tmp_path / "a.press", {"w": stored.free(bad)})
    b = file(tmp_path / "b.press", {"w": stored.free(bad[::-1].copy())})
    facts = diff.compare(a, b)
    json.dumps(facts, allow_nan=False)
    assert facts["tensors"][0]["change"] is None


# --- runs ---


def test_two_runs(one, tmp_path):
    two = file(tmp_path / "b.press", {"w": stored.free(W), "b": stored.free(np.zeros(3, np.float32))})
    recipe = {**RECIPE, "step": [{**RECIPE["step"][0], "sparsity": 0.9}, {"method": "weight_share", "bits": 4}]}
    a, b = a_run(tmp_path / "a", one), a_run(tmp_path / "b", two, recipe, top1=0.885)
    facts = diff.compare(a, b)
    assert facts["accuracy"]["final top1"] == [0.9, 0.885]
    assert facts["accuracy"]["final validation top1"] == [0.8, 0.8]
    assert facts["totals"]["ratio"] == [7.5, 7.5]
    assert facts["recipe"] == [
        {"key": "step.0.sparsity", "a": 0.5, "b": 0.9},
        {"key": "step.1.method", "a": None, "b": "weight_share"},
        {"key": "step.1.bits", "a": None, "b": 4},
    ]
    said = diff.text(facts)
    lines = {" ".join(line.split()) for line in said.splitlines()}
    assert "final top-1 % 90 88.5 -1.5 -" in lines
    assert "step.0.sparsity 0.5 0.9" in lines
    assert "step.1.method - weight_share" in lines
    assert "step.1.bits" not in said  # of a step that one lacks, the method says enough


def test_the_same_run(one, tmp_path):
    said = diff.text(diff.compare(a_run(tmp_path / "a", one), a_run(tmp_path / "b", one)))
    assert "the same network to the bit" in said
    assert "recipe: the same" in said


# --- what cannot be compared ---


def test_what_cannot_be_compared_is_one_line(one, tmp_path):
    run = a_run(tmp_path / "run", one)
    unfinished, search, foreign = (tmp_path / name for name in ("unfinished", "search", "foreign"))
    for folder, name in ((unfinished, "run.json"), (search, "search.json"), (foreign, "thesis.txt")):
        folder.mkdir()
        (folder / name).write_text("{}")
    lacking, torn, newer = (a_run(tmp_path / name, one) for name in ("lacking", "torn", "newer"))
    (lacking / "model.press").unlink()
    (torn / "recipe.toml").write_text("[network")
    data = bytearray(one.read_bytes())
    data[8] = 99
    (newer / "model.press").write_bytes(data)
    for other, said in [
        (tmp_path / "none", "no such file or folder"),
        (one, "name two of one kind; the file of a run is"),
        (unfinished, "a run that has not finished"),
        (search, "the folder of a search: name one of its runs"),
        (foreign, "no run folder"),
        (lacking, "model.press: no such file"),
        (torn, "recipe.toml: missing or damaged"),
        (newer, "written by a newer version; update netpress"),
    ]:
        for pair in ((run, other), (other, run)):
            with pytest.raises(FileError, match=said) as caught:
                diff.compare(*pair)
            assert "\n" not in str(caught.value)


def test_pytorch_is_not_needed(one, tmp_path):
    run = a_run(tmp_path / "run", one)
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'pydantic', 'rich', 'scipy', 'safetensors'): sys.modules[name] = None\n"
        "from netpress.cli import main\n"
        f"one, run = {str(one)!r}, {str(run)!r}\n"
        "sys.exit(main(['diff', one, one]) or main(['diff', run, run, '--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("A  ")
    assert json.loads(done.stdout.splitlines()[-1])["same"]


def test_the_command_line(one, capsys):
    assert main(["diff", str(one), str(one), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True
