"""Weights of other programs: read where they fit, refused in one line where not, never run."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import contract
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from netpress.errors import ModelError
from netpress.weights import load_weights


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def state(seed: int = 1) -> dict[str, torch.Tensor]:
    return dict(network(seed).state_dict())


def write_npz(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    np.savez(path, **{k: v.numpy() for k, v in tensors.items()})


def without_counters(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in tensors.items() if "num_batches" not in k}


WAYS = {
    "w.safetensors": lambda path: save_file(state(), path),
    "w.npz": lambda path: write_npz(path, state()),
    "w.pt": lambda path: torch.save(state(), path),
    "w.PTH": lambda path: torch.save(state(), path),
    "wrapped.th": lambda path: torch.save({"state_dict": state(), "epoch": 3}, path),
    "twice.pt": lambda path: torch.save({"model": {"state_dict": state()}}, path),
    "parallel.pt": lambda path: torch.save({f"module.{k}": v for k, v in state().items()}, path),
    "counters.npz": lambda path: write_npz(path, without_counters(state())),
}


@pytest.mark.parametrize("name", WAYS)
def test_every_kind_fills_the_network(tmp_path, name):
    WAYS[name](tmp_path / name)
    net = network(2)
    load_weights(net, tmp_path / name)
    expected = contract.state(network(1))
    assert {k: v for k, v in contract.state(net).items() if "num_batches" not in k} == {
        k: v for k, v in expected.items() if "num_batches" not in k
    }


class Payload:
    """What pickle would run."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def hostile(path: Path) -> None:
    torch.save({"0.weight": Payload(path.parent / "ran")}, path)


def hostile_legacy(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.parent / "ran")))


def hostile_npz(path: Path) -> None:
    np.savez(path, weight=np.array([Payload(path.parent / "ran")], dtype=object))


def cut(writer, share: float):
    def write(path: Path) -> None:
        writer(path)
        raw = path.read_bytes()
        path.write_bytes(raw[: int(len(raw) * share)])

    return write


def flipped(path: Path) -> None:
    """Bytes of a compressed archive changed in the middle."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **{k: v.numpy() for k, v in state().items()})
    raw = bytearray(stream.getvalue())
    raw[60:110] = b"\xa5" * 50
    path.write_bytes(raw)


def foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights here")


def changed(**tensors):
    return lambda path: torch.save({**state(), **tensors}, path)


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


REFUSED = {
    "missing": ("w.pt", lambda path: None, "no such file of weights"),
    "suffix": ("w.h5", lambda path: path.write_bytes(b"x"), r"weights must be one of \.safetensors, \.pt"),
    "no suffix": ("w", lambda path: path.write_bytes(b"x"), "weights must be one of"),
    "folder": ("w.pt", lambda path: path.mkdir(), "no such file of weights"),
    "empty pt": ("w.pt", lambda path: path.write_bytes(b""), r"cannot be read as \.pt"),
    "empty npz": ("w.npz", lambda path: path.write_bytes(b""), r"cannot be read as \.npz"),
    "empty safetensors": ("w.safetensors", lambda path: path.write_bytes(b""), r"cannot be read as \.safetensors"),
    "cut pt": ("w.pt", cut(WAYS["w.pt"], 0.5), r"cannot be read as \.pt"),
    "cut npz": ("w.npz", cut(WAYS["w.npz"], 0.5), r"cannot be read as \.npz"),
    "cut safetensors": ("w.safetensors", cut(WAYS["w.safetensors"], 0.7), r"cannot be read as \.safetensors"),
    "flipped npz": ("w.npz", flipped, r"cannot be read as \.npz"),
    "text": ("w.pt", lambda path: path.write_text("hello"), r"cannot be read as \.pt"),
    "zip": ("w.pt", foreign_zip, r"cannot be read as \.pt"),
    "zip npz": ("w.npz", foreign_zip, r"cannot be read as \.npz"),
    "one array": ("w.npz", one_array, "expected named arrays"),
    "a tensor": ("w.pt", lambda path: torch.save(torch.zeros(2), path), "expected a state dict"),
    "a list": ("w.pt", lambda path: torch.save([torch.zeros(2)], path), "expected a state dict"),
    "numbers": ("w.pt", lambda path: torch.save({"epoch": 3}, path), "expected a state dict"),
    "pickle in pt": ("w.pt", hostile, r"cannot be read as \.pt"),
    "plain pickle": ("w.pt", hostile_legacy, r"cannot be read as \.pt"),
    "pickle in npz": ("w.npz", hostile_npz, r"cannot be read as \.npz"),
    "words in npz": ("w.npz", lambda path: np.savez(path, weight=np.array(["a"])), r"cannot be read as \.npz"),
    "shape": ("w.pt", changed(**{"3.bias": torch.zeros(4)}), r"3\.bias has shape \(4,\), the network's has \(3,\)"),
    "extra": ("w.pt", changed(**{"4.bias": torch.zeros(4)}), r"not in the network 4\.bias"),
    "lacking": ("w.pt", lambda path: torch.save({"3.bias": torch.zeros(3)}, path), r"missing 0\.bias, 0\.weight.* and"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_refused(tmp_path, case):
    name, write, what = REFUSED[case]
    path = tmp_path / name
    write(path)
    net = network(2)
    earlier = contract.state(net)
    with pytest.raises(ModelError, match=what) as caught:
        load_weights(net, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert contract.state(net) == earlier
    assert not (tmp_path / "ran").exists(), "the file's code was run"


def test_the_payload_would_have_run(tmp_path):
    hostile_legacy(tmp_path / "w.pt")
    pickle.loads((tmp_path / "w.pt").read_bytes())
    assert (tmp_path / "ran").exists()
