"""Training for rate: the estimate against the coder, budgets, prices, resume, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import contract
import numpy as np
import pytest
import torch
from contract import one_thread  # noqa: F401
from toy_nets import toy_candidate, toy_context

import netpress as nxp
from netpress import store
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec import context
from netpress.codec.header import Arch
from netpress.errors import BudgetError, ModelError, RecipeError
from netpress.forms import Affine, holds
from netpress.methods import RateTrain
from netpress.methods.rate_cost import bits, cost
from netpress.train import Training, fit, loop

TRAIN = {"lr": 2e-3, "batch": 32}


# --- the estimate ---


def sparse(share, *, rows=1.0, size=(60, 80, 3), seed=0):
    """Whole numbers, `share` of them not zero, all in the first `rows` of the rows."""
    rng = np.random.default_rng(seed)
    whole = rng.geometric(0.6, size) * rng.choice([-1, 1], size) * (rng.random(size) < share)
    whole[int(rows * size[0]) :] = 0
    return whole


@pytest.mark.parametrize(
    ("whole", "near"),
    [
        (sparse(0.02), 0.08),
        (sparse(0.3), 0.08),
        (sparse(0.9), 0.08),
        (sparse(0.1, rows=0.2), 0.08),
        (sparse(0.02, rows=0.1, size=(400, 300, 1)), 0.2),  # the coder has to learn which rows are empty
    ],
)
def test_the_estimate_is_near_what_the_coder_takes(whole, near):
    assert cost(torch.tensor(whole).float()).bits / 8 == pytest.approx(len(context.encode(whole)), rel=near)


def test_first_is_what_one_more_number_costs():
    whole = torch.tensor(sparse(0.05, size=(40, 50, 1))).float()
    found = cost(whole)
    rises = []
    for place in (whole == 0).nonzero()[::97]:
        more = whole.clone()
        more[tuple(place)] = 1
        rises.append((cost(more).bits - found.bits, float(found.first[tuple(place)])))
    real, told = np.mean(rises, axis=0)
    assert told == pytest.approx(real, rel=0.15)


def test_a_full_row_is_cheaper_than_an_empty_one_and_zero_is_never_dear():
    whole = torch.zeros(20, 30)
    whole[3] = 2
    first = cost(whole).first
    assert first[3].max() < first[4].min()
    assert first.min() >= 1


def test_the_gradient_pulls_every_weight_towards_zero_and_steps_up():
    w = torch.tensor(sparse(0.2)).float() * 0.5 + 0.01 * torch.randn(60, 80, 3)
    latent, step = w.requires_grad_(), torch.full((1, 1, 1), 0.5, requires_grad=True)
    bits(latent, step, torch.ones(1), (-8, 7)).backward()
    assert torch.equal(latent.grad.sign(), latent.detach().sign())
    assert step.grad.item() < 0


# --- training ---


@pytest.fixture(scope="module")
def digits():
    return nxp.data.open("digits")


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    net = nxp.zoo.create("lenet5")
    inputs = Inputs(digits.shape, digits.mean, digits.std)
    start = Candidate(net, arch=Arch("zoo", "lenet5"), inputs=inputs)
    return fit(start, Training(epochs=6, **TRAIN), told(digits)).candidate


def told(digits) -> Context:
    return Context(example=torch.zeros(1, *digits.shape), train=digits.train, validation=digits.validation)


def rated(trained, digits, method, epochs=8):
    return fit(method.gradually(trained, told(digits)), Training(epochs=epochs, **TRAIN), told(digits))


def test_a_higher_price_gives_a_smaller_file_and_the_estimate_is_within_three_per_cent(trained, digits, tmp_path):
    sizes = []
    for lam in (0.003, 0.05):
        fitted = rated(trained, digits, RateTrain(lam=lam))
        rate = fitted.candidate.history[-1].facts["rate"]
        assert rate["estimated_bytes"] == pytest.approx(rate["bytes"], rel=0.03)
        assert fitted.history[-1]["coded_bytes"] == pytest.approx(rate["bytes"], rel=0.03)
        assert fitted.history[-1]["price"] == pytest.approx(lam)
        saved = store.save(fitted.candidate, tmp_path / "a.press")
        # small files hold once what the tensors' bytes begin with
        assert 0 <= rate["bytes"] - (saved.file_bytes - saved.overhead_bytes) <= 4 * len(rate["tensors"])
        sizes.append(saved.file_bytes)
    assert sizes[1] < 0.5 * sizes[0]
    assert sizes[0] < 4 * 431_080 / 10


def test_a_budget_is_met_and_used(trained, digits, tmp_path):
    fitted = rated(trained, digits, RateTrain(lam=0.01, max_size="15kB"))
    assert 10_500 <= store.save(fitted.candidate, tmp_path / "a.press").file_bytes <= 15_000
    for name, form in fitted.candidate.forms.items():
        w = fitted.candidate.net.get_parameter(name)
        assert holds(form, w)
        assert form.support is None or torch.equal(form.support, w != 0)
        if isinstance(form.values, Affine):
            assert torch.equal(form.step.half().float(), form.step)


@pytest.mark.parametrize("update", [4, 7, 11])
def test_stopped_anywhere_it_ends_in_the_same_bytes(tmp_path, monkeypatch, update):
    monkeypatch.setattr(loop, "TICK", 3)
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    settings = Training(epochs=2, lr=5e-3, batch=16)
    method = RateTrain(lam=0.5, max_size="1.4kB", stages=5)

    def go(context):
        return fit(method.gradually(toy_candidate("plain"), context), settings, context, key="k")

    def show(_what, done, _total, _numbers):
        if done >= update:
            raise KeyboardInterrupt

    whole = go(toy_context())
    assert whole.history[-1]["price"] != method.lam
    kept = replace(toy_context(), scratch=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        go(replace(kept, progress=show))
    again = go(kept)
    assert contract.facts(again.candidate)[0] == contract.facts(whole.candidate)[0]
    assert again.history[-1]["price"] == whole.history[-1]["price"]


# --- what is refused ---


def test_a_budget_below_the_floor_is_refused_and_the_floor_is_said(trained, digits):
    with pytest.raises(BudgetError, match=r"150 bytes is below the floor of \d+: header, graph"):
        RateTrain(max_size="150B").gradually(trained, told(digits))


def test_a_price_that_kills_a_layer_is_stopped_and_named(trained, digits, tmp_path):
    here = replace(told(digits), scratch=tmp_path)
    with pytest.raises(ModelError, match=r"(conv|fc)\d.weight: all its weights went to 0 at a price of \d+ a kB"):
        fit(RateTrain(lam=900.0, rise=0.0).gradually(trained, here), Training(epochs=8, **TRAIN), here)


def test_weights_that_are_not_finite_and_unknown_layers_are_refused():
    broken = toy_candidate("plain")
    with torch.no_grad():
        broken.net.fc1.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"fc1\.weight holds NaN or an infinity"):
        RateTrain().apply(broken, toy_context())
    with pytest.raises(RecipeError, match=r"rate_train\.frozen: 'conv7' names no layer"):
        RateTrain(frozen=("conv7",)).apply(toy_candidate("plain"), toy_context())


def test_frozen_layers_and_biases_stay_as_they_are():
    before = toy_candidate("plain")
    made = RateTrain(frozen=("fc*",), biases="float").apply(before, toy_context())
    assert sorted(made.forms) == ["conv1.weight", "conv2.weight"]
    assert torch.equal(made.net.fc1.weight, before.net.fc1.weight)
    assert torch.equal(made.net.conv1.bias, before.net.conv1.bias)
