"""Checkpoints without pickle: a safetensors file of everything that training carries from update to update.

Randomness is not carried: every update draws from (seed, step, epoch, update, process) alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from netpress import atomic
from netpress.train import processes
from netpress.train.acting import Course
from netpress.train.averaging import Average

CHECKPOINT = "checkpoint.safetensors"
_COUNT = 8  # bytes of a safetensors file that say how long its header is


@dataclass
class Progressed:
    """How far a training is, and what it has counted.

    Attributes:
        epochs, batches: epochs done, and updates of the one that is running.
        history: one row per epoch.
        sums: of losses, of the metric, and images, in the running epoch.
        seconds, waiting: of the running epoch; those spent waiting for images.
        best, best_loss, waited: the best epoch's weights, its validation loss, epochs since, if early stopping is on.
    """

    epochs: int = 0
    batches: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    waiting: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = float("inf")
    waited: int = 0

    def count(self, sums: list[float], *, seconds: float, waiting: float) -> None:
        """Add what a few updates counted."""
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)]
        self.seconds, self.waiting = self.seconds + seconds, self.waiting + waiting

    def rate(self) -> float:
        """Images per second of the running epoch, over all processes."""
        return self.sums[2] / max(self.seconds, 1e-9)

    def input_rate(self) -> float:
        """Images per second that the input alone would give: images / seconds spent waiting for them."""
        return self.sums[2] / max(self.waiting, 1e-9)

    def close(self, row: dict[str, float]) -> None:
        """The running epoch is over."""
        self.history.append(row)
        self.epochs, self.batches, self.sums, self.seconds, self.waiting = self.epochs + 1, 0, [0.0] * 3, 0.0, 0.0


@dataclass
class State:
    """What a checkpoint holds of a training; an `Engine` has all of it."""

    net: nn.Module
    optimizer: Optimizer
    average: Average | None = None
    course: Course | None = None
    scaling: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, state: State, done: Progressed, *, key: str) -> None:
    """Write the state between two updates; `key` says which training it belongs to."""
    tensors = {f"net.{k}": v for k, v in state.net.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in done.best.items()}
    for place, held in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{k}": v for k, v in held.items() if isinstance(v, Tensor)}
    if state.average is not None:
        tensors |= {f"average.{i}": t for i, t in enumerate(state.average.tensors)}
    if state.course is not None:
        tensors |= {f"support.{name}": t for name, t in state.course.supports().items()}
        tensors |= {f"memory.{name}": t for name, t in state.course.memory.items()}
    facts = {k: v for k, v in asdict(done).items() if k != "best"}
    facts |= {"key": key, "stage": 0 if state.course is None else state.course.stage, "scaling": state.scaling}
    # clones: tied weights share memory, which the format refuses
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    atomic.write(path, save(plain, metadata={"netpress": json.dumps(facts)}))


def load_checkpoint(path: Path | None, state: State, *, key: str) -> Progressed:
    """Restore the state in place, in every process from rank 0's file.

    Returns:
        How far it was; a fresh `Progressed` where there is no checkpoint of this very training.
    """
    raw = b""
    if processes.first() and path is not None and path.is_file():
        raw = path.read_bytes()
    raw = processes.send(raw if processes.first() else None)
    try:
        facts, tensors = _read(raw)
    except (SafetensorError, ValueError):
        return Progressed()
    if facts.pop("key", None) != key:
        return Progressed()
    _restore(state, facts, tensors)
    known = {f.name for f in fields(Progressed)}
    return Progressed(**{k: v for k, v in facts.items() if k in known}, best=_below(tensors, "best"))


def _read(raw: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    length = int.from_bytes(raw[:_COUNT], "little")
    header: dict[str, Any] = json.loads(raw[_COUNT : _COUNT + length])
    facts: dict[str, Any] = json.loads(header.get("__metadata__", {}).get("netpress", "{}"))
    return facts, load(raw)


def _restore(state: State, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    state.net.load_state_dict(_below(tensors, "net"))
    _restore_optimizer(state.optimizer, _below(tensors, "optimizer"))
    if state.average is not None:
        for i, kept in _below(tensors, "average").items():
            state.average.tensors[int(i)].copy_(kept)
    if state.course is not None:
        state.course.restore(facts["stage"], _below(tensors, "support"), _below(tensors, "memory"))
    state.scaling = facts["scaling"]


def _below(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    return {name.partition(".")[2]: t for name, t in tensors.items() if name.partition(".")[0] == group}


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        place, _, key = name.partition(".")
        state.setdefault(int(place), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, found in optimizer.state.items():
        for key, tensor in found.items():
            if tensor.shape == parameter.shape:
                # fused optimizers walk raw memory: the state must lie as the parameter does (channels last)
                found[key] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def finite(net: nn.Module) -> str | None:
    """Name of the first parameter or buffer that holds NaN or an infinity; None where all is well.

    >>> finite(nn.Linear(2, 2)) is None
    True
    """
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None
