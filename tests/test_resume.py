"""A run that is killed at any moment and started again ends in the same bytes as an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RECIPE = {
    "network": {"name": "lenet5", "settings": {"dropout": 0.3}},
    "data": {"name": "digits"},
    "baseline": {"epochs": 3, "lr": 0.01, "optimizer": "sgd", "shift": 1, "patience": 2},
    "step": [
        {
            "method": "weight_prune",
            "sparsity": [0.5, 0.8],
            "adjust_dropout": True,
            "train": {"epochs": 2, "distill": 0.5, "weight_decay": 0.01},
        },
        {"method": "weight_share", "bits": 3, "init": "forgy", "train": {"epochs": 3, "patience": 1, "lr": 1e-4}},
    ],
}
SMALL = {
    "network": {"name": "lenet-300-100"},
    "data": {"name": "digits"},
    "baseline": {"epochs": 1},
    "step": [
        {"method": "weight_prune", "sparsity": 0.8, "train": {"epochs": 1}},
        {"method": "weight_share", "bits": 2, "train": {"epochs": 1}},
    ],
}


class Server:
    """`interrupted.py`: runs recipes in processes that it kills."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0
        script = Path(__file__).with_name("interrupted.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def new(self) -> Path:
        self.runs += 1
        return self.folder / f"run{self.runs}"

    def run(self, out: Path, recipe: Any, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"out": str(out), "recipe": recipe, **order}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert not answer["failed"]
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("runs"))
    yield server
    server.process.stdin.close()
    server.process.wait(timeout=60)


def files(out: Path) -> dict[str, str]:
    """SHA-256 of every `.press` file of a run, once nothing temporary is left."""
    assert [str(p) for p in out.rglob(".*")] == []
    assert [str(p) for p in out.rglob("checkpoint*")] == []
    for name in ("metrics.json", "run.json"):
        assert json.loads((out / name).read_text())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*.press"))}


@pytest.fixture(scope="module")
def undisturbed(server) -> tuple[dict[str, str], float]:
    out = server.new()
    answer = server.run(out, RECIPE)
    found = files(out)
    assert len(found) == 5
    assert len(set(found.values())) == 4  # model.press is the last step's
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.press")}
    server.run(out, RECIPE)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.press")} == stamps, "finished steps were done again"
    return found, answer["seconds"]


def until_done(server: Server, out: Path, recipe: Any) -> None:
    assert not server.run(out, recipe)["killed"]


def kill_at_random(server: Server, recipe: Any, undisturbed: tuple[dict[str, str], float], kills: int) -> int:
    """Kill runs at random moments, at most four times each, then let each finish; how often it really hit."""
    (expected, seconds), rng, hits = undisturbed, random.Random(kills), 0
    while hits < kills:
        out, this_run = server.new(), 0
        while this_run < 4 and hits < kills:
            if not server.run(out, recipe, kill_after_s=rng.uniform(0.02, 0.6 * seconds))["killed"]:
                break
            this_run += 1
            hits += 1
        until_done(server, out, recipe)
        assert files(out) == expected
    return hits


@pytest.mark.slow
def test_a_fresh_interpreter_writes_the_same_files(small, tmp_path):
    code = (
        "import sys, json, torch; torch.set_num_threads(1)\n"
        "from netpress import job; from netpress.recipe import parse\n"
        "job.run(parse(json.loads(sys.argv[1])), out=sys.argv[2])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, json.dumps(SMALL), str(tmp_path / "out")]
    subprocess.run(command, check=True, env=environment)
    assert files(tmp_path / "out") == small[0]


@pytest.mark.slow
def test_another_seed_writes_other_files(server, undisturbed):
    out = server.new()
    server.run(out, RECIPE, seed=1)
    assert not set(files(out).values()) & set(undisturbed[0].values())


def test_three_kills(server, small):
    assert kill_at_random(server, SMALL, (small[0], small[2]), kills=3) == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills(server, undisturbed):
    assert kill_at_random(server, RECIPE, undisturbed, kills=20) == 20


@pytest.fixture(scope="module")
def small(server) -> tuple[dict[str, str], int, float]:
    out = server.new()
    answer = server.run(out, SMALL)
    return files(out), answer["renames"], answer["seconds"]


def kill_at_rename(server: Server, small: tuple[dict[str, str], int, float], fault: tuple[str, int]) -> None:
    out = server.new()
    assert server.run(out, SMALL, fault=fault)["killed"], fault
    until_done(server, out, SMALL)
    assert files(out) == small[0], fault


def test_there_are_many_renames(small):
    # run.json, recipe.toml; checkpoint, candidate, three coders, history, metrics per stage; model, onnx, metrics
    assert small[1] >= 2 + 3 * 7 + 3


@pytest.mark.parametrize("fault", [("before", 1), ("after", 10)])
def test_killed_at_a_rename(server, small, fault):
    kill_at_rename(server, small, fault)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_before_and_after_every_rename(server, small):
    for n in range(1, small[1] + 1):
        for side in ("before", "after"):
            kill_at_rename(server, small, (side, n))
