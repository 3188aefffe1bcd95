"""Tucker-2 of kernels: exact at full rank, between the bounds of its unfoldings, never worse with inputs known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.factor import Refused, rebuilt
from netpress.factor.svd import output_error, regularised
from netpress.factor.tucker import input_moment, tucker2, tucker_kernel, unfoldings


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(size, seed=1, rank=None):
    mixed = draw(size, rank or size, seed=seed) * torch.logspace(0, -3, rank or size, dtype=torch.float64)
    return mixed @ mixed.T


def parts(found):
    reduce, core, expand = found.weights.values()
    return reduce[:, :, 0, 0], core, expand[:, :, 0, 0]


def error(W, found, metric=None):
    return output_error(W - tucker_kernel(*parts(found)), metric)


def test_a_kernel_of_low_rank_comes_back():
    W = tucker_kernel(draw(3, 8), draw(4, 3, 3, 3, seed=1), draw(9, 4, seed=2))
    assert error(W, tucker2(W, 3, 4)) < 1e-20
    assert error(W, tucker2(W, 3, 4, moment=correlated(72))) < 1e-12
    assert [int((s.values > 1e-9).sum()) for s in unfoldings(W)] == [3, 4]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 99))
def test_error_lies_between_the_bounds_of_the_unfoldings(rank_in, rank_out, seed):
    W = draw(7, 5, 3, 2, seed=seed)
    of_in, of_out = (s.values.square() for s in unfoldings(W))
    tails = float(of_in[rank_in:].sum()), float(of_out[rank_out:].sum())
    found = error(W, tucker2(W, rank_in, rank_out))
    rounding = 1e-6 * float(W.double().square().sum())  # the parts are float32
    assert max(tails) - rounding <= found <= sum(tails) + rounding
    assert found <= error(W, tucker2(W, rank_in, rank_out, sweeps=0)) + rounding


@pytest.mark.parametrize("moment", [None, correlated(45), correlated(45, rank=6)])
def test_no_small_change_of_the_parts_helps(moment):
    """Of the core and the expansion to first order with a moment; of all three without."""
    W = draw(7, 5, 3, 3)
    metric = None if moment is None else regularised(moment)
    found = tucker2(W, 2, 3, moment=moment, sweeps=60)
    P, core, U = parts(found)
    for k in range(20):
        step = 1e-4
        shifted = (
            P + (step * draw(*P.shape, seed=k) if moment is None else 0),
            core + step * draw(*core.shape, seed=k + 50),
            U + step * draw(*U.shape, seed=k + 90),
        )
        assert output_error(W - tucker_kernel(*shifted), metric) > error(W, found, metric)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 99), st.sampled_from([None, 3]))
def test_with_a_moment_never_worse_on_these_inputs(rank_in, rank_out, seed, rank):
    W, moment = draw(7, 5, 3, 2, seed=seed), correlated(30, seed + 1, rank)
    metric = regularised(moment)
    plain = error(W, tucker2(W, rank_in, rank_out), metric)
    assert error(W, tucker2(W, rank_in, rank_out, moment=moment), metric) <= plain * (1 + 1e-9) + 1e-12


def test_with_a_moment_much_better_where_inputs_differ_in_size():
    sizes = torch.tensor([1.0, 1, 1, 1, 1e-2, 1e-2, 1e-2, 1e-2], dtype=torch.float64)
    moment = torch.diag(sizes.repeat_interleave(9) ** 2)
    W = draw(12, 8, 3, 3)
    W[:, 4:] *= 3  # large weights for inputs that are never there
    metric = regularised(moment)
    plain, aware = (error(W, tucker2(W, 4, 12, moment=m), metric) for m in (None, moment))
    assert aware < 0.02 * plain


@pytest.mark.parametrize(
    ("outputs", "inputs", "kernel"),
    [(8, 6, (3, 3)), (2, 30, (3, 3)), (40, 3, (3, 3)), (5, 4, (1, 3))],
)
def test_full_rank_computes_what_the_layer_does(outputs, inputs, kernel):
    layer = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=1)
    x = torch.randn(2, inputs, 9, 9)
    size = layer.weight[0].numel()
    for moment in (None, correlated(size), correlated(size, rank=3), torch.zeros(size, size)):
        made = rebuilt(layer, tucker2(layer.weight, inputs, outputs, moment=moment))
        torch.testing.assert_close(made(x), layer(x), rtol=1e-5, atol=1e-5)


def test_the_moment_of_the_channels_is_the_mean_over_positions():
    patches = draw(50, 2, 3, 4)
    moment = patches.flatten(1).T @ patches.flatten(1) / 50
    channels = patches.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(input_moment(moment, draw(1, 2, 3, 4)), channels.T @ channels / 600)


def test_spectra_under_a_moment_are_of_the_outputs_covariance():
    W, moment = draw(4, 3, 2, 2), correlated(12)
    metric = regularised(moment)
    covariance = W.flatten(1) @ metric @ W.flatten(1).T
    values = unfoldings(W, moment)[1].values
    torch.testing.assert_close(values.square().flip(0), torch.linalg.eigvalsh(covariance))


def test_parameters():
    found = tucker2(draw(8, 6, 3, 3), 2, 3)
    assert sum(w.numel() for w in found.weights.values()) == 6 * 2 + 9 * 2 * 3 + 3 * 8
    assert found.numbers == (2, 3)


@pytest.mark.parametrize(("rank_in", "rank_out", "what"), [(7, 2, "inputs 7"), (2, 9, "outputs 9"), (0, 2, "inputs 0")])
def test_ranks_that_are_not_there(rank_in, rank_out, what):
    with pytest.raises(Refused, match=f"rank of the {what}: expected 1 to"):
        tucker2(draw(8, 6, 3, 3), rank_in, rank_out)


def test_a_moment_of_other_patches():
    with pytest.raises(Refused, match=r"moment of \(6, 6\) does not fit patches of 54"):
        tucker2(draw(8, 6, 3, 3), 2, 2, moment=torch.eye(6))
