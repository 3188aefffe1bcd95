"""The recipes and the counts of the pattern benchmark."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from netpress.measure.effective import effective
from netpress.recipe import read

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return runpy.run_path(str(BENCHMARKS / "patterns.py"))
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("patterns_*.toml")), ids=lambda p: p.stem)
def test_the_benchmarks_recipes_are_good_and_say_how_to_run_them(path):
    assert next(iter(read(path).steps())).name == "01-pattern_binarize"
    said = path.read_text().splitlines()
    assert said[1].startswith(f"# netpress run benchmarks/{path.name} ")


def test_sepnet_bq_is_sepnet_b_and_one_step_more():
    real, both = read("sepnet-b"), read("sepnet-bq")
    assert (both.network, both.data, both.baseline) == (real.network, real.data, real.baseline)
    assert both.step[: len(real.step)] == real.step
    assert [spec.method.name for spec in both.step[len(real.step) :]] == ["quantize"]


def test_only_the_filters_inside_the_modules_are_binarized():
    factory = runpy.run_path(str(BENCHMARKS / "small_inception.py"))["build"]
    net = factory().eval()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    (step,) = (spec for spec in read(BENCHMARKS / "patterns_inception.toml").step[:1])
    step.method.check(net)
    found = [t for t, m in net.named_modules() if t.endswith("conv3x3.wide.conv")]
    counted = effective(net, r"inception\w+\.conv3x3\.wide\.conv")
    assert len(found) == 4
    assert counted.binary == sum(net.get_submodule(path).weight.numel() for path in found)


def test_counts_follow_both_rules(bench):
    stages = {
        form: {"params": 1000, "top1": top1, "file_bytes": 1} for form, top1 in (("R", 90.0), ("B", 89.0), ("BQ", 88.5))
    }
    row = {"stages": stages, "binary": {"weights": 640, "kernels": 70}}
    assert bench["counted"](row, "R") == (1000, 1000, 0.004, 0.004)
    assert bench["counted"](row, "B") == (380, 450, 4 * 380e-6, 4 * 450e-6)
    assert bench["counted"](row, "BQ") == (380, 450, pytest.approx(440e-6), pytest.approx(720e-6))
    assert bench["loss"](row, "BQ") == 1.5


def test_the_table_holds_the_runs_and_says_what_was_not_run(bench):
    rows = json.loads((ROOT / "docs" / "results" / "patterns.json").read_text())
    printed = (ROOT / "docs" / "results" / "patterns.txt").read_text()
    for row in rows:
        assert all(line in printed for line in bench["lines"](row))
    for line in bench["not_run"](rows):
        assert "not run" in line
        assert line in printed
    assert "| R, B, BQ | not run |" in bench["not_run"]([])[0]
