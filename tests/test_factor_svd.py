"""Layers by singular values: exact at full rank, Eckart and Young below, never worse with inputs known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.factor import Refused, rebuilt
from netpress.factor.svd import (
    column_moment,
    factors,
    kernel_spectrum,
    output_error,
    rank_for,
    regularised,
    root,
    spatial_kernel,
    spatial_matrix,
    spatial_svd,
    spectrum,
    svd,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(size, seed=1, rank=None):
    """A second moment with eigenvalues that fall fast; singular with a rank below the size."""
    mixed = draw(size, rank or size, seed=seed) * torch.logspace(0, -3, rank or size, dtype=torch.float64)
    return mixed @ mixed.T


def composed(found):
    """The kernel or matrix that the two layers compute."""
    first, second = found.weights.values()
    if found.operation == "spatial_svd":
        return spatial_kernel(second[:, :, 0], first[..., 0])
    return torch.tensordot(second.flatten(1), first, 1)


class TestSpectrum:
    def test_multiplies_back_and_has_orthonormal_sides(self):
        matrix = draw(7, 11)
        found = spectrum(matrix)
        torch.testing.assert_close(found.left @ torch.diag(found.values) @ found.right, matrix)
        torch.testing.assert_close(found.right @ found.right.T, torch.eye(7, dtype=torch.float64))
        assert found.total == pytest.approx(float((matrix**2).sum()))

    def test_under_a_moment_the_sides_are_orthonormal_in_it(self):
        matrix, moment = draw(7, 11), correlated(11)
        found = spectrum(matrix, moment=moment)
        torch.testing.assert_close(found.left @ torch.diag(found.values) @ found.right, matrix)
        metric = regularised(moment)
        torch.testing.assert_close(found.right @ metric @ found.right.T, torch.eye(7, dtype=torch.float64))
        assert found.total == pytest.approx(output_error(matrix, metric))

    @pytest.mark.parametrize("moment", [torch.zeros(6, 6), torch.ones(6, 6), torch.diag(torch.tensor([1.0] + 5 * [0]))])
    def test_singular_moments_keep_the_matrix(self, moment):
        matrix = draw(4, 6)
        found = spectrum(matrix, moment=moment)
        torch.testing.assert_close(found.left @ torch.diag(found.values) @ found.right, matrix)

    def test_a_moment_that_rounding_made_indefinite_still_has_a_root(self):
        bad = torch.diag(torch.tensor([1.0, -1e-9], dtype=torch.float64))
        lower = root(bad)
        torch.testing.assert_close(lower @ lower.T, bad, atol=1e-7, rtol=0)

    def test_a_moment_of_other_inputs_is_refused(self):
        with pytest.raises(Refused, match=r"moment of \(5, 5\) does not fit 6 columns"):
            spectrum(draw(4, 6), moment=torch.eye(5))

    def test_random_projection_is_near_the_least_error_and_repeatable(self):
        matrix = (draw(1100, 60) * torch.logspace(0, -2, 60, dtype=torch.float64)) @ draw(60, 1050, seed=1)
        matrix += 1e-2 * draw(1100, 1050, seed=2)
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        found = spectrum(matrix, rank=20, seed=3)
        assert torch.equal(before, torch.random.get_rng_state())
        assert len(found.values) == 20
        left, right = factors(found, 20)
        error = float((matrix - left @ right).square().sum())
        least = float(torch.linalg.svdvals(matrix)[20:].square().sum())
        assert least <= error <= 1.001 * least
        assert found.total == pytest.approx(float(matrix.square().sum()))
        again = spectrum(matrix, rank=20, seed=3)
        assert torch.equal(found.values, again.values)
        assert torch.equal(found.right, again.right)


class TestFactors:
    def test_square_roots_of_the_values_on_both_sides(self):
        found = spectrum(draw(5, 8))
        left, right = factors(found, 3)
        torch.testing.assert_close(left.norm(dim=0), found.values[:3].sqrt())
        torch.testing.assert_close(right.norm(dim=1), found.values[:3].sqrt())

    def test_equal_norms_on_both_sides_under_a_moment(self):
        left, right = factors(spectrum(draw(5, 8), moment=correlated(8)), 3)
        torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))

    def test_a_matrix_of_zeros(self):
        left, right = factors(spectrum(torch.zeros(3, 4)), 2)
        assert torch.isfinite(left).all()
        assert not (left @ right).any()

    @pytest.mark.parametrize("rank", [0, 6, -1])
    def test_ranks_that_are_not_there(self, rank):
        with pytest.raises(Refused, match=f"rank {rank}: expected 1 to 5"):
            factors(spectrum(draw(5, 8)), rank)


class TestRankFor:
    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 6), st.integers(1, 6), st.floats(0.01, 1), st.integers(0, 99))
    def test_is_the_least_that_keeps_the_share(self, rows, columns, energy, seed):
        found = spectrum(draw(rows, columns, seed=seed))
        rank = rank_for(found, energy)
        squares = found.values.square()
        assert float(squares[:rank].sum()) >= energy * found.total * (1 - 1e-12)
        assert rank == 1 or float(squares[: rank - 1].sum()) < energy * found.total

    def test_all_the_energy_of_a_matrix_of_low_rank(self):
        assert rank_for(spectrum(draw(9, 3) @ draw(3, 8, seed=1)), 1.0) == 3
        assert rank_for(spectrum(torch.zeros(3, 3)), 1.0) == 1

    @pytest.mark.parametrize("energy", [0.0, 1.5, -1.0, float("nan")])
    def test_shares_outside(self, energy):
        with pytest.raises(Refused, match="expected above 0, at most 1"):
            rank_for(spectrum(draw(3, 3)), energy)

    def test_values_that_do_not_reach_the_share(self):
        found = spectrum(draw(1030, 1030), rank=5)
        with pytest.raises(Refused, match=r"the 5 values found hold 0\.0"):
            rank_for(found, 0.9)


class TestSvd:
    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_error_of_eckart_and_young(self, data):
        shape = data.draw(st.sampled_from([(6, 4, 3, 3), (5, 9), (3, 2, 5, 1)]))
        W = draw(*shape, seed=data.draw(st.integers(0, 99)))
        full = min(W.flatten(1).shape)
        rank = data.draw(st.integers(1, full))
        error = (W - composed(svd(W, rank)).reshape(W.shape)).square().sum()
        torch.testing.assert_close(
            error, torch.linalg.svdvals(W.flatten(1))[rank:].square().sum(), atol=1e-12, rtol=1e-9
        )

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 6), st.integers(0, 99))
    def test_with_a_moment_no_other_factors_do_better(self, rank, seed):
        W, moment = draw(6, 10, seed=seed), correlated(10, seed + 1)
        metric = regularised(moment)
        error = output_error(W - composed(svd(W, rank, moment=moment)), metric)
        assert error <= output_error(W - composed(svd(W, rank)), metric) * (1 + 1e-9) + 1e-12
        left, right = factors(spectrum(W, moment=moment), rank)
        for k in range(5):
            other = (left + 0.01 * draw(*left.shape, seed=k)) @ (right + 0.01 * draw(*right.shape, seed=k + 9))
            assert error <= output_error(W - other, metric) + 1e-12

    @pytest.mark.parametrize("layer", [nn.Linear(12, 7), nn.Conv2d(4, 9, 3, stride=2, padding=1), nn.Conv2d(6, 5, 1)])
    def test_full_rank_computes_what_the_layer_does(self, layer):
        x = torch.randn(2, 12) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, 9, 9)
        full = min(layer.weight.flatten(1).shape)
        for moment in (None, correlated(layer.weight[0].numel())):
            made = rebuilt(layer, svd(layer.weight, full, moment=moment))
            assert type(made) is nn.Sequential
            torch.testing.assert_close(made(x), layer(x), rtol=1e-5, atol=1e-5)

    def test_parameters_are_rank_times_the_sum_of_the_sides(self):
        made = svd(draw(20, 30), 4)
        assert sum(w.numel() for w in made.weights.values()) == 4 * (20 + 30)

    @pytest.mark.parametrize("rank", [0, 6])
    def test_ranks_above_the_full_one(self, rank):
        with pytest.raises(Refused, match=f"rank {rank}: expected 1 to 5, the full rank"):
            svd(draw(5, 4, 3, 3), rank)


class TestSpatial:
    def test_the_matrix_holds_every_weight_where_the_halves_meet(self):
        W = draw(3, 2, 5, 4)
        matrix = spatial_matrix(W)
        assert matrix.shape == (3 * 4, 2 * 5)
        assert matrix[2 * 4 + 1, 1 * 5 + 3] == W[2, 1, 3, 1]

    @pytest.mark.parametrize("rank", [1, 4, 8, 12])
    def test_error_of_eckart_and_young(self, rank):
        W = draw(5, 4, 3, 3)
        error = (W - composed(spatial_svd(W, rank))).square().sum()
        torch.testing.assert_close(error, torch.linalg.svdvals(spatial_matrix(W))[rank:].square().sum())

    def test_the_moment_of_a_column_is_the_mean_over_columns(self):
        patches = draw(50, 2, 3, 4)
        moment = patches.flatten(1).T @ patches.flatten(1) / 50
        columns = patches.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
        torch.testing.assert_close(column_moment(moment, draw(1, 2, 3, 4)), columns.T @ columns / 200)

    @settings(max_examples=15, deadline=None)
    @given(st.integers(1, 12), st.integers(0, 99))
    def test_with_a_moment_never_worse_on_these_inputs(self, rank, seed):
        W, moment = draw(5, 4, 3, 3, seed=seed), correlated(36, seed + 1)
        metric = regularised(moment)
        plain = output_error(W - composed(spatial_svd(W, rank)), metric)
        aware = output_error(W - composed(spatial_svd(W, rank, moment=moment)), metric)
        assert aware <= plain * (1 + 1e-9) + 1e-12

    @pytest.mark.parametrize("rank", [12, 20])
    def test_full_rank_and_more_compute_what_the_layer_does(self, rank):
        layer = nn.Conv2d(4, 20, (3, 5), stride=(2, 1), padding=(1, 2))
        x = torch.randn(2, 4, 9, 9)
        for moment in (None, correlated(60), correlated(60, rank=5)):
            made = rebuilt(layer, spatial_svd(layer.weight, rank, moment=moment))
            torch.testing.assert_close(made(x), layer(x), rtol=1e-5, atol=1e-5)

    def test_channels_between_have_equal_norms_on_both_sides(self):
        found = spatial_svd(draw(5, 4, 3, 3), 3, moment=correlated(36))
        vertical, horizontal = found.weights.values()
        torch.testing.assert_close(vertical.flatten(1).norm(dim=1), horizontal.transpose(0, 1).flatten(1).norm(dim=1))

    def test_refusals(self):
        with pytest.raises(Refused, match="rank 13: expected 1 to 12"):
            spatial_svd(draw(5, 4, 3, 3), 13)
        with pytest.raises(Refused, match=r"moment of \(4, 4\) does not fit patches of 36"):
            spatial_svd(draw(5, 4, 3, 3), 2, moment=torch.eye(4))

    def test_the_spectrum_is_of_this_matrix(self):
        W = draw(5, 4, 3, 3)
        torch.testing.assert_close(kernel_spectrum("spatial_svd", W).values, torch.linalg.svdvals(spatial_matrix(W)))
