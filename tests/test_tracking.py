"""Trackers: TensorBoard for real, MLflow and W&B for real where installed and by stand-ins; what is refused."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from netpress import tracking
from netpress.errors import RecipeError
from netpress.tracking import TRACKERS, check_trackers, open_trackers

ROWS = [{"epoch": 1.0, "train_loss": 0.5, "lr": 1e-3}, {"epoch": 2.0, "train_loss": 0.25, "lr": 5e-4}]
FACTS = {"seed": 0, "train": {"epochs": 2, "milestones": (0.5, 0.75)}}


def track(names, folder, *, stop: type[BaseException] | None = None) -> None:
    with open_trackers(names, folder, "01-prune", FACTS) as tracker:
        for row in ROWS:
            tracker.log(row, int(row["epoch"]))
        if stop is not None:
            raise stop


def stand_in(monkeypatch, name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    return module


# --- TensorBoard ---


@pytest.mark.parametrize("names", [None, ["tensorboard"]])
def test_tensorboard_gets_every_number_by_epoch(names, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(names, tmp_path)
    read = EventAccumulator(str(tmp_path / "tensorboard" / "01-prune")).Reload()
    assert sorted(read.Tags()["scalars"]) == ["lr", "train_loss"]
    assert [(e.step, e.value) for e in read.Scalars("train_loss")] == [(1, 0.5), (2, 0.25)]


def test_without_tensorboard_nothing_is_tracked_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda _name: None)
    track(None, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecipeError, match=r"needs tensorboard, not installed: pip install 'netpress\[trackers\]'"):
        check_trackers(["tensorboard"])


# --- MLflow ---


class Client:
    """What MlflowClient does, written down."""

    made: list[Client]

    def __init__(self, where):
        self.where, self.calls = where, []
        Client.made.append(self)

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        self.calls.append(("experiment", name))
        return "7"

    def create_run(self, experiment, *, run_name):
        self.calls.append(("run", experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_batch(self, run, *, metrics=(), params=()):
        assert run == "r"
        self.calls.append(("batch", [m[:2] + m[3:] for m in metrics], list(params)))

    def set_terminated(self, run, status):
        self.calls.append(("end", status))


class RefusedError(Exception):
    """Of a server."""


@pytest.fixture
def mlflow(monkeypatch):
    Client.made = []
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stand_in(monkeypatch, "mlflow")
    stand_in(monkeypatch, "mlflow.entities", Metric=lambda *a: a, Param=lambda *a: a)
    stand_in(monkeypatch, "mlflow.exceptions", MlflowException=RefusedError)
    stand_in(monkeypatch, "mlflow.tracking", MlflowClient=Client)
    return Client.made


def test_mlflow_gets_settings_and_numbers(mlflow, tmp_path):
    track(["mlflow"], tmp_path)
    (client,) = mlflow
    assert client.where == (tmp_path / "mlruns").as_uri()
    assert client.calls == [
        ("experiment", tmp_path.name),
        ("run", "7", "01-prune"),
        ("batch", [], [("seed", "0"), ("train.epochs", "2"), ("train.milestones", "(0.5, 0.75)")]),
        ("batch", [("train_loss", 0.5, 1), ("lr", 1e-3, 1)], []),
        ("batch", [("train_loss", 0.25, 2), ("lr", 5e-4, 2)], []),
        ("end", "FINISHED"),
    ]


def test_mlflow_takes_the_server_that_it_is_told(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    track(["mlflow"], tmp_path)
    assert mlflow[0].where == "http://tracking.example"


@pytest.mark.parametrize("stop", [KeyError, KeyboardInterrupt])
def test_mlflow_is_told_of_a_failure(mlflow, tmp_path, stop):
    with pytest.raises(stop):
        track(["mlflow"], tmp_path, stop=stop)
    assert mlflow[0].calls[-1] == ("end", "FAILED")


def test_a_server_that_refuses_is_one_line(mlflow, tmp_path):
    with pytest.raises(RecipeError, match="tracker mlflow: no such host; look at MLFLOW_TRACKING_URI") as caught:
        track(["mlflow"], tmp_path, stop=type("Lost", (RefusedError,), {"__str__": lambda _: "no such\nhost"}))
    assert "\n" not in str(caught.value)


# --- Weights & Biases ---


@pytest.fixture
def wandb(monkeypatch):
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda numbers, step: calls.append((step, numbers)),
        finish=lambda exit_code: calls.append({"exit": exit_code}),
    )
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    stand_in(monkeypatch, "wandb", init=lambda **told: calls.append(told) or run, Error=RefusedError)
    return calls


def test_wandb_gets_settings_and_numbers(wandb, tmp_path):
    track(["wandb"], tmp_path)
    told, *rest = wandb
    assert told == {"project": "netpress", "group": tmp_path.name, "name": "01-prune", "dir": tmp_path, "config": FACTS}
    assert rest == [(1, {"train_loss": 0.5, "lr": 1e-3}), (2, {"train_loss": 0.25, "lr": 5e-4}), {"exit": 0}]


def test_wandb_is_told_of_a_failure(wandb, tmp_path):
    with pytest.raises(KeyError):
        track(["wandb"], tmp_path, stop=KeyError)
    assert wandb[-1] == {"exit": 1}


def test_no_key_is_one_line(wandb, tmp_path):
    with pytest.raises(RecipeError, match=r"tracker wandb: .*; look at WANDB_API_KEY, or WANDB_MODE=offline"):
        track(["wandb"], tmp_path, stop=RefusedError)


# --- several, and the real ones ---


def test_several_trackers_each_get_everything(mlflow, wandb, tmp_path):
    track(["tensorboard", "mlflow", "wandb"], tmp_path)
    assert len(mlflow[0].calls) == 6
    assert len(wandb) == 4
    assert (tmp_path / "tensorboard" / "01-prune").is_dir()


def test_mlflow_for_real(tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow.tracking").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track(["mlflow"], tmp_path)
    with pytest.raises(KeyError):
        track(["mlflow"], tmp_path, stop=KeyError)
    store = client((tmp_path / "mlruns").as_uri())
    failed, run = store.search_runs([store.get_experiment_by_name(tmp_path.name).experiment_id])
    assert (run.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert run.data.params == {"seed": "0", "train.epochs": "2", "train.milestones": "(0.5, 0.75)"}
    assert [(m.step, m.value) for m in store.get_metric_history(run.info.run_id, "train_loss")] == [(1, 0.5), (2, 0.25)]


def test_wandb_for_real(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track(["wandb"], tmp_path)
    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"train_loss" in written.read_bytes()


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "said"),
    [("wandbb", "did you mean 'wandb'?"), ("comet", "expected one of tensorboard, mlflow, wandb")],
)
def test_an_unknown_tracker_is_named(name, said):
    with pytest.raises(RecipeError, match=rf"^unknown tracker '{name}'; {said}".replace("?", r"\?")):
        check_trackers(["tensorboard", name])


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_the_command(name, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda _name: None)
    with pytest.raises(RecipeError, match=rf"^tracker '{name}' needs .* pip install 'netpress\[\w+\]'$") as caught:
        check_trackers([name])
    assert "\n" not in str(caught.value)


def test_the_extras_are_declared():
    import tomllib
    from pathlib import Path

    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"]
    for _, packages, extra in TRACKERS.values():
        assert any(line.startswith(packages[0]) for line in extras[extra])
