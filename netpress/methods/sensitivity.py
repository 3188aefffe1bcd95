"""How accuracy changes as one layer at a time is made cheaper: measured, remembered, resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from netpress import atomic
from netpress.candidate import Candidate, Context, Images
from netpress.data import Split
from netpress.data.split import stratify
from netpress.errors import RecipeError
from netpress.measure.cost import cost
from netpress.train.evaluate import evaluate
from netpress.train.schedule import draw


class Row(TypedDict):
    """What one trial gave; `macs` and `params` are of the layer alone, `loss` is None where it is not finite."""

    path: str
    operation: str | None
    numbers: list[int]
    macs: int
    params: int
    top1: float
    loss: float | None


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to have a layer, to be tried.

    Attributes:
        operation, numbers: of its structure, see `factor.structure`.
        macs: multiply-adds of what takes the layer's place, one image.
        params: its weights and biases.
        make: builds the network with this layer so, and everything else as it is.
    """

    operation: str
    numbers: tuple[int, ...]
    macs: int
    params: int
    make: Callable[[], Candidate | nn.Module]


def scan(
    candidate: Candidate,
    trials: Mapping[str, Sequence[Trial]],
    context: Context,
    *,
    samples: int = 1024,
    settings: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> dict[str, list[Row]]:
    """Accuracy and cross-entropy as one layer goes through its trials, all others as they are.

    Batch norms keep their statistics: the scan tells what a layer alone does to the network as it stands.

    Args:
        candidate: left untouched.
        trials: by the layer's path.
        context: the validation split is sampled, by class; the training split where there is none.
        samples: images.
        settings: whatever else the trials' weights depend on; rows found with others are not used.
        cache: a file of JSON lines that finished rows are added to, and read from again: a scan that was interrupted
            goes on where it was. Rows of another network, sample or settings stay in it and are not used.

    Returns:
        By layer its rows: the untouched layer first, with `numbers` [], then one per trial in their order.

    Raises:
        RecipeError: there is no data.
        ModelError: the network does not take the images.
        FileError: the cache cannot be written.
    """
    sample = _sample(context, samples)
    if sample is None:
        raise RecipeError("a scan of the layers measures accuracy: it needs data, got none")
    memory = _Memory(cache, _key(candidate, sample, {**(settings or {}), "seed": [context.seed, context.step]}))
    first = next(_measured(candidate, {"": [None]}, sample, context, memory))[1]
    layers = {layer.path: layer for layer in cost(candidate.net, candidate.inputs.shape).layers} if trials else {}
    rows: dict[str, list[Row]] = {}
    for path in trials:
        here = layers.get(path)
        whole = {"macs": here.macs if here else 0, "params": here.params if here else 0}
        rows[path] = [{**first, "path": path, **whole}]  # type: ignore[typeddict-item]
    for path, row in _measured(candidate, trials, sample, context, memory):
        rows[path].append(row)
    return rows


def _sample(context: Context, samples: int) -> Split | None:
    """Images to measure on: the same for the same seed and step."""
    split: Images | None = context.validation if context.validation is not None else context.train
    if split is None or not len(split):
        return None
    if len(split) <= samples:
        return Split(split.images[:], split.labels)  # read now, where they lie on disc
    counts = (samples, len(split) - samples)
    chosen = stratify(split.labels, counts, seed=draw(context.seed, context.step))[0]
    return Split(split.images[chosen], split.labels[chosen])


def _key(candidate: Candidate, sample: Split, settings: Mapping[str, Any]) -> str:
    """SHA-256 over everything that a row depends on, but for the trial itself."""
    inputs = candidate.inputs
    told = [
        repr(candidate.net),
        candidate.arch.edits,
        inputs.mean,
        inputs.std,
        dict(settings),
        list(sample.images.shape),
    ]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    held = {**candidate.net.state_dict(), "images": sample.images, "labels": sample.labels}
    for name, tensor in held.items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(np.ascontiguousarray(flat.numpy()).data)
    return digest.hexdigest()


def _measured(
    candidate: Candidate,
    trials: Mapping[str, Sequence[Trial | None]],
    sample: Split,
    context: Context,
    memory: _Memory,
) -> Iterator[tuple[str, Row]]:
    """The rows of all trials, remembered or measured now; None stands for the network as it is."""
    plan = [(path, trial) for path, found in trials.items() for trial in found]
    for done, (path, trial) in enumerate(plan, 1):
        row = memory.find(path, trial)
        if row is None:
            made = candidate if trial is None else trial.make()
            net = made.net if isinstance(made, Candidate) else made
            # a copy: what was made may share layers with the network itself
            scores = evaluate(deepcopy(net).to(context.device), sample, candidate.inputs, device=context.device)
            row = {
                "path": path,
                "operation": None if trial is None else trial.operation,
                "numbers": [] if trial is None else list(trial.numbers),
                "macs": 0 if trial is None else trial.macs,
                "params": 0 if trial is None else trial.params,
                "top1": scores.top1,
                "loss": scores.loss if np.isfinite(scores.loss) else None,
            }
            memory.add(row)
        if trial is not None:
            context.progress("scan of the layers", done, len(plan), {"top-1": row["top1"]})
        yield path, row


class _Memory:
    """Rows of earlier scans in a file, one JSON line each; without a file it remembers nothing."""

    def __init__(self, cache: Path | None, key: str) -> None:
        self.cache, self.key = cache, key
        self.rows: dict[str, Row] = {}
        if cache is None or not cache.is_file():
            return
        text = cache.read_text(errors="replace")
        lines = [line for line in text.split("\n")[:-1] if _read(line) is not None]
        whole = "".join(f"{line}\n" for line in lines)
        if whole != text:  # a killed process left half a line: what is added next must not be glued to it
            atomic.write(cache, whole)
        for line in lines:
            found = _read(line)
            if found is not None and found["key"] == key:
                row: Row = found["row"]
                self.rows[_name(row["path"], row["operation"], row["numbers"])] = row

    def find(self, path: str, trial: Trial | None) -> Row | None:
        operation, numbers = (None, ()) if trial is None else (trial.operation, trial.numbers)
        return self.rows.get(_name(path, operation, numbers))

    def add(self, row: Row) -> None:
        if self.cache is not None:
            atomic.append(self.cache, json.dumps({"key": self.key, "row": row}, allow_nan=False))


def _name(path: str, operation: str | None, numbers: Sequence[int]) -> str:
    return json.dumps([path, operation, list(numbers)])


def _read(line: str) -> dict[str, Any] | None:
    """A line of the cache; None where it is damaged."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not (isinstance(found, dict) and isinstance(found.get("row"), dict) and "key" in found):
        return None
    return found if found["row"].keys() == Row.__annotations__.keys() else None
