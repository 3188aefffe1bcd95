"""Where the numbers of a run's epochs go besides the run folder: TensorBoard, MLflow, Weights & Biases.

TensorBoard through Fabric's logger; the other two through their own clients. Lightning's loggers for them come with
`pytorch-lightning`, which installs a second `lightning_fabric` over Fabric's and imports torchmetrics and, through it,
torchvision: a torchvision that does not fit PyTorch would then stop a training.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from netpress.errors import RecipeError


class Tracker(Protocol):
    """What takes a run's numbers."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers by name, at an epoch."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is tracked: one training of a run.

    Attributes:
        folder: of the run.
        name: of the stage.
        facts: settings of the run and of the training, shown beside the curves; tables may hold tables.
    """

    folder: Path
    name: str
    facts: Mapping[str, Any]


Log = Callable[[Mapping[str, float], int], Any]
Opener = Callable[[Stage], AbstractContextManager[Log]]
"""Opens one tracker for a `with`; it is closed as failed where an error leaves the block."""


@contextmanager
def _tensorboard(stage: Stage) -> Iterator[Log]:
    from lightning_fabric.loggers import TensorBoardLogger

    logger = TensorBoardLogger(stage.folder / "tensorboard", name=stage.name, version="")
    try:
        yield logger.log_metrics
    finally:
        logger.finalize("success")


@contextmanager
def _mlflow(stage: Stage) -> Iterator[Log]:
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    # a store in files needs to be asked for since MLflow 3.7, and needs far fewer packages than one in a database
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    where = os.environ.get("MLFLOW_TRACKING_URI") or (stage.folder / "mlruns").resolve().as_uri()
    try:
        client, experiment = MlflowClient(where), stage.folder.resolve().name
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
        run = client.create_run(number, run_name=stage.name).info.run_id
        with _ended(lambda failed: client.set_terminated(run, "FAILED" if failed else "FINISHED")):
            facts = [Param(key, str(value)[:MLFLOW_WORD]) for key, value in _flat(stage.facts)]
            for start in range(0, len(facts), MLFLOW_BATCH):
                client.log_batch(run, params=facts[start : start + MLFLOW_BATCH])

            def log(numbers: Mapping[str, float], step: int) -> None:
                now = int(time.time() * 1000)
                client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in numbers.items()])

            yield log
    except MlflowException as error:
        raise _refused("mlflow", error, "MLFLOW_TRACKING_URI") from error


MLFLOW_BATCH, MLFLOW_WORD = 100, 500
"""Settings that MLflow takes in one call, and characters of one that every version of it takes."""


@contextmanager
def _wandb(stage: Stage) -> Iterator[Log]:
    import wandb

    project, group = os.environ.get("WANDB_PROJECT", "netpress"), stage.folder.resolve().name
    try:
        run = wandb.init(project=project, group=group, name=stage.name, dir=stage.folder, config=dict(stage.facts))
        with _ended(lambda failed: run.finish(exit_code=int(failed))):
            yield lambda numbers, step: run.log(dict(numbers), step=step)
    except wandb.Error as error:
        raise _refused("wandb", error, "WANDB_API_KEY, or WANDB_MODE=offline") from error


@contextmanager
def _ended(end: Callable[[bool], object]) -> Iterator[None]:
    """Tell a tracker how the block was left."""
    failed = True
    try:
        yield
        failed = False
    finally:
        end(failed)


def _flat(facts: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _refused(name: str, error: Exception, look_at: str) -> RecipeError:
    said = " ".join(str(error).split())
    return RecipeError(f"tracker {name}: {said[:300]}; look at {look_at}, or leave the tracker out")


TRACKERS: dict[str, tuple[Opener, tuple[str, ...], str]] = {
    "tensorboard": (_tensorboard, ("tensorboard",), "trackers"),
    "mlflow": (_mlflow, ("mlflow",), "mlflow"),
    "wandb": (_wandb, ("wandb",), "wandb"),
}
"""By name: what opens it, the packages it needs, the extra of netpress that brings them."""


def _missing(name: str) -> list[str]:
    return [package for package in TRACKERS[name][1] if find_spec(package) is None]


def check_trackers(names: Sequence[str] | None) -> tuple[str, ...]:
    """The trackers that a run is to have, each once.

    Args:
        names: of `TRACKERS`; None: TensorBoard where it is installed.

    Raises:
        RecipeError: a name is unknown, or its package is not installed.

    >>> check_trackers([]), check_trackers(["tensorboard", "tensorboard"])
    ((), ('tensorboard',))
    >>> check_trackers(["tensorbord"])
    Traceback (most recent call last):
    netpress.errors.RecipeError: unknown tracker 'tensorbord'; did you mean 'tensorboard'?
    """
    if names is None:
        return () if _missing("tensorboard") else ("tensorboard",)
    for name in names:
        if name not in TRACKERS:
            near = difflib.get_close_matches(name, TRACKERS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(TRACKERS)}"
            raise RecipeError(f"unknown tracker {name!r}; {hint}")
        if lost := _missing(name):
            extra = TRACKERS[name][2]
            raise RecipeError(
                f"tracker {name!r} needs {' and '.join(lost)}, not installed: pip install 'netpress[{extra}]'"
            )
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class _All:
    logs: tuple[Log, ...]

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        shown = {name: value for name, value in numbers.items() if name != "epoch"}
        for log in self.logs:
            log(shown, step)


@contextmanager
def open_trackers(
    names: Sequence[str] | None, folder: Path, name: str, facts: Mapping[str, Any] | None = None
) -> Iterator[Tracker]:
    """Track one stage of a run for as long as a `with` lasts.

    TensorBoard writes `tensorboard/STAGE` in the run folder. MLflow writes `mlruns` there, or to the server of
    MLFLOW_TRACKING_URI: the run folder's name is the experiment, the stage is the run. Weights & Biases has the project
    "netpress" (or WANDB_PROJECT), a group for the run, a run for the stage; WANDB_MODE=offline keeps it in `wandb`. A
    stage that was stopped and goes on is a second run of the same name there.

    Args:
        names: as in `check_trackers`.
        folder: of the run.
        name: of the stage.
        facts: settings to show beside the curves.

    Returns:
        What takes the rows of `fit`: `log(row, epoch)`.

    Raises:
        RecipeError: as `check_trackers`, or a server cannot be reached, or does not let us in.

    >>> with open_trackers([], Path("."), "00-baseline") as tracker:
    ...     tracker.log({"epoch": 1, "train_loss": 0.5}, 1)
    """
    stage = Stage(folder, name, facts or {})
    with ExitStack() as stack:
        yield _All(tuple(stack.enter_context(TRACKERS[each][0](stage)) for each in check_trackers(names)))
