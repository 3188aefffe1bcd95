"""Several processes train what one does: loss curves, batch norm, condensing stages, resume behind a kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import crews
import pytest
import torch
from contract import one_thread  # noqa: F401
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy_nets import toy_candidate, toy_context

from netpress import crew, data, zoo
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.methods import Condense
from netpress.train import Training, fit, loop, processes

TRAINED = {"optimizer": "sgd", "lr": 0.02, "schedule": "constant"}


def digits(name: str, **settings: object) -> tuple[Candidate, Context]:
    """A zoo network and the handwritten digits."""
    found = data.open("digits")
    torch.manual_seed(0)
    net = zoo.create(name, in_channels=1, **settings)
    inputs = Inputs(found.shape, found.mean, found.std)
    context = Context(example=torch.zeros(1, *found.shape), train=found.train, validation=found.validation)
    return Candidate(net, arch=Arch("zoo", name), inputs=inputs, classes=found.classes), context


def train(kind: str, out: Path, settings: Training) -> None:
    """One process's part: train, leave the history and, from rank 0, the weights."""
    if kind == "lenet5":
        start, context = digits("lenet5", size=28)
    elif kind == "toy":
        start, context = toy_candidate("residual"), toy_context()
    else:
        candidate, context = digits("condensenet-50", stages=(2, 2), growth=(8, 8), form="training")
        start = Condense().gradually(candidate, context)
    fitted = fit(start, settings, context)
    rank, _ = processes.place()
    (out / f"history-{rank}.json").write_text(json.dumps(fitted.history))
    if rank == 0:
        save_file({k: v.contiguous() for k, v in fitted.candidate.net.state_dict().items()}, out / "net.safetensors")


def both(kind: str, tmp_path: Path, settings: Training) -> tuple[list[dict], list[dict]]:
    """Histories of one process, and of two."""
    alone, crowd = tmp_path / "alone", tmp_path / "crowd"
    alone.mkdir()
    crowd.mkdir()
    train(kind, alone, settings)
    assert crews.ended(crews.start(train, kind, crowd, settings)) == [0, 0]
    histories = [json.loads((crowd / f"history-{rank}.json").read_text()) for rank in (0, 1)]
    same = ("epoch", "lr", "train_loss", "train_top1", "validation_loss", "validation_top1")
    assert [[r[k] for k in same] for r in histories[0]] == [[r[k] for k in same] for r in histories[1]]
    return json.loads((alone / "history-0.json").read_text()), histories[0]


@pytest.mark.parametrize("batch", [64, 63])
def test_lenet_5_has_the_same_loss_curve_in_two_processes(tmp_path, batch):
    alone, crowd = both("lenet5", tmp_path, Training(epochs=2, batch=batch, shift=1, **TRAINED))
    for one, two in zip(alone, crowd, strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-4)
        assert two["validation_loss"] == pytest.approx(one["validation_loss"], abs=1e-4)


def test_batch_norm_and_condensing_stages_too(tmp_path):
    alone, crowd = both("condensing", tmp_path, Training(epochs=2, batch=128, **TRAINED))
    for one, two in zip(alone, crowd, strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-3)
        assert two["stage"] == one["stage"]
    ours, theirs = (load_file(tmp_path / side / "net.safetensors") for side in ("alone", "crowd"))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    indices = [k for k in ours if k.endswith("index")]
    agree = [(ours[k] == theirs[k]).float().mean().item() for k in indices]
    assert len(indices) == 4
    assert min(agree) > 0.9  # what rounding decides between two inputs of equal weight may differ


def test_a_last_batch_of_fewer_images_than_processes(tmp_path):
    alone, crowd = both("toy", tmp_path, Training(epochs=2, batch=19, **TRAINED))  # 96 = 5 x 19 + 1
    for one, two in zip(alone, crowd, strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-3)
        assert two["train_top1"] == pytest.approx(one["train_top1"], abs=1 / 96 + 1e-9)


# --- batch norm ---


def normed(images: Tensor, norm: nn.Module) -> dict[str, Tensor]:
    x = images.clone().requires_grad_()
    y = norm(x)
    (y * torch.arange(y.numel()).view_as(y).cos()).sum().backward()
    return {"y": y.detach(), "x": x.grad, "w": norm.weight.grad, "b": norm.bias.grad}


def reduced(out: Path, images: Tensor, shares: list[int]) -> None:
    rank, _ = processes.place()
    mine = images.split(shares)[rank]
    norm = nn.BatchNorm2d(5)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.manual_seed(1)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    norms = processes.reduce_norms(norm)
    x = mine.clone().requires_grad_()
    y = norm(x)
    angle = torch.arange(images.numel()).view_as(images).cos().split(shares)[rank]
    (y * angle).sum().backward()
    grads = processes.total(torch.cat([norm.weight.grad, norm.bias.grad]))
    processes.release_norms(norms)
    facts = {"y": y.detach(), "x": x.grad, "grads": grads, "mean": norm.running_mean, "var": norm.running_var}
    save_file({k: v.contiguous() for k, v in facts.items()}, out / f"{rank}.safetensors")


@pytest.mark.parametrize("shares", [[4, 4], [5, 3]])
def test_statistics_over_processes_are_those_of_the_whole_batch(tmp_path, shares):
    torch.manual_seed(0)
    images = torch.randn(8, 5, 3, 3) * torch.tensor([1.0, 3, 0.1, 1, 2]).view(1, 5, 1, 1) + 100
    assert crews.ended(crews.start(reduced, tmp_path, images, shares)) == [0, 0]
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    norm = nn.BatchNorm2d(5)
    torch.manual_seed(1)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    whole = normed(images, norm)
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([p[name] for p in parts]), whole[name], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(parts[0]["grads"], torch.cat([whole["w"], whole["b"]]), atol=1e-3, rtol=1e-3)
    for part in parts:
        torch.testing.assert_close(part["mean"], norm.running_mean)
        torch.testing.assert_close(part["var"], norm.running_var, atol=1e-4, rtol=1e-4)


# --- messages ---


def conversation(out: Path, fails: bool) -> None:
    told = []
    if processes.first():
        crew.order(lambda: crew.Order({"step": 1}, b"candidate" * 1000, b""))
        try:
            with crew.leading() as tell:
                if fails:
                    raise processes.NetpressError("the budget is missed")
                tell({"top1": 0.5}, b"file")
        except processes.NetpressError:
            return
        return
    try:
        numbers, file = crew.following(told.append)
        (out / "heard").write_text(f"{told[0].facts} {len(told[0].candidate)} {told[0].teacher} {numbers} {file}")
    except processes.NetpressError as error:
        (out / "heard").write_text(str(error))


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_first_process_says_is_heard(tmp_path, fails):
    assert crews.ended(crews.start(conversation, tmp_path, fails)) == [0, 0]
    heard = (tmp_path / "heard").read_text()
    assert heard == ("the budget is missed" if fails else "{'step': 1} 9000 b'' {'top1': 0.5} b'file'")


# --- a process that dies ---


def long_train(out: Path, epochs: int) -> None:
    loop.TICK, loop.SAVE_SECONDS = 4, 0.0
    candidate, context = digits("lenet5", size=28)
    rank, _ = processes.place()
    scratch = out if rank == 0 else None
    shown = (lambda *_: (out / "begun").touch()) if rank == 0 else context.progress
    context = replace(context, scratch=scratch, progress=shown)
    fitted = fit(candidate, Training(epochs=epochs, batch=32, **TRAINED), context, key="k")
    if rank == 0:
        save_file(fitted.candidate.net.state_dict(), out / "net.safetensors")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_the_next_run_goes_on(tmp_path, capfd, victim):
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert crews.ended(crews.start(long_train, undisturbed, 3)) == [0, 0]
    out = tmp_path / "killed"
    out.mkdir()
    members = crews.start(long_train, out, 3)
    while not (out / "checkpoint.safetensors").is_file():
        time.sleep(0.01)
    crews.kill(members[victim])
    start = time.monotonic()
    assert sorted(crews.ended(members), key=str) == [-9, 75]
    assert time.monotonic() - start < 30
    said = [line for line in capfd.readouterr().err.splitlines() if "process of this run ended" in line]
    assert len(said) == 1
    assert "run the same command again" in said[0]
    assert crews.ended(crews.start(long_train, out, 3)) == [0, 0]
    whole, again = load_file(undisturbed / "net.safetensors"), load_file(out / "net.safetensors")
    assert all(torch.equal(whole[k], again[k]) for k in whole)


# --- the command line ---

RECIPE = """
title = "two processes"
[network]
name = "lenet5"
[data]
name = "digits"
[baseline]
epochs = 40
optimizer = "sgd"
lr = 0.02
"""


def begun(out: Path, recipe: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "netpress", "run", str(recipe), "--out", str(out), "--nproc", "2"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_survives_a_kill_in_one_line_and_does_what_torchrun_does(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    command = begun(tmp_path / "a", recipe)
    while not (tmp_path / "a" / "00-baseline" / "checkpoint.safetensors").is_file():
        assert command.poll() is None
        time.sleep(0.05)
    workers = subprocess.run(["pgrep", "-P", str(command.pid)], capture_output=True, text=True, check=True)
    os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
    start = time.monotonic()
    _, said = command.communicate(timeout=60)
    assert time.monotonic() - start < 60
    assert command.returncode == 75
    assert [line for line in said.splitlines() if "run the same command again" in line] == [said.splitlines()[-1]]
    assert begun(tmp_path / "a", recipe).wait(timeout=300) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "netpress"]
    words = [sys.executable, *torchrun, "run", str(recipe), "--out", str(tmp_path / "b")]
    subprocess.run(words, check=True, capture_output=True)
    assert (tmp_path / "a" / "model.press").read_bytes() == (tmp_path / "b" / "model.press").read_bytes()
