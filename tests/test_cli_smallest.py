"""`compress --max-size`: trained to that size, and what is said where it cannot be."""

from __future__ import annotations

import json

import pytest
from contract import one_thread  # noqa: F401

from netpress.cli import main

TRAIN = ("epochs=8", "lr=3e-3", "batch=32")
SHORT = ["--set", "baseline.epochs=2", *(f"--set=step.0.train.{setting}" for setting in TRAIN), "--quiet"]


def test_the_file_is_as_small_as_was_asked_for(tmp_path, capsys):
    out = tmp_path / "run"
    wanted = ["compress", "lenet-300-100", "--data", "digits", "--max-size", "40kB", "--out", str(out), "--json"]
    assert main([*wanted, *SHORT]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in told["steps"]] == ["01-rate_train", "02-sort_channels"]
    assert 25_000 <= (out / "model.press").stat().st_size == told["final"]["file_bytes"] <= 40_000
    assert [verdict["met"] for verdict in told["budget"] if verdict["limit"] == "max_size"] == [True]
    assert told["final"]["top1"] > 0.8


def test_a_size_below_the_floor_is_said_in_one_line(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["compress", "lenet-300-100", "--data", "digits", "--max-size", "30B", "--out", str(out), *SHORT]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "30 bytes is below the floor of" in told[0]
    assert not out.exists()  # before anything was trained


@pytest.mark.parametrize("recipe", ["prune", "deep-compression"])
def test_another_recipe_takes_the_size_as_a_limit_only(tmp_path, capsys, recipe):
    wanted = ["compress", "lenet-300-100", "--data", "digits", "--max-size", "1kB", "--recipe", recipe]
    few = ["--set", "baseline.epochs=1", "--set", "step.0.train.epochs=0", "--quiet"]
    more = ["--set", "step.1.train.epochs=0"] if recipe == "deep-compression" else []
    assert main([*wanted, "--out", str(tmp_path / "run"), *few, *more]) == 1
    assert "budget max_size: allowed 1000" in capsys.readouterr().out
