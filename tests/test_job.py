"""The main job: what a run folder holds, what an edited recipe reuses, what is refused, what a full disk leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contract
import numpy as np
import onnx
import pytest
import torch
from contract import one_thread  # noqa: F401
from torch import nn
from toy_nets import KINDS, toy_candidate, toy_data

from netpress import atomic, job, store
from netpress.data import Data, build
from netpress.errors import DataError, FileError, ModelError, NetpressError, RecipeError
from netpress.recipe import Recipe, parse
from netpress.runtime import Session

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


@pytest.fixture
def quick(monkeypatch) -> None:
    """Files without graphs: nothing is exported and timed, a run takes a fifth of a second."""
    monkeypatch.setattr(store, "_graph", lambda *_: (b"", [], "no graph in this test"))


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


ALL = ["00-baseline", "01-weight_prune", "02-weight_prune", "03-weight_share"]
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
def test_an_edited_recipe_redoes_from_the_first_change(edit, tmp_path, quick):
    changes, expected = EDITS[edit]
    out = tmp_path / "a"
    assert redone(run(out)) == ALL
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
def test_what_changes_the_numbers_redoes_everything(change, tmp_path, quick):
    out = tmp_path / "a"
    run(out)
    if change == "threads":
        torch.set_num_threads(2)  # the fixture puts it back
    options = {"seed": {"seed": 1}, "threads": {}, "precision": {"precision": "bf16-mixed"}}[change]
    assert redone(run(out, **options)) == ALL


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
def test_what_was_tampered_with_is_done_again(case, tmp_path, quick):
    tamper, expected = TAMPERED[case]
    out = tmp_path / "a"
    run(out)
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
def test_another_network_or_data_set_is_refused(what, arguments, text, tmp_path, quick):
    out = tmp_path / "a"
    run(out)
    earlier = snapshot(out)
    with pytest.raises(RecipeError, match=text) as caught:
        run(out, **arguments)
    assert "\n" not in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert snapshot(out) == earlier
    (out / "notes.txt").write_text("mine")
    assert len(redone(run(out, **arguments, fresh=True))) == 4
    assert (out / "notes.txt").read_text() == "mine"


def test_fresh_starts_over(tmp_path, quick):
    out = tmp_path / "a"
    run(out)
    assert redone(run(out, fresh=True)) == ALL
    assert redone(run(out)) == []


@pytest.mark.parametrize("fresh", [False, True])
def test_other_peoples_folders_are_not_touched(tmp_path, fresh, quick):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileError, match="not empty and not a run folder"):
        run(tmp_path, fresh=fresh)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileError, match="cannot be made a run folder"):
        run(tmp_path / "thesis.tex", fresh=fresh)


# --- bad input: class, one line, values, folder unchanged ---


def nan_network() -> nn.Module:
    net = toy_candidate("plain").net
    with torch.no_grad():
        net.conv2.weight[0, 0, 0, 0] = float("nan")
    return net


def tied_network() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 4))
    net[3].weight = net[1].weight
    return net


def normed_network() -> nn.Module:
    net = toy_candidate("plain").net
    nn.utils.parametrizations.weight_norm(net.fc1)
    return net


def network(**keys: Any) -> Recipe:
    return recipe(network={"name": "lenet-300-100", **keys})


REFUSED: dict[str, tuple[type[NetpressError], str, dict[str, Any]]] = {
    "unknown network": (ModelError, r"unknown network 'lenet6'; did you mean 'lenet5'", {"net": "lenet6"}),
    "unknown source": (ModelError, r"'keras:x': expected a zoo name, torchvision:NAME", {"net": "keras:x"}),
    "unknown setting": (ModelError, "no setting 'width'", {"what": network(settings={"width": 3})}),
    "unknown data": (DataError, r"unknown data set 'mnits'; did you mean 'mnist'", {"data": "mnits"}),
    "no network": (RecipeError, "names no network", {"what": recipe(network=None)}),
    "no data": (RecipeError, "names no data set", {"data": None}),
    "no weights": (RecipeError, r"baseline\.epochs is 0 and the network has no weights", {"what": recipe(baseline={})}),
    "missing weights": (ModelError, r"none\.pt: no such file of weights", {"what": network(weights="none.pt")}),
    "nan": (ModelError, r"baseline's conv2\.weight holds NaN", {"net": nan_network()}),
    "parametrized": (ModelError, r"fc1\.weight has a parametrization", {"net": normed_network()}),
    "image size": (
        DataError,
        r"toy does not fit Sequential: .*\(1, 8, 8\)",
        {"net": nn.Sequential(nn.Flatten(), nn.Linear(100, 4))},
    ),
    "channels": (
        DataError,
        r"toy does not fit Sequential: .*\(1, 8, 8\)",
        {"net": nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())},
    ),
    "classes": (
        DataError,
        "toy has 4 classes, Sequential answers with 3",
        {"net": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))},
    ),
    "no logits": (DataError, r"expected logits of shape \(images, classes\)", {"net": nn.Conv2d(1, 4, 3)}),
    "device": (RecipeError, "device 'tpu': expected cpu, cuda or auto", {"device": "tpu"}),
    "precision": (RecipeError, "precision 'fp8': expected one of 32-true, bf16-mixed", {"precision": "fp8"}),
}


@pytest.mark.parametrize("started", [False, True], ids=["new folder", "run folder"])
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_told_in_one_line_and_changes_nothing(case, started, tmp_path, quick):
    kind, text, arguments = REFUSED[case]
    out = tmp_path / "a"
    if started:
        run(out)
    earlier = snapshot(tmp_path)
    with pytest.raises(NetpressError, match=text) as caught:
        run(out, **arguments)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == earlier


def test_no_gpu_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="sees no GPU"):
        run(tmp_path / "a", device="cuda")
    assert not (tmp_path / "a").exists()


class Steep(nn.Module):
    """Weights overflow after a few updates."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        return self.fc(x.flatten(1)) * 1e20


STEEP = {"epochs": 2, "lr": 10, "optimizer": "sgd", "schedule": "constant"}
FAILS: dict[str, tuple[type[NetpressError], str, dict[str, Any], list[str]]] = {
    "a table that names no layer": (
        RecipeError,
        r"weight_prune\.sparsity: 'conv9' names no layer; expected .* fc1, fc2, fc3",
        {"what": recipe(step=[{"method": "weight_prune", "sparsity": {"conv9": 0.5}}])},
        ["00-baseline"],
    ),
    "tied weights": (
        ModelError,
        r"1\.weight is one tensor with 3\.weight",
        {"net": tied_network(), "what": recipe(network=None)},
        ["00-baseline"],
    ),
    "too high a rate": (
        ModelError,
        r"step 2, epoch 1, batch \d: the loss is (nan|inf); the last good epoch is kept; try a lower lr \(it is 10\)",
        {
            "net": Steep(),
            "what": recipe(
                network=None,
                step=[
                    {"method": "weight_share", "bits": 5},
                    {"method": "weight_prune", "sparsity": 0.5, "train": {**STEEP, "batch": 8}},
                ],
            ),
        },
        ["00-baseline", "01-weight_share"],
    ),
}


@pytest.mark.parametrize("case", FAILS)
def test_a_step_that_fails_keeps_what_was_finished(case, tmp_path, quick):
    kind, text, arguments, kept = FAILS[case]
    out = tmp_path / "a"
    for _ in range(2):
        with pytest.raises(NetpressError, match=text) as caught:
            run(out, **arguments)
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        assert [p.parent.name for p in sorted(out.glob("*/metrics.json"))] == kept
        assert not (out / "metrics.json").exists()


def test_own_network_needs_itself_to_be_loaded(tmp_path, quick):
    job.run(recipe(network=None), net=toy_candidate("plain").net, data=DATA, out=tmp_path / "a")
    with pytest.raises(ModelError, match=r"load\(path, into=net\)"):
        store.load(tmp_path / "a" / "model.press")
    with pytest.raises(ModelError, match="is this the network that was saved"):
        store.load(tmp_path / "a" / "model.press", into=toy_candidate("concat").net)


def test_weights_start_the_run(tmp_path, quick):
    net = toy_candidate("concat").net
    weights = tmp_path / "w.npz"
    torch.manual_seed(0)
    from netpress import zoo

    net = zoo.create("lenet-300-100", classes=4, size=8)
    np.savez(weights, **{k: v.numpy() for k, v in net.state_dict().items()})
    job.run(network(weights=str(weights)), data=DATA, out=tmp_path / "a")
    back = store.load(tmp_path / "a" / "00-baseline" / "candidate.press")
    assert contract.state(back.net) == contract.state(net)


# --- a full disk, at every write ---


def test_a_disk_that_is_full_at_any_write_loses_nothing(tmp_path, quick, monkeypatch):
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
    for full_at in range(1, writes + 1):
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
