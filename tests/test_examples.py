"""Every example runs, as its first lines say it is run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
TESTED = {"own_network": "test_docs", "own_loop": "", "budget": "", "own_method": "", "on_device": "", "int8": ""}


def run(name: str, *words: str | Path) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_six_short_examples_and_each_says_how_it_is_run():
    files = sorted(EXAMPLES.glob("*.py"))
    assert {file.stem for file in files} == set(TESTED)
    for file in files:
        text = file.read_text()
        assert len(text.splitlines()) < 80, file.name
        assert f"python examples/{file.name}" in text.split('"""')[1], file.name


def test_own_loop_keeps_what_was_pruned_and_shared(tmp_path):
    said = run("own_loop", "--out", tmp_path, "--epochs", "1")
    zeros = int(re.search(r"([\d,]+) weights are zero", said)[1].replace(",", ""))
    assert 239_580 <= zeros < 241_000  # 90 % of the weights, and a bias or two
    assert float(re.search(r"([\d.]+)x smaller", said)[1]) > 30


def test_own_method_leaves_one_weight_of_four(tmp_path):
    said = run("own_method", "--out", tmp_path)
    assert "3 tensors; 107,500 weights left" in said  # the first layer has rows of 25
    assert (tmp_path / "small.press").stat().st_size < 1_724_320 / 2


def test_int8_and_then_the_device_agree(tmp_path):
    said = run("int8", "--out", tmp_path, "--epochs", "2")
    simulated, real = (float(re.search(rf"{what} ([\d.]+)%", said)[1]) for what in ("integers", "without PyTorch"))
    assert abs(simulated - real) < 0.5
    assert float(re.search(r"same class on ([\d.]+)%", said)[1]) > 99.5
    told = run("on_device", tmp_path / "float.press", tmp_path / "int8.press")
    assert "PyTorch was imported: False" in told
    assert re.search(r"int8\.press +own:Network .* 4\.\dx", told)
    assert "integers: size, and speed" in told


@pytest.mark.slow
def test_budget_finds_a_network_that_costs_less(tmp_path):
    said = run("budget", "--out", tmp_path, "--trials", "3", "--epochs", "10")
    macs = re.search(r"multiply-adds ([\d,]+) -> ([\d,]+)", said)
    before, after = (int(text.replace(",", "")) for text in macs.groups())
    assert before == 2_293_000
    assert after <= 0.4 * before
    assert (tmp_path / "report.html").is_file()
