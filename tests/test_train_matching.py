"""Distillation of layer outputs: which layers, the formula, its gradient by hand, and what training makes of it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import contract
import pytest
import torch
from contract import one_thread  # noqa: F401
from jobs import DATA, quick, recipe  # noqa: F401
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from toy_nets import toy_candidate, toy_context, toy_data

from netpress import job
from netpress.candidate import Candidate
from netpress.data.batches import normalise
from netpress.errors import RecipeError
from netpress.factor.structure import structure
from netpress.methods import WeightPrune
from netpress.shadow import evaluating
from netpress.train import Training, bind, fit
from netpress.train.matching import Matching, matched

EXAMPLE = torch.zeros(1, 1, 8, 8)


def replaced(candidate: Candidate, **operations: tuple[str, int]) -> Candidate:
    """A copy with some layers in another structure, its weights drawn by chance."""
    net = deepcopy(candidate.net)
    torch.manual_seed(7)
    for path, (operation, *numbers) in operations.items():
        made = structure(net.get_submodule(path), operation, *numbers)
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
        net.set_submodule(path, made)
    return candidate.but(net=net)


LOW_RANK = {"conv2": ("tucker2", 3, 3), "fc1": ("svd", 4)}


def outputs(net: nn.Module, paths: list[str]) -> list[Tensor]:
    """What some modules give for the validation images."""
    kept: dict[str, Tensor] = {}
    data = toy_data()

    def listen(path: str) -> RemovableHandle:
        return net.get_submodule(path).register_forward_hook(lambda _m, _x, y: kept.update({path: y.clone()}))

    handles = [listen(path) for path in paths]
    with torch.no_grad(), evaluating(net):
        net(normalise(data.validation.images, data.mean, data.std))
    for handle in handles:
        handle.remove()
    return [kept[path] for path in paths]


def distance(student: nn.Module, teacher: nn.Module, paths: list[str]) -> float:
    """The formula, from a pass of each."""
    pairs = zip(outputs(student, paths), outputs(teacher, paths), strict=True)
    return sum((((y - t).norm() / t.norm()) ** 2).item() for y, t in pairs) / len(paths)


# --- which layers ---


def test_replaced_layers_are_matched_and_no_others():
    candidate = toy_candidate("plain")
    assert matched(replaced(candidate, **LOW_RANK).net, candidate.net, EXAMPLE) == ["conv2", "fc1"]
    assert matched(replaced(candidate, conv2=("grouped", 2)).net, candidate.net, EXAMPLE) == ["conv2"]
    assert matched(replaced(candidate, conv2=("fire", 3, 4, 1)).net, candidate.net, EXAMPLE) == ["conv2"]
    depthwise = toy_candidate("depthwise")  # its own groups are no replacement
    assert matched(replaced(depthwise, project=("svd", 2)).net, depthwise.net, EXAMPLE) == ["project"]


def test_without_replacements_all_layers_of_equal_shape():
    candidate = toy_candidate("plain")
    every = ["conv1", "conv2", "fc1", "fc2"]
    assert matched(candidate.net, candidate.net, EXAMPLE) == every
    pruned = WeightPrune(sparsity=0.5).apply(candidate, toy_context())
    bind(pruned.net, pruned.forms)  # another class, yet the same layer
    assert matched(pruned.net, candidate.net, EXAMPLE) == every
    narrow = deepcopy(candidate.net)
    narrow.fc1, narrow.fc2 = nn.Linear(32, 5), nn.Linear(5, 4)
    assert matched(narrow, candidate.net, EXAMPLE) == ["conv1", "conv2", "fc2"]
    narrow.conv1 = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 6, 1))
    narrow.fc1 = nn.Sequential(nn.Linear(32, 2), nn.Linear(2, 5))  # replaced, but of another shape
    assert matched(narrow, candidate.net, EXAMPLE) == ["conv1"]


def test_nothing_in_common_is_said_in_one_line():
    candidate = toy_candidate("plain")
    other = toy_candidate("residual").net
    other.head = nn.Sequential(other.head)
    settings = Training(epochs=1, distill_layers=1.0)
    with pytest.raises(RecipeError, match=r"^distill_layers: no convolution or linear layer") as caught:
        fit(candidate, settings, toy_context(), teacher=other)
    assert "\n" not in str(caught.value)
    assert not any(m._forward_hooks for net in (candidate.net, other) for m in net.modules())


# --- the formula ---


def test_the_gradient_is_that_by_hand():
    """Y = X (B A)^T + c against T: dL/dY = 2 (Y - T) / ||T||^2, and from there to B, A and c by the chain rule."""
    torch.manual_seed(2)
    teacher, linear = nn.Linear(5, 4).double(), nn.Linear(5, 4).double()
    made = structure(linear, "svd", 2)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    student, teacher, x = nn.Sequential(made), nn.Sequential(teacher), torch.randn(9, 5).double()
    matching = Matching(student, teacher, x)
    with torch.no_grad():
        t = teacher(x)
    y = student(x)
    loss = matching.loss()
    loss.backward()
    a, b, c = made.reduce.weight, made.expand.weight, made.expand.bias
    with torch.no_grad():
        slope = 2 * (y - t) / t.square().sum()
        assert loss.item() == pytest.approx(((y - t).square().sum() / t.square().sum()).item(), rel=1e-6)
        torch.testing.assert_close(b.grad, slope.T @ (x @ a.T), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(a.grad, b.T @ slope.T @ x, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(c.grad, slope.sum(0), rtol=1e-5, atol=1e-7)


class Acted(nn.Module):
    """Layers whose outputs are written into afterwards; `fc` is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.conv(x).relu_()).mul_(0.5)
        return self.fc(x).relu_().flatten(1)


def test_outputs_that_are_overwritten_and_calls_that_repeat():
    torch.manual_seed(0)
    student, teacher, x = Acted(), Acted(), torch.randn(4, 1, 8, 8)
    matching = Matching(student, teacher, x)
    with torch.no_grad():
        teacher(x)
    student(x)
    loss = matching.loss()
    loss.backward()
    got = [p.grad.clone() for p in student.parameters()]
    matching.close()

    def acted(net: Acted) -> list[Tensor]:
        first = net.conv(x)
        second = net.fc(first.relu())
        return [first.flatten(), torch.cat([second.flatten(), net.fc(0.5 * second).flatten()])]

    pairs = zip(acted(student), acted(teacher), strict=True)
    plain = sum((y - t.detach()).square().sum() / t.detach().square().sum() for y, t in pairs) / 2
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    expected = torch.autograd.grad(plain, list(student.parameters()))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_student_alone_is_let_alone_and_hooks_come_out():
    student, teacher, x = nn.Linear(3, 2), nn.Linear(3, 2), torch.randn(4, 3)
    matching = Matching(student, teacher, x)
    student(x)  # evaluation
    teacher(x)
    student(x)
    student(x)  # evaluation
    once = matching.loss().item()
    teacher(x)
    student(x)
    assert matching.loss().item() == once
    matching.close()
    assert not student._forward_hooks
    assert not teacher._forward_hooks


def test_a_silent_teacher_gives_a_number():
    student, teacher, x = nn.Linear(3, 2), nn.Linear(3, 2), torch.zeros(4, 3)
    nn.init.zeros_(teacher.bias)
    student.load_state_dict(teacher.state_dict())
    matching = Matching(student, teacher, x)
    teacher(x)
    student(x)
    assert matching.loss().item() == 0


# --- in training ---


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_layers_come_near_the_teachers(precision, channels_last):
    teacher = toy_candidate("plain")
    student = replaced(teacher, **LOW_RANK)
    paths = list(LOW_RANK)
    settings = {"epochs": 8, "lr": 0.01, "batch": 32, "precision": precision, "channels_last": channels_last}
    free = fit(student, Training(**settings), toy_context(), teacher=teacher.net)
    pulled = fit(student, Training(**settings, distill_layers=5.0), toy_context(), teacher=teacher.net)
    before, after = (distance(c.net, teacher.net, paths) for c in (student, pulled.candidate))
    assert after < 0.5 * before
    assert after < 0.5 * distance(free.candidate.net, teacher.net, paths)
    assert pulled.history[-1]["train_loss"] < pulled.history[0]["train_loss"]
    nets = (student.net, pulled.candidate.net, teacher.net)
    assert not any(m._forward_hooks for net in nets for m in net.modules())


def test_it_adds_its_weight_times_the_distance():
    """One batch without an update: the two losses differ by the weight times the formula."""
    teacher = toy_candidate("plain")
    student = replaced(teacher, **LOW_RANK)
    for candidate in (teacher, student):  # what differs between training and evaluation, off
        candidate.net.norm, candidate.net.drop = nn.Identity(), nn.Identity()
    context = replace(toy_context(), train=toy_data().validation)
    settings = {"epochs": 1, "lr": 1e-12, "batch": 32, "distill": 0.3}
    plain, pulled = (
        fit(student, Training(**settings, distill_layers=w), context, teacher=teacher.net).history[0]["train_loss"]
        for w in (0.0, 2.5)
    )
    expected = distance(student.net, teacher.net, list(LOW_RANK))
    assert pulled - plain == pytest.approx(2.5 * expected, rel=1e-4)


def test_without_it_a_teacher_changes_nothing():
    student = replaced(toy_candidate("plain"), **LOW_RANK)
    settings = Training(epochs=2, lr=0.01, batch=32)
    alone = fit(student, settings, toy_context())
    beside = fit(student, settings, toy_context(), teacher=toy_candidate("plain").net)
    assert contract.state(alone.candidate.net) == contract.state(beside.candidate.net)


@pytest.mark.parametrize("patience", [0, 2])
def test_forms_hold_and_a_stopped_training_ends_in_the_same_bytes(tmp_path, patience):
    teacher = toy_candidate("plain")
    student = WeightPrune(sparsity=0.5).apply(replaced(teacher, **LOW_RANK), toy_context())
    settings = Training(epochs=3, lr=0.02, distill=0.5, distill_layers=2.0, shift=1, patience=patience)
    whole = fit(student, settings, toy_context(), teacher=teacher.net, key="k")
    assert contract.broken(whole.candidate) == []

    class Stop(Exception):  # noqa: N818
        pass

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise Stop

    context = replace(toy_context(), scratch=tmp_path)
    with pytest.raises(Stop):
        fit(student, settings, context, teacher=teacher.net, key="k", on_epoch=stop)
    again = fit(student, settings, context, teacher=teacher.net, key="k")
    assert contract.state(again.candidate.net) == contract.state(whole.candidate.net)


def test_a_job_brings_the_baseline_as_teacher(tmp_path, quick):  # noqa: F811
    step = {"method": "weight_prune", "sparsity": 0.7}
    net = toy_candidate("plain").net
    ends = {}
    for name, train in {"free": {}, "pulled": {"distill_layers": 3.0}}.items():
        steps = [{**step, "train": {"epochs": 6, "lr": 0.01, "batch": 16, **train}}]
        done = job.run(recipe(network=None, step=steps), net=net, data=DATA, out=tmp_path / name)
        ends[name] = distance(done.candidate.net, net, ["conv1", "conv2", "fc1", "fc2"])
    assert ends["pulled"] < 0.9 * ends["free"]
