"""Fill a network from a file: safetensors, state dicts of PyTorch, npz, Caffe models, `.net` files. Never code."""

from __future__ import annotations

import importlib
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from netpress import zoo
from netpress.errors import ModelError
from netpress.forms import Form
from netpress.weights.artefact import read_net
from netpress.weights.caffe import read_caffemodel
from netpress.weights.keras import from_keras, is_keras

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

_COMPRESSED = ".net"
_WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
_TABLES = ("TORCHVISION", "TIMM", "CAFFE", "KERAS")
"""What a family may call its tables of other programs' names: (regular expression, replacement), in order."""


def load_weights(net: nn.Module, path: Path, *, name: str | None = None) -> dict[str, Form]:
    """Fill a network from a file of weights, in place.

    A `.pt`, `.pth` or `.th` file is read by PyTorch's restricted loader, which builds tensors and plain containers
    only. A wrapping entry such as `state_dict` and the prefix `module.` of data-parallel training are taken off. An
    `.npz` file may have Keras's names and layouts. Where the names are not the network's, but one of the tables of its
    zoo family (torchvision's, timm's, Caffe's, Keras's names) makes them so, that table is used. A `.net` file has no
    names: its layers are the network's, in their order.

    Args:
        net: the network.
        path: `.safetensors`, `.pt`, `.pth`, `.th`, `.npz`, `.caffemodel` or `.net`.
        name: what the zoo calls the network; None: no other names are tried.

    Returns:
        The forms in which a `.net` file holds its weights, by name; for other files none.

    Raises:
        ModelError: the file cannot be read, or its tensors have other names or shapes; names the first few.
        FileError: a `.net` file is cut, damaged, or of another network.
    """
    suffix = path.suffix.lower()
    if suffix not in (*_READERS, _COMPRESSED):
        raise ModelError(f"{path}: weights must be one of {', '.join((*_READERS, _COMPRESSED))}")
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights")
    if suffix == _COMPRESSED:
        values, forms = read_net(path, net)
        fill(net, values, where=str(path), name=None)
        return forms
    try:
        tensors = dict(_READERS[suffix](path))
    except _DAMAGE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{path}: cannot be read as {suffix} weights: {reason}") from error
    tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    fill(net, tensors, where=str(path), name=name)
    return {}


def fill(net: nn.Module, tensors: Mapping[str, Tensor], *, where: str, name: str | None) -> None:
    """Fill a network with named tensors: its own names, or those of one of its family's tables.

    Args:
        net: the network.
        tensors: one for each parameter and buffer; batch norm's counters may lack.
        where: stands in messages.
        name: what the zoo calls the network, or None.

    Raises:
        ModelError: other names or shapes; the network is left as it was.
    """
    expected = {key: tensor for key, tensor in net.state_dict().items() if not _is_counter(key)}
    for renamed in _namings(tensors, name):
        if {key for key in renamed if not _is_counter(key)} == set(expected):
            tensors = renamed
            break
    _check(expected, tensors, where)
    net.load_state_dict(tensors, strict=False)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _namings(tensors: Mapping[str, Tensor], name: str | None) -> Iterator[Mapping[str, Tensor]]:
    """The tensors under their own names, then under what each table of the family makes of them."""
    yield tensors
    if name is None:
        return
    family = importlib.import_module(f"{zoo.__name__}.{zoo.family(name)}")
    for table in _TABLES:
        if pairs := getattr(family, table, ()):
            yield {_renamed(key, pairs): tensor for key, tensor in tensors.items()}


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in pairs:
        name = re.sub(pattern, replacement, name)
    return name


def _check(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    missing = sorted(set(expected) - set(tensors))
    extra = sorted(key for key in set(tensors) - set(expected) if not _is_counter(key))
    if missing or extra:
        raise ModelError(
            f"{where}: other tensors than the network's: missing {_some(missing)}, not in the network {_some(extra)}"
        )
    for key, tensor in expected.items():
        if tensor.shape != tensors[key].shape:
            raise ModelError(
                f"{where}: {key} has shape {tuple(tensors[key].shape)}, the network's has {tuple(tensor.shape)}"
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
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return from_keras(tensors) if is_keras(tensors) else tensors


_READERS: dict[str, Callable[[Path], Mapping[str, Tensor]]] = {
    ".safetensors": load_file,
    ".pt": _state_dict,
    ".pth": _state_dict,
    ".th": _state_dict,
    ".npz": _npz,
    ".caffemodel": read_caffemodel,
}
