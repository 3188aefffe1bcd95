"""Which blocks of a kernel stay: as they lie, and in the best order; nothing is lost where the kernel is grouped."""

import itertools

import pytest
import torch
from contract import one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.factor import Refused, rebuilt
from netpress.factor.compose import composed, relative_error
from netpress.factor.groups import grouped, kept_energy, shuffled


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hidden(outputs: int, inputs: int, groups: int, seed: int = 0) -> torch.Tensor:
    """A kernel that is grouped, with its channels out of order."""
    w = torch.zeros(outputs, inputs, 3, 3, dtype=torch.float64)
    o, i = outputs // groups, inputs // groups
    for g in range(groups):
        w[g * o : (g + 1) * o, g * i : (g + 1) * i] = draw(o, i, 3, 3, seed=seed + g)
    rng = torch.Generator().manual_seed(seed)
    return w[torch.randperm(outputs, generator=rng)][:, torch.randperm(inputs, generator=rng)]


@pytest.mark.parametrize("groups", [2, 4])
def test_a_hidden_grouped_kernel_is_found(groups):
    w = hidden(16, 8, groups)
    found = shuffled(w, groups)
    assert relative_error(w, found) < 1e-12
    assert kept_energy(w, groups) < 0.9  # as the channels lie, much would be lost
    layer = nn.Conv2d(8, 16, 3, padding=1, stride=2).double()
    with torch.no_grad():
        layer.weight.copy_(w)
    x = draw(2, 8, 9, 9)
    assert (rebuilt(layer, found)(x) - layer(x)).abs().max() < 1e-12  # the bias is put in order too


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([(2, 2, 2), (4, 6, 2), (6, 3, 3), (8, 8, 4), (12, 4, 2)]), st.integers(0, 99))
def test_an_order_never_holds_less_than_none(shape, seed):
    outputs, inputs, groups = shape
    w = draw(outputs, inputs, 1, 3, seed=seed) ** 3
    found = shuffled(w, groups, seed=seed)
    plain, best = relative_error(w, grouped(w, groups)), relative_error(w, found)
    assert best <= plain + 1e-12
    assert plain == pytest.approx((1 - kept_energy(w, groups)) ** 0.5)
    assert sorted(found.weights["before"].tolist()) == list(range(inputs))
    assert sorted(found.weights["after"].tolist()) == list(range(outputs))
    # what stays are entries of the kernel at their places, all else is zero
    what = composed(found, w.shape)
    assert bool(((what == w) | (what == 0)).all())
    assert int((what.abs().sum((2, 3)) > 0).sum()) == outputs * inputs // groups


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_best_order_of_all_on_small_kernels(seed):
    w = draw(4, 4, 1, 1, seed=seed)
    halves = list(itertools.combinations(range(4), 2))

    def order(half):
        return [*half, *(k for k in range(4) if k not in half)]

    best = max(kept_energy(w, 2, order(r), order(c)) for r in halves for c in halves)
    found = shuffled(w, 2)
    held = kept_energy(w, 2, found.weights["after"].argsort(), found.weights["before"])
    assert held == pytest.approx(best)


def test_a_kernel_in_order_stays_in_order():
    w = torch.zeros(8, 8, 3, 3)
    w[:4, :4] = w[4:, 4:] = 1
    found = shuffled(w, 2)
    assert torch.equal(composed(found, w.shape), w.double())
    assert found.weights["before"].tolist() == list(range(8))
    assert found.weights["after"].tolist() == list(range(8))


def test_zeros_one_seed_one_answer_and_single_channels():
    zeros = shuffled(torch.zeros(4, 4, 3, 3), 4)
    assert zeros.weights["grouped"].shape == (4, 1, 3, 3)
    assert kept_energy(torch.zeros(4, 4, 3, 3), 2) == 1
    w = draw(24, 24, 3, 3)
    one, two = shuffled(w, 4, seed=3), shuffled(w, 4, seed=3)
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(Refused, match="6 inputs and 4 outputs do not make 4 groups"):
        rebuilt(nn.Conv2d(6, 4, 3), grouped(draw(4, 4, 3, 3), 4))
