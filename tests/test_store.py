"""Files of candidates: bit for bit, whole or not at all, and refused in one line where they do not fit."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import contract
import numpy as np
import pytest
import torch
from contract import one_thread  # noqa: F401
from torch import nn
from toy_nets import KINDS, toy_candidate, toy_context

from netpress import atomic, store, zoo
from netpress.candidate import Candidate, Inputs
from netpress.codec import container
from netpress.codec.header import Arch
from netpress.errors import FileError, ModelError
from netpress.forms import Form
from netpress.methods import WeightPrune, WeightShare


@pytest.fixture(scope="module")
def small() -> Candidate:
    pruned = WeightPrune(sparsity={"conv": 0.5, "linear": 0.8}, adjust_dropout=True)
    return WeightShare(bits={"linear": 3}).apply(contract.applied(pruned, "plain"), toy_context())


@pytest.fixture(scope="module")
def path(small, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("files") / "small.press"
    store.save(small, where)
    return where


def test_sizes_are_those_of_the_file(small, path):
    saved = store.save(small, path)
    assert saved.file_bytes == path.stat().st_size
    parts = sum(sum(p.values()) for p in saved.parts.values())
    assert saved.overhead_bytes + parts == saved.file_bytes
    assert set(saved.parts) == {n for n in small.net.state_dict() if "num_batches" not in n}
    assert 0 < saved.overhead_bytes < 700


def test_loading_needs_no_more_than_the_file_for_zoo_networks(tmp_path):
    candidate = Candidate(
        zoo.create("lenet5", num_classes=4, in_channels=1, size=28),
        arch=Arch("zoo", "lenet5", {"num_classes": 4}),
        inputs=Inputs((1, 28, 28), (0.25,), (0.5,)),
        classes=("a", "b", "c", "d"),
    )
    store.save(candidate, tmp_path / "a.press")
    back = store.load(tmp_path / "a.press")
    assert contract.state(back.net) == contract.state(candidate.net)
    assert (back.arch, back.inputs, back.classes) == (candidate.arch, candidate.inputs, candidate.classes)
    assert not back.net.training


def test_a_file_that_asks_for_a_huge_network_allocates_nothing(tmp_path):
    net = zoo.create("lenet-300-100")
    huge = Arch("zoo", "lenet-300-100", {"hidden": [65_536] * 60})  # a terabyte of weights
    store.save(Candidate(net, arch=huge, inputs=Inputs((1, 28, 28))), tmp_path / "a.press")
    with pytest.raises(ModelError, match=r"only the network has a tensor 'fc10\.bias'"):
        store.load(tmp_path / "a.press")


@pytest.mark.parametrize("codec", ["bits", "huffman", "rans", "auto"])
def test_every_coder_gives_the_same_network(small, path, codec, tmp_path):
    size = store.recode(path, tmp_path / "b.press", codec=codec)
    assert size == (tmp_path / "b.press").stat().st_size
    back = store.load(tmp_path / "b.press", into=toy_candidate("plain", seed=3).net)
    whole = store.load(path, into=toy_candidate("plain", seed=4).net)
    assert contract.state(back.net) == contract.state(whole.net)
    store.save(small, tmp_path / "c.press", codec=codec)
    assert (tmp_path / "b.press").read_bytes() == (tmp_path / "c.press").read_bytes()
    assert size >= path.stat().st_size - 8  # "auto" decides by payload; the header's text may differ by some bytes


def test_saving_what_was_loaded_gives_the_same_bytes(small, path, tmp_path):
    back = store.load(path, into=toy_candidate("plain", seed=3).net)
    store.save(back, tmp_path / "again.press")
    assert (tmp_path / "again.press").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("value", [0.0, -0.0, float("nan"), float("inf"), 1e-45, 3.4e38])
def test_every_float_survives(value, tmp_path):
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight[0, 1] = value
    candidate = Candidate(net, inputs=Inputs((3,)))
    store.save(candidate, tmp_path / "a.press")
    back = store.load(tmp_path / "a.press", into=nn.Linear(3, 2))
    assert contract.state(back.net) == contract.state(net)


def test_buffers_and_integers_survive(tmp_path):
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("shift", torch.rand(2))
            self.register_buffer("places", torch.tensor([1, 0]))
            self.register_buffer("scratch", torch.rand(2), persistent=False)

        def forward(self, x):
            return self.fc(x)[:, self.places] + self.shift

    net = Buffers()
    store.save(Candidate(net, inputs=Inputs((3,))), tmp_path / "a.press")
    back = store.load(tmp_path / "a.press", into=Buffers())
    assert contract.state(back.net) == contract.state(net)
    assert back.net.places.dtype == torch.int64


def test_a_candidate_that_breaks_its_form_is_not_written(tmp_path):
    net = nn.Linear(3, 2)
    broken = Candidate(net, {"weight": Form(torch.zeros(2, 3, dtype=torch.bool))}, inputs=Inputs((3,)))
    with pytest.raises(ValueError, match="does not hold its form"):
        store.save(broken, tmp_path / "a.press")
    assert list(tmp_path.iterdir()) == []


# --- files that do not fit ---


def test_a_network_of_ones_own_is_asked_for(path):
    with pytest.raises(ModelError, match=r"Plain is a network of your own: .* load\(path, into=net\)") as caught:
        store.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "plain"])
def test_another_network_is_refused_and_left_alone(path, kind):
    net = toy_candidate(kind).net
    earlier = contract.state(net)
    with pytest.raises(ModelError) as caught:
        store.load(path, into=net)
    assert "\n" not in str(caught.value)
    assert contract.state(net) == earlier


def test_another_shape_is_refused_with_both_shapes(path):
    net = toy_candidate("plain").net
    net.fc2 = nn.Linear(12, 5)
    with pytest.raises(ModelError, match=r"fc2\.(weight|bias) has shape \(4,.*\) in the file, \(5,.*\) in the network"):
        store.load(path, into=net)


def test_a_missing_tensor_is_named(path):
    net = toy_candidate("plain").net
    net.extra = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"only the network has a tensor 'extra\.bias'"):
        store.load(path, into=net)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_cut_files_are_refused(path, tmp_path, share):
    raw = path.read_bytes()
    (tmp_path / "cut.press").write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(FileError, match=r"cut\.press") as caught:
        store.load(tmp_path / "cut.press", into=toy_candidate("plain").net)
    assert "\n" not in str(caught.value)


def test_every_flipped_byte_is_found(path, tmp_path):
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(raw), 60, replace=False):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / "bad.press").write_bytes(damaged)
        with pytest.raises(FileError):
            container.read(tmp_path / "bad.press")


def test_no_file(tmp_path):
    with pytest.raises(FileError, match=r"none\.press"):
        store.load(tmp_path / "none.press")


def test_edits_of_a_newer_version_are_refused(tmp_path):
    candidate = Candidate(nn.Linear(3, 2), arch=Arch("own", "Net", edits=(("fold", "", 1),)), inputs=Inputs((3,)))
    store.save(candidate, tmp_path / "a.press")
    with pytest.raises(ModelError, match="edit 'fold' of '' is unknown: written by a newer version"):
        store.load(tmp_path / "a.press", into=nn.Linear(3, 2))


# --- whole or not at all ---


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(small, tmp_path, monkeypatch, call):
    path = tmp_path / "a.press"
    path.write_bytes(b"before")
    monkeypatch.setattr(atomic.os, call, full_disk)
    with pytest.raises(FileError, match=r"a\.press: cannot write \d+ bytes: the disk is full") as caught:
        store.save(small, path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_really_full_disk(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full")
    with pytest.raises(FileError, match="the disk is full"):
        atomic.append(full, "line")


def test_a_folder_that_is_missing_is_said(small, tmp_path):
    with pytest.raises(FileError, match="No such file or directory"):
        store.save(small, tmp_path / "no" / "a.press")


def test_what_does_not_read_back_is_not_written(small, tmp_path, monkeypatch):
    honest = container.Tensor.restore

    def one_bit_off(self):
        array = np.array(honest(self))
        array.view(np.uint8).flat[0] ^= 1
        return array

    monkeypatch.setattr(container.Tensor, "restore", one_bit_off)
    with pytest.raises(FileError, match="did not read back bit for bit; nothing was written"):
        store.save(small, tmp_path / "a.press")
    assert list(tmp_path.iterdir()) == []
