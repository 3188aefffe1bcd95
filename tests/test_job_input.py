"""Bad input of the main job: the class of the error, one line, the values in it, and the folder as it was."""

# ruff: noqa: F811  (fixtures are imported by name)
from __future__ import annotations

import shutil
from typing import Any

import contract
import numpy as np
import pytest
import torch
from contract import one_thread  # noqa: F401
from jobs import DATA, finished_once, quick, recipe, run, snapshot  # noqa: F401
from torch import nn
from toy_nets import toy_candidate

from netpress import job, store, zoo
from netpress.errors import DataError, ModelError, NetpressError, RecipeError
from netpress.recipe import Recipe


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
    "device": (RecipeError, "device 'tpu': expected cpu, cuda, mps or auto", {"device": "tpu"}),
    "precision": (RecipeError, "precision 'fp8': expected one of 32-true, bf16-mixed", {"precision": "fp8"}),
}


@pytest.mark.parametrize("started", [False, True], ids=["new folder", "run folder"])
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_told_in_one_line_and_changes_nothing(case, started, finished_once, tmp_path, quick):
    kind, text, arguments = REFUSED[case]
    out = tmp_path / "a"
    if started:
        shutil.copytree(finished_once, out)
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
    weights = tmp_path / "w.npz"
    torch.manual_seed(0)
    net = zoo.create("lenet-300-100", num_classes=4, size=8)
    np.savez(weights, **{k: v.numpy() for k, v in net.state_dict().items()})
    job.run(network(weights=str(weights)), data=DATA, out=tmp_path / "a")
    back = store.load(tmp_path / "a" / "00-baseline" / "candidate.press")
    assert contract.state(back.net) == contract.state(net)
