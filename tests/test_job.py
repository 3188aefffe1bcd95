"""The main job: what a run folder holds, what an edited recipe reuses, what is refused, what a full disk leaves."""

# ruff: noqa: F811  (fixtures are imported by name)
from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contract
import onnx
import pytest
import torch
from contract import one_thread  # noqa: F401
from jobs import ALL, DATA, digests, finished, finished_once, quick, recipe, redone, run, snapshot  # noqa: F401
from toy_nets import KINDS, toy_candidate, toy_data

from netpress import atomic, job, store
from netpress.data import Data, build
from netpress.errors import FileError, RecipeError
from netpress.runtime import Session

# --- what a run gives ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Iterator[tuple[Path, job.Run]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "whole"
    yield out, job.run(recipe(), data=DATA, out=out)
    torch.set_num_threads(threads)


def test_the_folder_holds_what_the_design_says(whole):
    out, _ = whole
    steps = ["00-baseline", "01-weight_prune", "02-weight_prune", "03-weight_share"]
    assert sorted(p.name for p in out.iterdir() if p.is_dir() and p.name[0].isdigit()) == steps
    for name in ("recipe.toml", "model.press", "model.onnx", "metrics.json", "log.jsonl", "run.json"):
        assert (out / name).stat().st_size > 0
    for step in steps:
        assert {p.name for p in (out / step).iterdir()} == {"candidate.press", "metrics.json", "history.csv"}
    assert (out / "model.press").read_bytes() == (out / steps[-1] / "candidate.press").read_bytes()
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events].count("done") == 4
    assert [e["event"] for e in events].count("epoch") == 5
    assert events[-1]["event"] == "finished"


def test_the_numbers_are_those_of_the_files(whole):
    out, done = whole
    m = json.loads((out / "metrics.json").read_text())
    assert m == done.metrics
    wanted = {"params", "nonzero", "macs", "file_bytes", "top1", "top5", "loss", "seconds", "split", "validation"}
    for row in (m["baseline"], *m["steps"], m["final"]):
        assert wanted <= set(row)
        assert row["split"] == "test"
        assert row["file_bytes"] == (out / row["name"] / "candidate.press").stat().st_size
        assert 0 <= row["top1"] <= row["top5"] <= 1
        assert min(row["coded"].values()) >= row["file_bytes"] - 8
    assert m["baseline"]["nonzero"] == m["baseline"]["params"] > m["steps"][0]["nonzero"] > m["final"]["nonzero"]
    assert m["ratio"] == pytest.approx(4 * m["baseline"]["params"] / (out / "model.press").stat().st_size)
    assert {v["limit"]: v["met"] for v in m["budget"]} == {"max_drop": True, "max_size": True}
    assert m["final"]["layers"][0]["kept"] == 64 * 300 - round(0.8 * 64 * 300)
    assert done.met
    assert m["speedup"]["threads"] == torch.get_num_threads()
    first, *others = (row for row in m["speedup"]["settings"] if row["threads"] == torch.get_num_threads())
    assert {key: m["speedup"][key] for key in ("baseline_ms", "final_ms", "median", "q1", "q3", "batch")}.items() <= (
        first.items()
    )
    assert [row["batch"] for row in others] == [32]
    assert sum(map(sum, m["changed"]["confusion"])) == len(DATA.test)


def test_the_file_without_pytorch_reaches_the_same_accuracy(whole):
    out, done = whole
    answers = Session(out / "model.press", threads=1).run(DATA.test.images.numpy())
    assert (answers.argmax(1) == DATA.test.labels.numpy()).mean() == done.metrics["final"]["top1"]
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert contract.broken(done.candidate) == []
    assert done.candidate.traits == {"support", "shared"}


def test_the_written_recipe_gives_the_same_run(whole, tmp_path):
    out, _ = whole
    job.run(out / "recipe.toml", data=DATA, out=tmp_path / "again")
    assert digests(tmp_path / "again") == digests(out)


@pytest.mark.parametrize("kind", KINDS)
def test_own_networks_run(kind, tmp_path, quick):
    net = toy_candidate(kind).net
    earlier = contract.state(net)
    steps = [
        {"method": "weight_prune", "sparsity": 0.5, "adjust_dropout": True, "train": {"epochs": 2, "distill": 0.5}},
        {"method": "weight_share", "bits": 4, "train": {"epochs": 1}},
    ]
    done = job.run(recipe(network=None, step=steps), net=net, data=DATA, out=tmp_path / "a")
    assert contract.state(net) == earlier
    assert contract.broken(done.candidate) == []
    assert type(done.candidate.net) is KINDS[kind]
    back = store.load(tmp_path / "a" / "model.press", into=KINDS[kind]())
    assert contract.state(back.net) == contract.state(done.candidate.net)


def test_zero_epochs_and_no_steps(tmp_path, quick):
    done = job.run(recipe(step=[], budget={}), data=DATA, out=tmp_path / "a")
    assert done.metrics["steps"] == []
    assert done.metrics["final"]["name"] == "00-baseline"
    assert done.met


def test_a_missed_budget_is_told(tmp_path, quick):
    done = job.run(recipe(budget={"max_size": "10B"}), data=DATA, out=tmp_path / "a")
    assert not done.met
    assert done.metrics["budget"][0]["measured"] == done.metrics["final"]["file_bytes"]


# --- going on, editing ---


PRUNE = {"method": "weight_prune", "sparsity": [0.5, 0.8], "train": {"epochs": 1}}
SHARE = {"method": "weight_share", "bits": 3, "train": {"epochs": 1, "lr": 1e-4}}
EDITS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, []),
    "title": ({"title": "other"}, []),
    "budget": ({"budget": {"max_drop": 1}}, []),
    "last step": ({"step": [PRUNE, {**SHARE, "bits": 2}]}, ALL[3:]),
    "last training": ({"step": [PRUNE, {**SHARE, "train": {"epochs": 2}}]}, ALL[3:]),
    "second round": ({"step": [{**PRUNE, "sparsity": [0.5, 0.7]}, SHARE]}, ALL[2:]),
    "first round": ({"step": [{**PRUNE, "sparsity": [0.4, 0.8]}, SHARE]}, ALL[1:]),
    "baseline": ({"baseline": {"epochs": 1, "lr": 0.01}}, ALL),
    "one step more": ({"step": [PRUNE, SHARE, {**SHARE, "bits": 2}]}, ["04-weight_share"]),
    "one step less": ({"step": [PRUNE]}, []),
    "other order": ({"step": [SHARE, PRUNE]}, ["01-weight_share", "02-weight_prune", "03-weight_prune"]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_recipe_redoes_from_the_first_change(edit, finished, tmp_path, quick):
    (changes, expected), out = EDITS[edit], finished
    edited = recipe(**changes)
    said = run(out, edited)
    assert redone(said) == expected
    if expected and (out / expected[0]).name in ALL:
        assert f"{expected[0]}: settings or input changed, redone" in said or edit == "other order"
    fresh = tmp_path / "fresh"
    run(fresh, edited)
    assert digests(out) == digests(fresh)
    names = ["00-baseline", *(s.name for s in edited.steps())]
    assert sorted(p.name for p in out.iterdir() if p.name[0].isdigit()) == names
    last = (out / names[-1] / "candidate.press").read_bytes()
    assert (out / "model.press").read_bytes() == last
    assert json.loads((out / "metrics.json").read_text())["final"]["name"] == names[-1]


@pytest.mark.parametrize("change", ["seed", "threads", "precision"])
def test_what_changes_the_numbers_redoes_everything(change, finished, quick):
    if change == "threads":
        torch.set_num_threads(2)  # the fixture puts it back
    options = {"seed": {"seed": 1}, "threads": {}, "precision": {"precision": "bf16-mixed"}}[change]
    assert redone(run(finished, **options)) == ALL


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


TAMPERED: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "candidate changed": (lambda out: damage(out / ALL[1] / "candidate.press"), [ALL[1]]),
    "candidate gone": (lambda out: (out / ALL[2] / "candidate.press").unlink(), [ALL[2]]),
    "candidate cut": (lambda out: os.truncate(out / ALL[3] / "candidate.press", 10), [ALL[3]]),
    "metrics gone": (lambda out: (out / ALL[1] / "metrics.json").unlink(), [ALL[1]]),
    "metrics damaged": (lambda out: (out / ALL[1] / "metrics.json").write_text("{"), [ALL[1]]),
    "metrics no object": (lambda out: (out / ALL[1] / "metrics.json").write_text("[]"), [ALL[1]]),
    "all metrics gone": (lambda out: (out / "metrics.json").unlink(), []),
    "model changed": (lambda out: damage(out / "model.press"), []),
    "model gone": (lambda out: (out / "model.press").unlink(), []),
    "left behind": (lambda out: (out / ".model.press.1.tmp").write_bytes(b"x"), []),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_tampered_with_is_done_again(case, finished, quick):
    (tamper, expected), out = TAMPERED[case], finished
    earlier = digests(out)
    tamper(out)
    assert redone(run(out)) == expected
    assert digests(out) == earlier
    assert list(out.rglob(".*")) == []


# --- folders ---


def other_data(**changes: Any) -> Data:
    parts = {"splits": (DATA.train, DATA.validation, DATA.test), "classes": DATA.classes, "note": "", **changes}
    return build(parts.pop("name", "toy"), parts.pop("splits"), **parts)


@pytest.mark.parametrize(
    ("what", "arguments", "text"),
    [
        ("data name", {"data": other_data(name="other")}, "another data: toy"),
        ("data content", {"data": toy_data(seed=1)}, "another data: toy"),
        ("own network", {"net": toy_candidate("plain").net}, "another network: zoo:lenet-300-100, now own:Plain"),
    ],
)
def test_another_network_or_data_set_is_refused(what, arguments, text, finished, quick):
    out = finished
    earlier = snapshot(out)
    with pytest.raises(RecipeError, match=text) as caught:
        run(out, **arguments)
    assert "\n" not in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert snapshot(out) == earlier
    (out / "notes.txt").write_text("mine")
    assert len(redone(run(out, **arguments, fresh=True))) == 4
    assert (out / "notes.txt").read_text() == "mine"


def test_fresh_starts_over(finished, quick):
    assert redone(run(finished)) == []
    assert redone(run(finished, fresh=True)) == ALL
    assert redone(run(finished)) == []


@pytest.mark.parametrize("fresh", [False, True])
def test_other_peoples_folders_are_not_touched(tmp_path, fresh, quick):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileError, match="not empty and not a run folder"):
        run(tmp_path, fresh=fresh)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileError, match="cannot be made a run folder"):
        run(tmp_path / "thesis.tex", fresh=fresh)


# --- a full disk, at every write ---


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_any_write_loses_nothing(stride, tmp_path, quick, monkeypatch):
    whole = tmp_path / "whole"
    calls = 0
    honest = os.fsync

    def counted(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(fd)

    monkeypatch.setattr(atomic.os, "fsync", counted)
    full_at = 0
    run(whole)
    writes = calls
    assert writes > 25
    for full_at in range(1, writes + 1, stride):
        out = tmp_path / f"{full_at}"
        calls = 0
        with pytest.raises(FileError, match="the disk is full") as caught:
            run(out)
        assert "\n" not in str(caught.value)
        finished = [p.parent for p in out.glob("*/metrics.json")]
        calls = -(10**6)
        said = run(out)
        assert not {p.name for p in finished} & set(redone(said))
        assert digests(out) == digests(whole)
        assert list(out.rglob(".*")) == []
