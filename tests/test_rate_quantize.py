"""Entropy-constrained quantization: better than rounding and than k-means once a coder follows; budgets; refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contract import one_thread  # noqa: F401
from torch import nn
from toy_nets import toy_candidate, toy_context

from netpress import store
from netpress.candidate import Candidate
from netpress.errors import BudgetError, ModelError, RecipeError
from netpress.forms import Affine, Form, Shared
from netpress.methods import RateQuantize, WeightShare
from netpress.methods.rate_quantize import _chosen, _means
from netpress.methods.rating import on_whole, packed


def layer(*, seed=0, size=(64, 288)):
    """A linear layer of Laplacian weights, as trained ones are."""
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.empty(size).exponential_(20.0, generator=generator)
    net = nn.Linear(size[1], size[0], bias=False)
    net.weight.data = magnitude * torch.where(torch.rand(size, generator=generator) < 0.5, -1.0, 1.0)
    return Candidate(net)


def error(made, before):
    return float((made.net.weight - before.net.weight).detach().square().sum())


def test_fewer_bytes_than_rounding_at_the_same_error():
    w = layer().net.weight.detach()
    form, values = _chosen(w, torch.ones_like(w), 4e-4, means=False)
    ours = float((values - w).square().sum())

    def rounded(step):
        return (w / step).round() * step

    low, high = 1e-4, 1.0
    while high / low > 1.0001:  # the step at which plain rounding has this error
        step = (low * high) ** 0.5
        low, high = (low, step) if float((rounded(step) - w).square().sum()) > ours else (step, high)
    assert packed(form, values) < 0.96 * packed(on_whole(rounded(low), torch.tensor([[low]]), 8), rounded(low))


def test_fewer_bytes_than_shared_values_at_the_same_error():
    before = layer()
    shared = WeightShare(bits=4, init="optimal").apply(before, toy_context())
    size = packed(shared.forms["weight"], shared.net.weight.detach())
    made = RateQuantize(lam=1.0, samples=0).apply(before, toy_context())
    low, high = 1e-4, 100.0
    while high / low > 1.001:
        lam = (low * high) ** 0.5
        made = RateQuantize(lam=lam, samples=0).apply(before, toy_context())
        low, high = (low, lam) if error(made, before) > error(shared, before) else (lam, high)
    made = RateQuantize(lam=low, samples=0).apply(before, toy_context())
    assert packed(made.forms["weight"], made.net.weight.detach()) < 0.95 * size


def test_the_values_of_a_table_are_the_means_of_their_weights_by_what_they_matter():
    w = layer().net.weight.detach()
    f = torch.rand_like(w) + 0.1
    number = (w / 0.2).round()
    form, values = _means(w, f, number)
    assert isinstance(form.values, Shared)
    for k in number.unique():
        members, weights = w[number == k].double(), f[number == k].double()
        mean = 0.0 if k == 0 else float((members * weights).sum() / weights.sum())
        assert values[number == k].unique().tolist() == pytest.approx([mean], rel=2**-10)
    assert (f * (w - values).square()).sum() < (f * (w - number * 0.2).square()).sum()


def test_what_the_loss_cares_about_is_kept_better():
    before = layer()
    w = before.net.weight.detach()
    f = torch.ones_like(w)
    f[:32] = 100.0
    _, values = _chosen(w, f, 1e-4, means=False)
    off = (values - w).square().mean(1)
    assert off[:32].mean() < 0.3 * off[32:].mean()


@pytest.mark.parametrize(("size", "values"), [("6kB", "grid"), ("3kB", "means"), ("20%", "grid")])
def test_a_budget_is_met_and_used(size, values, tmp_path):
    made = RateQuantize(max_size=size, values=values).apply(toy := wide(), toy_context())
    budget = {"6kB": 6000, "3kB": 3000, "20%": 0.2 * 4 * sum(p.numel() for p in toy.net.parameters())}[size]
    assert 0.9 * budget <= store.save(made, tmp_path / "a.press").file_bytes <= budget


def wide():
    """A toy network whose hidden layer has enough weights that bytes can be chosen finely."""
    toy = toy_candidate("plain")
    net = toy.net
    torch.manual_seed(0)
    net.fc1, net.fc2 = nn.Linear(32, 200), nn.Linear(200, 4)
    return toy.but(net=net)


def test_a_price_that_leaves_nothing_gives_zeros_and_old_zeros_stay():
    toy = toy_candidate("plain")
    support = torch.rand_like(toy.net.fc1.weight) < 0.5
    with torch.no_grad():
        toy.net.fc1.weight.mul_(support)
    masked = toy.but(forms={"fc1.weight": Form(support=support)})
    made = RateQuantize(lam=1e-4).apply(masked, toy_context())
    assert not bool(made.net.fc1.weight[~support].any())
    gone = RateQuantize(lam=1000.0).apply(masked, toy_context())
    assert not any(bool(p.any()) for n, p in gone.net.named_parameters() if n.startswith(("fc", "conv")))


def test_numbers_end_at_eight_bits():
    made = RateQuantize(lam=1e-9, samples=0).apply(layer(), toy_context())
    values = made.forms["weight"].values
    grid = values if isinstance(values, Affine) else None
    assert (grid.bits <= 8) if grid is not None else values.size <= 255


def test_refusals():
    with pytest.raises(BudgetError, match=r"rate_quantize\.max_size: 100 bytes is below the floor of \d+"):
        RateQuantize(max_size="100B").apply(toy_candidate("plain"), toy_context())
    with pytest.raises(RecipeError, match="Fisher information needs training images"):
        RateQuantize().apply(toy_candidate("plain"), replace(toy_context(), train=None))
    broken = toy_candidate("plain")
    with torch.no_grad():
        broken.net.fc1.bias[0] = float("inf")
    with pytest.raises(ModelError, match=r"fc1\.bias holds NaN or an infinity"):
        RateQuantize().apply(broken, toy_context())
