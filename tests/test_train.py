"""The training loop: schedules, losses, scores, checkpoints, early stopping, and what stops it."""

from __future__ import annotations

import math

import contract
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import nn
from toy_nets import toy_candidate, toy_context, toy_data

from netpress.candidate import Candidate, Context, Inputs
from netpress.errors import DataError, ModelError
from netpress.methods import WeightPrune
from netpress.shadow import evaluating
from netpress.train import Training, draw, evaluate, fit, logits, score
from netpress.train.checkpoint import CHECKPOINT, Progressed, State, finite, load_checkpoint, save_checkpoint
from netpress.train.losses import classification, distillation, training_loss
from netpress.train.schedule import learning_rate

# --- schedules ---


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_cosine(warmup):
    s = Training(lr=0.2, warmup=warmup)
    for done in np.linspace(warmup, 0.999, 50):
        expected = 0.1 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
        assert learning_rate(s, done) == pytest.approx(expected)
    assert learning_rate(s, 1.0) == pytest.approx(0, abs=1e-12)


def test_warmup_is_a_straight_line_for_every_schedule():
    for schedule in ("cosine", "step", "constant"):
        s = Training(lr=0.2, warmup=0.5, schedule=schedule)
        assert [learning_rate(s, d) for d in (0.0, 0.1, 0.25)] == pytest.approx([0.0, 0.04, 0.1])


def test_step_equals_pytorchs_own():
    s = Training(lr=0.2, schedule="step", milestones=(0.3, 0.6), gamma=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6], gamma=0.5)
    for i in range(10):
        assert learning_rate(s, i / 10) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_the_loop_uses_the_schedule():
    fitted = fit(toy_candidate("plain"), Training(epochs=3, lr=0.01, batch=32), toy_context())
    expected = [learning_rate(Training(lr=0.01), (3 * (e + 1) - 1) / 9) for e in range(3)]
    assert [row["lr"] for row in fitted.history] == pytest.approx(expected)


# --- losses and scores ---


def random_logits(seed: int, n: int = 7, c: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(n, c)) * 3, dtype=torch.float32), torch.tensor(rng.integers(0, c, n))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 20))
def test_distillation_is_the_formula(seed, temperature):
    z, t = random_logits(seed)[0].double().numpy(), random_logits(seed + 1)[0].double().numpy()

    def softmax(a):
        e = np.exp(a / temperature - (a / temperature).max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p, q = softmax(t), softmax(z)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(1).mean()
    ours = distillation(torch.tensor(z), torch.tensor(t), temperature=temperature).item()
    assert ours == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_training_loss_weighs_both():
    z, y = random_logits(0)
    t, _ = random_logits(1)
    s = Training(distill=0.3, temperature=2.0, label_smoothing=0.1)
    hard = classification(z, y, smoothing=0.1)
    expected = 0.7 * hard + 0.3 * distillation(z, t, temperature=2.0)
    torch.testing.assert_close(training_loss(z, y, t, s), expected)
    torch.testing.assert_close(training_loss(z, y, None, s), hard)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.9))
def test_smoothing_is_the_formula(seed, smoothing):
    z, y = random_logits(seed)
    log_p = z.double().log_softmax(1)
    expected = -(1 - smoothing) * log_p[range(7), y].mean() - smoothing / 6 * log_p.sum(1).mean()
    assert classification(z, y, smoothing=smoothing).item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learns(seed):
    z, y = random_logits(seed, n=200, c=9)
    ours, labels = score(z, y), list(range(9))
    assert ours.top1 == pytest.approx(accuracy_score(y, z.argmax(1)))
    assert ours.top5 == pytest.approx(top_k_accuracy_score(y, z.numpy(), k=5, labels=labels))
    assert ours.loss == pytest.approx(log_loss(y, z.double().softmax(1).numpy(), labels=labels))


def test_top5_of_fewer_classes_is_one():
    z, y = random_logits(0, c=4)
    assert score(z, y).top5 == 1.0


def test_evaluation_does_not_depend_on_the_batch():
    candidate, data = toy_candidate("plain"), toy_data()
    whole = logits(candidate.net, data.train, candidate.inputs)
    torch.testing.assert_close(logits(candidate.net, data.train, candidate.inputs, batch=7), whole)
    assert evaluate(candidate.net, data.train, candidate.inputs) == score(whole, data.train.labels)


def test_every_module_gets_its_own_flag_back():
    candidate = toy_candidate("plain")
    flags = [m.training for m in candidate.net.modules()]
    assert len(set(flags)) == 2
    evaluate(candidate.net, toy_data().test, candidate.inputs)
    assert [m.training for m in candidate.net.modules()] == flags
    with pytest.raises(KeyError), evaluating(candidate.net):
        raise KeyError
    assert [m.training for m in candidate.net.modules()] == flags


def test_images_that_do_not_fit_are_named():
    net = nn.Sequential(nn.Flatten(), nn.Linear(10, 4))
    with pytest.raises(ModelError, match=r"does not take images of shape \(1, 8, 8\)") as caught:
        evaluate(net, toy_data().test, Inputs((1, 8, 8), (0.0,), (1.0,)))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"expected logits of shape"):
        evaluate(nn.Conv2d(1, 2, 3), toy_data().test, Inputs((1, 8, 8), (0.0,), (1.0,)))


# --- the loop ---


def test_training_learns():
    fitted = fit(toy_candidate("plain"), Training(epochs=12, lr=0.02, batch=16), toy_context())
    assert evaluate(fitted.candidate.net, toy_data().test, fitted.candidate.inputs).top1 > 0.9
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"] / 2
    assert [row["epoch"] for row in fitted.history] == list(range(1, 13))


def test_the_loop_is_plain_sgd():
    candidate, data = toy_candidate("residual"), toy_data()
    settings = Training(epochs=2, lr=0.05, optimizer="sgd", momentum=0.9, weight_decay=0.01, batch=32, clip=1.0)
    ours = fit(candidate, settings, toy_context()).candidate.net
    net = toy_candidate("residual").net
    many = [p for p in net.parameters() if p.ndim > 1]
    few = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": many, "weight_decay": 0.01}, {"params": few}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    net.train()
    for epoch in range(2):
        from netpress.data.batches import batches

        seed = draw(3, 1, epoch)
        for i, (x, y) in enumerate(batches(data.train, size=32, mean=data.mean, std=data.std, seed=seed)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, (epoch * 3 + i) / 6)
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    for (name, mine), theirs in zip(ours.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_zero_epochs_return_the_candidate_itself():
    candidate = toy_candidate("plain")
    fitted = fit(candidate, Training(), toy_context())
    assert fitted.candidate is candidate
    assert fitted.history == ()


def test_the_argument_and_the_global_generator_are_left_alone():
    candidate = WeightPrune(sparsity=0.5).apply(toy_candidate("plain"), toy_context())
    earlier = contract.facts(candidate)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fitted = fit(candidate, Training(epochs=1), toy_context())
    assert torch.equal(torch.rand(3), expected)
    assert contract.facts(candidate) == earlier
    assert all(p.is_contiguous() for p in fitted.candidate.net.parameters())


@pytest.mark.parametrize("change", [{"seed": 4}, {"step": 2}])
def test_seed_and_step_change_the_result(change):
    def bytes_of(context: Context) -> dict[str, bytes]:
        return contract.state(fit(toy_candidate("plain"), Training(epochs=1), context).candidate.net)

    assert bytes_of(toy_context()) == bytes_of(toy_context())
    assert bytes_of(toy_context(**change)) != bytes_of(toy_context())


def test_patience_returns_the_best_epoch():
    settings = Training(epochs=30, lr=0.5, optimizer="sgd", schedule="constant", patience=3, batch=16)
    fitted = fit(toy_candidate("plain"), settings, toy_context())
    losses = [row["validation_loss"] for row in fitted.history]
    best = int(np.argmin(losses))
    assert len(losses) == min(30, best + 4)
    data = toy_data()
    assert evaluate(fitted.candidate.net, data.validation, fitted.candidate.inputs).loss == pytest.approx(min(losses))


def test_training_without_data_is_refused():
    with pytest.raises(DataError, match="no train split"):
        fit(toy_candidate("plain"), Training(epochs=1), Context(example=torch.zeros(1, 1, 8, 8)))


def exploding() -> Candidate:
    """Logits overflow in the second epoch, not in the first."""
    candidate = toy_candidate("concat")
    with torch.no_grad():
        candidate.net.head.weight.mul_(1e18)
    return candidate


def test_a_loss_that_is_not_finite_names_step_and_epoch_and_keeps_the_last_good_checkpoint(tmp_path):
    calls = 0

    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 4)

        def forward(self, x):
            nonlocal calls
            calls += self.training
            return self.fc(x.flatten(1)) * (float("nan") if calls > 4 else 1.0)

    candidate = toy_candidate("plain").but(net=Bad())
    context = Context(**{**_fields(toy_context(step=7)), "scratch": tmp_path})
    with pytest.raises(ModelError) as caught:
        fit(candidate, Training(epochs=3, lr=0.125, batch=32), context, key="k")
    text = str(caught.value)
    assert "\n" not in text
    assert "step 7, epoch 2, batch 2: the loss is nan" in text
    assert "lr (it is 0.125)" in text
    net = Bad()
    done = load_checkpoint(tmp_path / CHECKPOINT, State(net, torch.optim.AdamW(_groups(net))), key="k")
    assert done.epochs == 1
    assert finite(net) is None


def _groups(net: nn.Module) -> list[dict[str, object]]:
    return [{"params": [net.fc.weight]}, {"params": [net.fc.bias]}]


def _fields(context: Context) -> dict[str, object]:
    return {name: getattr(context, name) for name in Context.__dataclass_fields__}


def test_too_high_a_rate_is_a_model_error():
    settings = Training(epochs=5, lr=10, optimizer="sgd", schedule="constant", batch=8)
    with pytest.raises(ModelError, match=r"step 1, epoch \d+") as caught:
        fit(exploding(), settings, toy_context())
    assert "\n" not in str(caught.value)


# --- checkpoints ---


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("patience", [0, 2])
def test_stopped_after_any_epoch_ends_in_the_same_bytes(tmp_path, optimizer, patience):
    candidate = WeightPrune(sparsity=0.5).apply(toy_candidate("plain"), toy_context())
    settings = Training(
        epochs=4, lr=0.02, optimizer=optimizer, weight_decay=0.1, shift=1, patience=patience, warmup=0.2
    )
    whole = fit(candidate, settings, toy_context(), key="k")

    class Stop(Exception):  # noqa: N818
        pass

    for stop_after in (1, 2, 3):
        scratch = tmp_path / f"{stop_after}"
        scratch.mkdir()
        context = Context(**{**_fields(toy_context()), "scratch": scratch})

        def stop(row, last=stop_after):
            if row["epoch"] == last:
                raise Stop

        with pytest.raises(Stop):
            fit(candidate, settings, context, key="k", on_epoch=stop)
        again = fit(candidate, settings, context, key="k")
        assert contract.state(again.candidate.net) == contract.state(whole.candidate.net)
        assert [_plain(r) for r in again.history] == [_plain(r) for r in whole.history]


def _plain(row: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if k != "seconds" and not k.endswith("_per_second")}


def test_foreign_and_damaged_checkpoints_are_ignored(tmp_path):
    net = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, State(net, optimizer), Progressed(epochs=3), key="mine")
    assert load_checkpoint(path, State(net, optimizer), key="mine").epochs == 3
    assert load_checkpoint(path, State(net, optimizer), key="other").epochs == 0
    raw = path.read_bytes()
    for damaged in (b"", raw[:40], raw[: len(raw) // 2], b"\xff" * 100):
        path.write_bytes(damaged)
        assert load_checkpoint(path, State(net, optimizer), key="mine").epochs == 0
    assert load_checkpoint(tmp_path / "none", State(net, optimizer), key="mine").epochs == 0


def test_draws_are_independent():
    seeds = {draw(seed, step, epoch) for seed in range(5) for step in range(5) for epoch in range(20)}
    assert len(seeds) == 500
    assert all(0 <= s < 2**63 for s in seeds)


def test_a_network_that_views_its_maps_trains_without_channels_last():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(36, 4)

        def forward(self, x):
            return self.fc(self.conv(x).view(len(x), -1))

    candidate = toy_candidate("plain").but(net=Views())
    fitted = fit(candidate, Training(epochs=1, batch=32), toy_context())
    assert len(fitted.history) == 1
    assert not torch.equal(fitted.candidate.net.fc.weight, candidate.net.fc.weight)
