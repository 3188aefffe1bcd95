"""k-means against brute force, plain Lloyd with the full matrix, and the promises of its docstring."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from netpress.codec import kmeans
from netpress.errors import ModelError

INITS = ("forgy", "density", "linear", "optimal")
finite = st.floats(-1e6, 1e6, width=32)
small = arrays(np.float32, st.integers(1, 40), elements=st.one_of(finite, st.integers(-3, 3).map(float)))


def plain_lloyd(values, centroids):
    """The textbook algorithm on the n x k matrix of distances; argmin takes the lower of two equal ones."""
    w = values.astype(np.float64)
    while True:
        nearest = np.abs(w[:, None] - centroids).argmin(axis=1)
        moved = np.array([w[nearest == j].mean() if (nearest == j).any() else c for j, c in enumerate(centroids)])
        if np.array_equal(moved, centroids):
            return moved
        centroids = moved


def brute_force(values, k):
    """Least inertia over every way to cut the sorted values into k stretches."""
    w = np.sort(values.astype(np.float64))
    best = np.inf
    for cuts in combinations(range(1, w.size), k - 1):
        parts = np.split(w, cuts)
        best = min(best, sum(((p - p.mean()) ** 2).sum() for p in parts))
    return best


def inertia(values, result):
    return ((values.astype(np.float64) - result.table[result.index]) ** 2).sum()


@pytest.mark.parametrize("init", INITS)
@given(values=small, k=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_result_is_consistent(values, k, init):
    result = kmeans.cluster(values, k, init=init)
    distinct = np.unique(values).size
    assert result.table.dtype == np.float32
    assert result.index.dtype == np.uint8
    assert result.index.shape == values.shape
    assert result.table.size == min(k, distinct)
    assert (np.diff(result.table) >= 0).all()
    assert result.inertia == pytest.approx(inertia(values, result), rel=1e-9, abs=1e-12)
    distance = np.abs(values.astype(np.float64)[:, None] - result.table.astype(np.float64))
    chosen = distance[np.arange(values.size), result.index]
    assert (chosen <= distance.min(axis=1) * (1 + 1e-12)).all()
    if k >= distinct:
        assert result.inertia == 0.0
        assert result.iterations == 0


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_optimal_start_finds_the_optimum_of_few_values(k, seed):
    rng = np.random.default_rng(seed)
    values = (
        np.round(rng.laplace(size=13), 1).astype(np.float32) if seed % 2 else rng.normal(size=13).astype(np.float32)
    )
    k = min(k, np.unique(values).size - 1)
    assert kmeans.cluster(values, k, init="optimal").inertia == pytest.approx(brute_force(values, k), rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_linear_start_then_plain_lloyd_gives_the_same_table(seed):
    values = np.random.default_rng(seed).laplace(size=700).astype(np.float32)
    expected = plain_lloyd(values, np.linspace(float(values.min()), float(values.max()), 8))
    np.testing.assert_allclose(kmeans.cluster(values, 8, init="linear").table, expected, rtol=3e-7)


def test_the_starts_are_the_ones_described():
    values = np.arange(1, 101, dtype=np.float32)

    def start(init, k, seed=0):
        return kmeans.cluster(values, k, init=init, seed=seed, max_iter=0)

    assert start("linear", 4).table.tolist() == [1, 34, 67, 100]
    assert start("density", 4).table.tolist() == [13, 38, 63, 88]  # values at 1/8, 3/8, 5/8, 7/8 of the sorted ones
    drawn = [start("forgy", 4, seed).table for seed in (0, 0, 1)]
    assert set(drawn[0].tolist()) <= set(values.tolist())
    assert len(set(drawn[0].tolist())) == 4
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()
    assert start("linear", 4).iterations == 0


def test_forgy_draws_distinct_values_where_one_dominates():
    values = np.concatenate([np.zeros(100_000), [1, 2, 3, 4]]).astype(np.float32)
    table = kmeans.cluster(values, 4, init="forgy", max_iter=0).table
    assert np.unique(table).size == 4


def test_ties_go_to_the_lower_entry():
    table = np.array([-1, 0, 2], np.float32)
    values = np.array([-0.5, 1.0, np.nextafter(np.float32(1), np.float32(2)), 1e30, -1e30], np.float32)
    assert kmeans.assign(values, table).tolist() == [0, 1, 2, 2, 0]


def test_an_empty_cluster_keeps_its_centroid():
    values = np.array([0, 0.1, 0.2, 10], np.float32)
    result = kmeans.cluster(values, 3, init="linear")  # starts at 0, 5, 10: nothing is nearest to 5
    np.testing.assert_allclose(result.table, [0.1, 5, 10], rtol=1e-6)
    assert result.index.tolist() == [0, 0, 0, 2]


@given(
    table=arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    values=arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
)
@settings(max_examples=100, deadline=None)
def test_assign_agrees_with_searching_the_midpoints(table, values):
    table = np.sort(table)
    wide = table.astype(np.float64)
    values = np.concatenate([values, table, ((wide[1:] + wide[:-1]) / 2).astype(np.float32)])
    expected = np.searchsorted((wide[1:] + wide[:-1]) / 2, values.astype(np.float64), side="left")
    index = kmeans.assign(values, table)
    assert index.dtype == (np.uint8 if table.size <= 256 else np.uint16)
    assert (index == expected).all()


def test_sums_of_blocks_equal_sums_of_values(monkeypatch):
    """Beyond 2^24 values prefix sums are kept in blocks; the same code on few values must give the same table."""
    values = np.random.default_rng(3).laplace(size=5003).astype(np.float32)
    expected = kmeans.cluster(values, 16)
    monkeypatch.setattr(kmeans, "_DENSE", 100)
    blocked = kmeans.cluster(values, 16)
    np.testing.assert_allclose(blocked.table, expected.table, rtol=1e-6)
    assert (blocked.index == expected.index).all()


def test_no_negative_zero_in_the_table():
    table = kmeans.cluster(np.array([-0.0, 1.0], np.float32), k=4).table
    assert not np.signbit(table).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_values_that_are_not_finite_are_refused(bad, at):
    values = np.array([1, 2, 3], np.float32)
    values[at] = bad
    with pytest.raises(ModelError, match="finite"):
        kmeans.cluster(values, 2)


@pytest.mark.parametrize(
    ("values", "k", "init"),
    [
        (np.zeros(0, np.float32), 2, "linear"),
        (np.zeros((2, 2), np.float32), 2, "linear"),
        (np.zeros(3), 2, "linear"),
        (np.zeros(3, np.float32), 0, "linear"),
        (np.arange(5000, dtype=np.float32), 2000, "optimal"),
    ],
)
def test_wrong_arguments_are_refused(values, k, init):
    with pytest.raises(ValueError, match=r"expected|takes"):
        kmeans.cluster(values, k, init=init)


def test_extreme_range_does_not_overflow():
    values = np.array([-3e38, -1e38, 0, 1, 3e38], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        result = kmeans.cluster(values, 3, init="linear")
    assert np.isfinite(result.table).all()
    assert result.index.tolist() == [0, 1, 1, 1, 2]
