"""Two 3 x 3 for a 5 x 5: compositions are found again, every step lowers the error, full width loses nothing."""

import itertools
import time

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.factor import Refused, rebuilt
from netpress.factor.compose import relative_error
from netpress.factor.stacked import stacked

ROOM = {"deadline": None, "max_examples": 10}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def composition(outputs: int, inputs: int, middle: int, seed: int = 0) -> torch.Tensor:
    """A 5 x 5 kernel that two 3 x 3 make, by running them on every unit input."""
    first, second = draw(middle, inputs, 3, 3, seed=seed), draw(outputs, middle, 3, 3, seed=seed + 1)
    units = torch.eye(inputs * 25, dtype=torch.float64).view(-1, inputs, 5, 5)
    return F.conv2d(F.conv2d(units, first), second).view(inputs, 5, 5, outputs).permute(3, 0, 1, 2)


@pytest.mark.parametrize(
    ("outputs", "inputs", "middle"), [(1, 1, 1), (8, 6, 4), (6, 8, 5), (12, 3, 3), (5, 12, 4), (9, 9, 9)]
)
def test_a_composition_is_found_again(outputs, inputs, middle):
    w = composition(outputs, inputs, middle)
    assert relative_error(w, stacked(w, middle)) < 1e-5


def test_the_pair_computes_what_its_composed_kernel_computes():
    layer = nn.Conv2d(4, 6, 5, padding=3, stride=2).double()
    found = stacked(composition(6, 4, 3), 3)
    with torch.no_grad():
        layer.weight.copy_(composition(6, 4, 3))
    x = draw(2, 4, 13, 12, seed=5)
    assert (rebuilt(layer, found)(x) - layer(x)).abs().max() < 1e-4 * layer(x).abs().max()


@settings(**ROOM)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_four_times_the_channels_are_enough_for_any_kernel(outputs, inputs, seed):
    # the four corners of a 3 x 3, each followed by any 3 x 3, reach every place of a 5 x 5
    w = draw(outputs, inputs, 5, 5, seed=seed)
    assert relative_error(w, stacked(w, 4 * min(outputs, inputs))) < 1e-4


def test_more_channels_and_more_sweeps_never_hurt():
    w = draw(8, 8, 5, 5)
    errors = [relative_error(w, stacked(w, m)) for m in (1, 2, 4, 8, 16, 32)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 1
    sweeps = [relative_error(w, stacked(w, 4, sweeps=n)) for n in (1, 2, 5, 20, 100)]
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(sweeps))


def test_it_beats_what_a_random_first_half_allows():
    w, middle = draw(6, 6, 5, 5), 4
    first = draw(middle, 6, 3, 3, seed=7)
    design = torch.stack([F.pad(first, (b, 2 - b, a, 2 - a)).flatten(1) for a in range(3) for b in range(3)])
    design = design.flatten(0, 1).T  # (I 25, 9 M)
    left = w.flatten(1).T - design @ torch.linalg.lstsq(design, w.flatten(1).T).solution
    assert relative_error(w, stacked(w, middle)) < 0.9 * float(left.norm() / w.norm())


def test_zeros_tiny_values_and_extra_channels_stay_finite():
    for w in (torch.zeros(2, 3, 5, 5), 1e-20 * draw(2, 3, 5, 5), 1e20 * draw(2, 3, 5, 5), draw(1, 1, 5, 5)):
        found = stacked(w, 12)
        assert all(torch.isfinite(part).all() for part in found.weights.values())
        assert relative_error(w, found) < 1e-4
    assert found.numbers == (12,)


def test_norms_are_even_and_nothing_is_drawn():
    w = draw(6, 5, 5, 5)
    before = torch.get_rng_state()
    one, two = stacked(w, 4), stacked(w.clone(), 4)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    norms = one.weights["first"].flatten(1).norm(dim=1), one.weights["second"].transpose(0, 1).flatten(1).norm(dim=1)
    assert torch.allclose(*norms)


def test_other_kernels_are_refused_by_the_layer():
    with pytest.raises(Refused, match="3 x 3, not 5 x 5"):
        rebuilt(nn.Conv2d(2, 2, 3), stacked(draw(2, 2, 5, 5), 1))


def test_a_wide_layer_takes_seconds():
    w = draw(192, 64, 5, 5)
    began = time.perf_counter()
    found = stacked(w, 64, sweeps=10)
    assert time.perf_counter() - began < 20
    assert relative_error(w, found) < 0.8
