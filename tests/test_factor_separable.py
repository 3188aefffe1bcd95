"""Depthwise and pointwise: the best fit per input channel, exact at full rank and for what is separable."""

import pytest
import torch
from contract import one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.factor import Refused, rebuilt
from netpress.factor.compose import composed, relative_error
from netpress.factor.separable import separable


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_the_error_is_that_of_eckart_and_young_for_every_input(outputs, inputs, high, wide, seed):
    w = draw(outputs, inputs, high, wide, seed=seed)
    for m in range(1, high * wide + 1):
        tails = [float(torch.linalg.svdvals(w[:, i].flatten(1))[m:].square().sum()) for i in range(inputs)]
        expected = (sum(tails) / float(w.square().sum())) ** 0.5
        assert relative_error(w, separable(w, m)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_what_is_separable_is_found_again(multiplier):
    depth, point = draw(4, multiplier, 1, 3, 3), draw(7, 4, multiplier, seed=1)
    w = torch.einsum("oim,imxkl->oikl", point, depth)
    assert relative_error(w, separable(w, multiplier)) < 1e-12


def test_full_rank_reproduces_the_layer():
    layer = nn.Conv2d(5, 12, 3, padding=1, stride=2)
    made = rebuilt(layer, separable(layer.weight, 9))
    assert [type(m).__name__ for m in made] == ["Conv2d", "Conv2d"]
    assert made.depthwise.groups == 5
    x = draw(2, 5, 9, 9).float()
    assert (made(x) - layer(x)).abs().max() < 1e-5 * layer(x).abs().max()


def test_no_other_kernels_are_nearer():
    w = draw(6, 4, 3, 3)
    found = separable(w)
    best = float((w - composed(found, w.shape)).norm())
    for seed in range(20):
        moved = {n: x + 0.05 * draw(*x.shape, seed=seed) for n, x in found.weights.items()}
        other = type(found)("separable", (1,), moved)
        assert float((w - composed(other, w.shape)).norm()) > best


def test_zeros_few_outputs_and_even_norms():
    assert relative_error(torch.zeros(3, 2, 3, 3), separable(torch.zeros(3, 2, 3, 3))) == 0
    w = draw(2, 3, 3, 3)
    found = separable(w, 5)  # two outputs: no more than two kernels per input do anything
    assert relative_error(w, found) < 1e-12
    assert found.weights["depthwise"].shape == (15, 1, 3, 3)
    norms = found.weights["depthwise"].flatten(1).norm(dim=1), found.weights["pointwise"].flatten(2).norm(dim=0)[:, 0]
    assert torch.allclose(*norms, atol=1e-9)


def test_more_kernels_than_entries_are_refused():
    with pytest.raises(Refused, match="kernels per input 10: expected 1 to 9"):
        rebuilt(nn.Conv2d(2, 2, 3), separable(draw(2, 2, 3, 3), 10))
