"""Epoch checkpoints without pickle: a safetensors file of everything that training carries from epoch to epoch.

Randomness is not carried: every epoch draws from (seed, step, epoch) alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from netpress import atomic

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Progressed:
    """How far a training is: epochs done, one row per epoch, and the best epoch's weights if early stopping is on."""

    epochs: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = float("inf")
    waited: int = 0


def save_checkpoint(path: Path, net: nn.Module, optimizer: Optimizer, done: Progressed, *, key: str) -> None:
    """Write the state after an epoch; `key` says which training it belongs to."""
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in done.best.items()}
    for place, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    facts = {
        "key": key,
        "epochs": done.epochs,
        "history": done.history,
        "best_loss": done.best_loss,
        "waited": done.waited,
    }
    # clones: tied weights share memory, which the format refuses
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    atomic.write(path, save(plain, metadata={"netpress": json.dumps(facts)}))


def load_checkpoint(path: Path, net: nn.Module, optimizer: Optimizer, *, key: str) -> Progressed:
    """Restore the state in place; a fresh `Progressed` where there is no checkpoint of this very training."""
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {}).get("netpress", "{}"))
            if facts.get("key") != key:
                return Progressed()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (FileNotFoundError, SafetensorError, json.JSONDecodeError):
        return Progressed()
    groups: dict[str, dict[str, Tensor]] = {"net": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = tensor
    net.load_state_dict(groups["net"])
    _restore_optimizer(optimizer, groups["optimizer"])
    return Progressed(facts["epochs"], facts["history"], groups["best"], facts["best_loss"], facts["waited"])


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
