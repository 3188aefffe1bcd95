"""What the engine adds to the loop: pieces of a batch, averages, hooks, a method at work, and resume in mid-epoch."""

from __future__ import annotations

from dataclasses import replace

import contract
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from torch import nn
from toy_nets import toy_candidate, toy_context, toy_data

from netpress.candidate import Candidate, Inputs
from netpress.errors import RecipeError
from netpress.forms import Form
from netpress.methods import Condense
from netpress.train import Task, Training, fit, loop
from netpress.train.averaging import Average
from netpress.train.schedule import due
from netpress.train.task import right

SGD = {"optimizer": "sgd", "lr": 0.05, "batch": 16, "schedule": "constant"}


def weights(fitted: loop.Fitted) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in fitted.candidate.net.parameters()])


# --- pieces, averages ---


@pytest.mark.parametrize("pieces", [2, 3, 16])
def test_a_batch_in_pieces_is_the_same_update(pieces):
    whole = fit(toy_candidate("concat"), Training(epochs=2, **SGD), toy_context())
    parts = fit(toy_candidate("concat"), Training(epochs=2, accumulate=pieces, **SGD), toy_context())
    torch.testing.assert_close(weights(parts), weights(whole), atol=2e-6, rtol=1e-5)
    assert parts.history[-1]["train_loss"] == pytest.approx(whole.history[-1]["train_loss"], abs=1e-5)
    assert parts.history[-1]["train_top1"] == whole.history[-1]["train_top1"]


def test_the_average_is_the_formula():
    net = nn.Linear(3, 2)
    average = Average(net, 0.9)
    expected = [p.detach().clone() for p in net.parameters()]
    for done in range(40):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        average.update(done)
        decay = min(0.9, (1 + done) / (10 + done))
        expected = [decay * a + (1 - decay) * p.detach() for a, p in zip(expected, net.parameters(), strict=True)]
    for mine, theirs in zip(average.tensors, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    before = net.weight.detach().clone()
    with average.standing_in():
        torch.testing.assert_close(net.weight, expected[0])
    assert torch.equal(net.weight, before)


def test_the_averaged_weights_are_judged_and_kept():
    settings = Training(epochs=3, ema=0.9, **SGD)
    fitted, last = fit(toy_candidate("plain"), settings, toy_context()), Training(epochs=3, **SGD)
    plain = fit(toy_candidate("plain"), last, toy_context())
    assert [r["train_loss"] for r in fitted.history] == [r["train_loss"] for r in plain.history]
    assert not torch.equal(weights(fitted), weights(plain))
    assert fitted.history[-1]["validation_loss"] != plain.history[-1]["validation_loss"]


# --- hooks ---


class TwoHeads(nn.Module):
    """Answers with a tuple, and wants images twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(1, 6, 3, stride=2), nn.Linear(54, 4), nn.Linear(54, 2)

    def forward(self, x, scale):
        x = F.relu(self.conv(x * scale)).flatten(1)
        return self.a(x), self.b(x)


def test_a_network_of_two_heads_trains_with_hooks():
    task = Task(
        forward=lambda net, x: net(x, 0.5),
        loss=lambda answers, y: F.cross_entropy(answers[0], y) + F.cross_entropy(answers[1], y % 2),
        metric=lambda answers, y: right(answers[0], y) & right(answers[1], y % 2),
    )
    torch.manual_seed(0)
    data = toy_data()
    candidate = Candidate(TwoHeads(), inputs=Inputs(data.shape, data.mean, data.std), classes=data.classes)
    context = replace(toy_context(), example=torch.zeros(0))
    fitted = fit(candidate, Training(epochs=20, lr=0.02, batch=16), context, task=task)
    assert fitted.history[-1]["train_top1"] == fitted.history[-1]["validation_top1"] == 1.0
    assert fitted.history[-1]["validation_loss"] < 0.1 * fitted.history[0]["validation_loss"]


# --- a method at work ---


def pointwise() -> Candidate:
    """A network with one 1 x 1 convolution that can be condensed."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    data = toy_data()
    return Candidate(net, inputs=Inputs(data.shape, data.mean, data.std), classes=data.classes)


def test_stages_come_at_their_updates_and_the_result_is_converted():
    context, seen = toy_context(), []
    acting = Condense(groups=4, factor=4).gradually(pointwise(), context)

    class Watched:
        candidate, moments, finish, penalty = acting.candidate, acting.moments, acting.finish, acting.penalty

        def act(self, stage, weights):
            seen.append((stage, {name: (w != 0).float().mean().item() for name, w in weights.items()}))
            return acting.act(stage, weights)

    fitted = fit(Watched(), Training(epochs=4, **SGD), context)  # 24 updates: 4, 8, 12
    assert [stage for stage, _ in seen] == [0, 1, 2]
    assert [next(iter(live.values())) for _, live in seen] == [1.0, 0.75, 0.5]
    assert [row["stage"] for row in fitted.history] == [1, 2, 3, 3]
    layer = fitted.candidate.net[3]
    assert (layer.layer.groups, layer.layer.weight.shape) == (4, (8, 4, 1, 1))
    assert not fitted.candidate.forms


@pytest.mark.parametrize(("moments", "updates", "expected"), [((0.5,), 10, (5,)), ((1 / 6, 1 / 3, 0.5), 7, (2, 3, 4))])
def test_moments_are_the_first_updates_at_or_behind(moments, updates, expected):
    assert due(moments, updates) == expected


@pytest.mark.parametrize(("moments", "updates"), [((0.1,), 1), ((0.51, 0.52), 10), ((0.01, 0.02), 3), ((0.99,), 10)])
def test_a_training_too_short_for_its_stages_is_refused(moments, updates):
    with pytest.raises(RecipeError, match="train for more epochs"):
        due(moments, updates)


def test_it_is_refused_before_anything_is_trained():
    shown = []
    context = replace(toy_context(), progress=lambda *a: shown.append(a))
    with pytest.raises(RecipeError, match="3 stages"):
        fit(Condense().gradually(pointwise(), context), Training(epochs=1, batch=96), context)
    assert not shown


# --- precision ---


def test_half_precision_needs_an_accelerator():
    with pytest.raises(RecipeError, match="'16-mixed' needs device 'cuda'"):
        fit(toy_candidate("plain"), Training(epochs=1, precision="16-mixed"), toy_context())


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one_does():
    settings = {"epochs": 2, "lr": 0.05, "optimizer": "sgd", "batch": 32}
    plain = fit(toy_candidate("residual"), Training(**settings), toy_context())
    compiled = fit(toy_candidate("residual"), Training(compile=True, **settings), toy_context())
    torch.testing.assert_close(weights(compiled), weights(plain), atol=1e-4, rtol=1e-3)


# --- resume in mid-epoch ---


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("update", [3, 6, 9, 10])
@pytest.mark.parametrize("kind", ["dropout and average", "condensing"])
def test_stopped_in_an_epoch_ends_in_the_same_bytes(tmp_path, monkeypatch, update, kind):
    monkeypatch.setattr(loop, "TICK", 3)
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    settings = Training(epochs=2, shift=1, flip=True, ema=0.9 if kind != "condensing" else 0.0, **SGD)
    masked = toy_candidate("plain")
    masked = masked.but(forms={"fc1.weight": Form(support=masked.net.fc1.weight.abs() >= 0)})

    def start(context):
        return Condense().gradually(pointwise(), context) if kind == "condensing" else masked

    whole = fit(start(toy_context()), settings, toy_context(), key="k")

    def show(_what, done, _total, _numbers):
        if done >= update:
            raise Stop

    context = replace(toy_context(), scratch=tmp_path)
    with pytest.raises(Stop):
        fit(start(context), settings, replace(context, progress=show), key="k")
    again = fit(start(context), settings, context, key="k")
    assert contract.state(again.candidate.net) == contract.state(whole.candidate.net)
    keys = ("epoch", "lr", "train_loss", "train_top1", "validation_loss", "validation_top1")
    assert [[r[k] for k in keys] for r in again.history] == [[r[k] for k in keys] for r in whole.history]


# --- a loss that begins later ---


def test_a_deferred_balanced_loss_is_cross_entropy_until_then():
    plain = fit(toy_candidate("plain"), Training(epochs=2, **SGD), toy_context())
    late = {"loss": "class_balanced_focal", "focal_form": "softmax"}
    deferred = fit(toy_candidate("plain"), Training(epochs=2, focal_from=0.5, **late, **SGD), toy_context())
    whole = fit(toy_candidate("plain"), Training(epochs=2, **late, **SGD), toy_context())
    first = [fitted.history[0]["train_loss"] for fitted in (plain, deferred, whole)]
    second = [fitted.history[1]["train_loss"] for fitted in (plain, deferred)]
    assert first[0] == first[1] != first[2]
    assert second[0] != second[1]
