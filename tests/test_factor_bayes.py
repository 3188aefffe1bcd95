"""The rank that the evidence supports: planted ranks, pure noise, and the equations it must satisfy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.factor.bayes import evidence, vbmf_rank


def planted(shape, rank, noise, seed=0):
    g = torch.Generator().manual_seed(seed)
    rows, columns = shape
    signal = (
        torch.randn(rows, rank, generator=g, dtype=torch.float64) @ torch.randn(rank, columns, generator=g).double()
    )
    return signal + noise * torch.randn(rows, columns, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(
    ("shape", "rank", "noise"),
    [((40, 60), 5, 0.3), ((60, 40), 5, 0.3), ((64, 576), 10, 0.5), ((64, 64), 5, 0.1), ((3, 200), 1, 0.1)],
)
def test_finds_a_planted_rank_and_the_noise(shape, rank, noise):
    found = evidence(planted(shape, rank, noise))
    assert found.rank == rank == vbmf_rank(planted(shape, rank, noise))
    assert found.noise == pytest.approx(noise**2, rel=0.1)


@pytest.mark.parametrize("shape", [(30, 30), (64, 576), (1, 9)])
def test_pure_noise_has_no_rank_and_a_layer_keeps_one(shape):
    noise = planted(shape, 1, 1.0) - planted(shape, 1, 0.0)
    assert evidence(noise).rank == 0
    assert vbmf_rank(noise) == 1


def test_without_noise_the_rank_is_the_algebraic_one():
    assert evidence(planted((10, 20), 3, 0.0)).rank == 3
    assert evidence(torch.zeros(4, 5)).rank == 0
    assert vbmf_rank(torch.zeros(4, 5)) == 1


def test_a_signal_under_the_threshold_is_taken_for_noise():
    """A singular value of sqrt(M s (1 + sqrt(a))^2) is where noise alone reaches: half of that cannot be seen."""
    noise = planted((50, 100), 1, 1.0) - planted((50, 100), 1, 0.0)
    one = torch.zeros(50, 100, dtype=torch.float64)
    one[0, 0] = 0.5 * (10 + 50**0.5)
    assert evidence(noise + one).rank == 0
    assert evidence(noise + 4 * one).rank == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_does_not_depend_on_scale_or_orientation(rank, scale, seed):
    matrix = planted((12, 30), rank, 0.2, seed)
    found = evidence(matrix)
    scaled = evidence(scale * matrix.T)
    assert scaled.rank == found.rank
    assert scaled.noise == pytest.approx(scale**2 * found.noise, rel=1e-3)
