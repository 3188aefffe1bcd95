"""What the benchmarks of condensing in training and of a long tail say of runs, and of runs that are missing."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from netpress.recipe import read

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def loaded(name):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return runpy.run_path(str(BENCHMARKS / f"{name}.py"))
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def ladder():
    return loaded("condense_ladder")


@pytest.fixture(scope="module")
def tail():
    return loaded("long_tail")


def write(folder, metrics, recipe=""):
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "recipe.toml").write_text(recipe)
    return folder


def row(run, top1, **more):
    found = {"run": run, "activation": "relu", "loss": "cross_entropy", "p": None, "cardinality": None, "macs": 9}
    return found | {"params": 9, "checkpoint_bytes": 9, "file_bytes": 3, "top1": top1, "validation": top1} | more


def test_the_checkpoint_of_condensenet_86_is_the_printed_one(ladder):
    params, size = ladder["checkpoint"]("condensenet-86", {})
    assert params == 1_451_594
    assert round(size / 1e6, 1) == 16.7


def test_every_row_of_the_ladder_has_all_columns_and_its_difference(ladder):
    by = {one["run"]: one for one in (row("condensenet", 60.0), row("condensenext-relu", 58.5), row("paper", 70.0))}
    rows = ladder["ladder"](by)
    assert len(rows) == len(ladder["RUNS"])
    assert {line.count("|") for line in rows} == {16}
    assert rows[1].endswith("| condensenet | -1.50 | -1.17 |")
    assert rows[4].startswith("| paper-relu | its equations: kernels pruned | not run |")
    assert ladder["difference"](by, "paper") is None, "what it is compared with was not run"
    assert all(other is None or other in ladder["RUNS"] for _, other, _ in ladder["RUNS"].values())


def test_a_run_is_read_and_other_folders_are_passed_over(ladder, tmp_path):
    final = {"params": 5, "macs": 6, "file_bytes": 7, "top1": 0.5, "validation": {"top1": 0.4}, "sha256": "ab"}
    record = {"method": "condense_kernels", "settings": {"p": 4, "cardinality": None}}
    train = {"loss": "cross_entropy", "epochs": 5, "precision": "bf16-mixed"}
    step = {"records": [record], "train": train, "history": []}
    metrics = {"steps": [step], "final": final, "seed": 0, "date": "2026-01-01", "machine": {}}
    recipe = '[network]\nname = "condensenext"\n[network.settings]\nvariant = "paper"\nform = "training"\n'
    recipe += "stages = [4, 4, 4]\ngrowth = [8, 8, 8]\n"
    found = ladder["collect"](write(tmp_path / "paper", metrics, recipe))
    assert (found["p"], found["cardinality"], found["activation"]) == (4, "outputs", "relu6")
    assert found["checkpoint_bytes"] == 2_585_496
    assert ladder["collect"](write(tmp_path / "other", metrics)) == {}
    (tmp_path / "paper" / "metrics.json").unlink()
    assert ladder["collect"](tmp_path / "paper") == {}


def test_the_recall_of_each_class_comes_from_the_confusion_of_the_run(tail, tmp_path):
    final = {"seconds": 60, "train": {"epochs": 1}, "top1": 0.75, "validation": {"top1": 0.7}, "sha256": "ab"}
    metrics = {"final": final, "network": "n", "seed": 0, "date": "d", "machine": {}, "classes": ["a", "b"]}
    metrics["data"] = {"name": "toy?imbalance=100", "note": "toy; long-tailed: by class 5,000, 50"}
    metrics["changed"] = {"confusion": [[4, 0], [2, 2]]}
    plain = tail["collect"](write(tmp_path / "lt-ce", metrics))
    assert (plain["images"], plain["recall"]) == ([5000, 50], [100, 50])
    by = {"lt-ce": plain, "lt-focal": plain | {"run": "lt-focal", "top1": 78.0, "recall": [96, 60]}}
    lost = " | not run" * 3 + " |"
    assert tail["recalls"](by) == [f"| a | 5,000 | 100.0 | 96.0{lost}", f"| b | 50 | 50.0 | 60.0{lost}"]
    assert {line.count("|") for line in tail["lines"](by)} == {11}
    assert "| +3.00 | 96.00 | 60.00 |" in tail["lines"](by)[1]
    assert all(claim.holds for claim in tail["claims"](by))
    assert tail["recalls"]({}) == []


@pytest.mark.parametrize(("name", "loss"), [("long_tail", "cross_entropy"), ("condensenext_paper", None)])
def test_the_recipes_are_good(name, loss):
    recipe = read(BENCHMARKS / f"{name}.toml")
    assert loss is None or recipe.baseline.loss == loss
    assert [step.method.name for step in recipe.steps()] == ([] if loss else ["condense_kernels"])
