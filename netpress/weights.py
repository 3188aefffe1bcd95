"""Trained weights from other programs' files: safetensors, state dicts of PyTorch, npz. Never code."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from netpress.errors import ModelError

_DAMAGE = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OSError,
)
"""What the readers raise on files that are cut, changed, or something else."""

_WRAPPERS = ("state_dict", "model", "net", "model_state_dict")


def load_weights(net: nn.Module, path: Path) -> None:
    """Fill a network from a file of weights, in place.

    A `.pt`, `.pth` or `.th` file is read by PyTorch's restricted loader, which builds tensors and plain containers
    only. A wrapping entry such as `state_dict` and the prefix `module.` of data-parallel training are taken off.

    Args:
        net: the network.
        path: `.safetensors`, `.pt`, `.pth`, `.th` or `.npz`.

    Raises:
        ModelError: the file cannot be read, or its tensors have other names or shapes; names the first few.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ModelError(f"{path}: weights must be one of {', '.join(_READERS)}")
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights")
    try:
        tensors = dict(_READERS[suffix](path))
    except _DAMAGE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{path}: cannot be read as {suffix} weights: {reason}") from error
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    _check(net, tensors, path)
    net.load_state_dict(tensors, strict=False)


def _check(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = {n: t for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(tensors))
    extra = sorted(n for n in set(tensors) - set(expected) if not n.endswith("num_batches_tracked"))
    if missing or extra:
        raise ModelError(
            f"{path}: other tensors than the network's: missing {_some(missing)}, not in the network {_some(extra)}"
        )
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise ModelError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, the network's has {tuple(tensor.shape)}"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    found: Any = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(found, Mapping):
        inner = [found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)]
        if not inner:
            break
        found = inner[0]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError("expected a state dict: names and tensors")
    return found


def _npz(path: Path) -> Mapping[str, Tensor]:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise ValueError("expected named arrays, got a single one")
    with found as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


_READERS: dict[str, Callable[[Path], Mapping[str, Tensor]]] = {
    ".safetensors": load_file,
    ".pt": _state_dict,
    ".pth": _state_dict,
    ".th": _state_dict,
    ".npz": _npz,
}
