"""What a run starts from: the recipe with the network and the data that were asked for, opened, and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from netpress.candidate import Candidate, Progress, silent
from netpress.data import Data
from netpress.data import open as open_data
from netpress.errors import DataError, ModelError, RecipeError
from netpress.recipe import Recipe, read
from netpress.train import logits


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is executed; none of it changes what the recipe means.

    Attributes:
        seed: of everything random.
        device: "cpu", "cuda", "mps", or "auto".
        precision: overrides the recipe's: "32-true", "bf16-mixed", or on CUDA "16-mixed".
        data_root: where known data sets lie.
        fresh: throw an earlier run in the folder away.
        trackers: where the numbers of epochs go besides the run folder: "tensorboard", "mlflow", "wandb"; None:
            TensorBoard, where it is installed.
        progress: called during long work.
        say: called with one line per stage.
    """

    seed: int = 0
    device: str = "cpu"
    precision: str | None = None
    data_root: str | None = None
    fresh: bool = False
    trackers: tuple[str, ...] | None = None
    progress: Progress = silent
    say: Callable[[str], None] = lambda _line: None


def named(recipe: Recipe, net: str | nn.Module | None, data: str | Data | None) -> Recipe:
    """The recipe with the network and the data that were asked for."""
    plain = recipe.resolved()
    if isinstance(net, str) and net != plain.get("network", {}).get("name"):
        plain["network"] = {"name": net}
    if isinstance(net, nn.Module):
        plain.pop("network", None)
    if isinstance(data, str):
        plain["data"] = {"name": data}
    elif data is not None:
        plain["data"] = {"name": data.name}
    return read(Recipe.model_validate(plain))


def opened(recipe: Recipe, options: Options) -> Data:
    """The data set that the recipe names."""
    if recipe.data is None:
        raise RecipeError("the recipe names no data set: add [data] name = '...', or give --data")
    return open_data(recipe.data.name, options.data_root)


def device_of(name: str) -> torch.device:
    """The device that an option names; in one of several processes, this one's own.

    >>> device_of("cpu")
    device(type='cpu')
    """
    seen = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if seen[n])
    if name not in seen:
        raise RecipeError(f"device {name!r}: expected cpu, cuda, mps or auto")
    if not seen[name]:
        raise RecipeError(f"device {name!r}: this PyTorch sees no GPU; use cpu, or install a GPU build")
    return torch.device(name, int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else torch.device(name)


def check_fit(candidate: Candidate, data: Data) -> None:
    """The network must take the images and have an answer for every class."""
    few = data.validation.select(slice(0, 2))
    try:
        answers = logits(candidate.net, few, candidate.inputs)
    except ModelError as error:
        raise DataError(f"{data.name} does not fit {candidate.arch.name}: {error}") from error
    if answers.shape[1] < len(data.classes):
        raise DataError(
            f"{data.name} has {len(data.classes)} classes, {candidate.arch.name} answers with {answers.shape[1]}"
        )


def state_digest(candidate: Candidate) -> str:
    """SHA-256 over the names and bytes of all tensors, and of the masks that the network came with."""
    found = hashlib.sha256()
    masks = {f"{name}_mask": form.support for name, form in candidate.forms.items() if form.support is not None}
    for name, tensor in (candidate.net.state_dict() | masks).items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
