"""Quick runs of the main job on toy data: what `test_job.py` and `test_job_input.py` share."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_nets import toy_data

from netpress import job, store
from netpress.recipe import Recipe, parse

ALL = ["00-baseline", "01-weight_prune", "02-weight_prune", "03-weight_share"]
DATA = toy_data()


def recipe(**changes: Any) -> Recipe:
    plain = {
        "network": {"name": "lenet-300-100"},
        "baseline": {"epochs": 2, "lr": 0.01},
        "step": [
            {"method": "weight_prune", "sparsity": [0.5, 0.8], "train": {"epochs": 1}},
            {"method": "weight_share", "bits": 3, "train": {"epochs": 1, "lr": 1e-4}},
        ],
        "budget": {"max_drop": 50, "max_size": "10%"},
    }
    return parse({**plain, **changes})


def no_graph(*_: Any) -> tuple[bytes, list[Any], str]:
    return b"", [], "no graph in this test"


@pytest.fixture
def quick(monkeypatch) -> None:
    """Files without graphs: nothing is exported and timed, a run takes a fifth of a second."""
    monkeypatch.setattr(store, "_graph", no_graph)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_graph", no_graph)
        torch.set_num_threads(1)
        assert redone(run(out)) == ALL
        torch.set_num_threads(threads)
    return out


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    """A copy of a finished run of `recipe()`."""
    return Path(shutil.copytree(finished_once, tmp_path / "a"))


def run(out: Path, what: Recipe | None = None, *, net: Any = None, data: Any = DATA, **options: Any) -> list[str]:
    """Run and give back what the job said."""
    said: list[str] = []
    job.run(what or recipe(), net=net, data=data, out=out, options=job.Options(say=said.append, **options))
    return said


def redone(said: list[str]) -> list[str]:
    """Steps that were really run."""
    return [line.partition(":")[0] for line in said if " bytes, top-1 " in line]


def digests(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*.press"))}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}
