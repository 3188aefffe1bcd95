"""k-means in one dimension: which few values a tensor's weights share.

Minimises the inertia, sum over all weights w of (w - c(w))^2, where c(w) is the nearest of k shared values. In one
dimension a cluster is a stretch of the sorted weights, so a step of Lloyd's algorithm needs only where the stretches
end and the prefix sums of the sorted weights: no matrix of weights by centroids, and no look at every weight in every
step.

Source: Lloyd, Least squares quantization in PCM (1982); the four starts as in Han et al., Deep Compression, section
3.1, plus the optimum of a histogram by dynamic programming (Wu, 1991). The paper does not fix the levels of the
density start; ours are (j + 1/2) / k.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from netpress.errors import ModelError

# n: values, k: centroids, m: histogram bins
Init = Literal["forgy", "density", "linear", "optimal"]
_CHUNK = 1 << 17  # values at a time: stays in the cache
_DENSE = 1 << 24  # up to here prefix sums are kept for every value, beyond for every 64th
_GRID = 1 << 16
_TINY = 1e-300  # 0 / 0 -> 0, and lost beside any count
_MAX_OPTIMAL_K = 1 << 10
_BINS = 1 << 10  # of the histogram for the optimal start
_TAIL = 128  # values at each end that are bins of their own


@dataclass(frozen=True, slots=True)
class Clustering:
    """Shared values and who takes which.

    Args:
        table: (k,) shared values, ascending; fewer where the input has fewer distinct values.
        index: (n,) index into the table for each value; uint8 up to 256 entries, else uint16 or uint32.
        inertia: sum over all values of (value - table[index])^2.
        iterations: steps of Lloyd's algorithm that moved a centroid's members.
    """

    table: NDArray[np.float32]
    index: NDArray[np.unsignedinteger]
    inertia: float
    iterations: int


def cluster(
    values: NDArray[np.float32], k: int, *, init: Init = "linear", seed: int = 0, max_iter: int = 10_000
) -> Clustering:
    """Cluster values into k groups, and replace each group by its mean.

    Start, then repeat until nothing changes: assign each value to the nearest centroid (by midpoint, ties to the
    lower); move each centroid to the mean of its members (an empty one stays).

    Args:
        values: (n,) float32, finite.
        k: number of shared values, at least 1.
        init: "forgy": k distinct values drawn at random; "density": the (j + 1/2) / k quantiles; "linear": k values
            evenly from minimum to maximum; "optimal": the best table for a fine histogram, k up to 1,024.
        seed: for "forgy".
        max_iter: largest number of steps.

    Raises:
        ModelError: NaN or infinity among the values.
        ValueError: no values, not 1-D float32, or k below 1 or too large for this start.

    >>> cluster(np.array([0.0, 1.0, 10.0, 11.0], np.float32), k=2).table
    array([ 0.5, 10.5], dtype=float32)
    """
    if values.ndim != 1 or values.dtype != np.float32 or values.size == 0 or k < 1:
        raise ValueError(f"1-D float32 values and k >= 1 expected, got {values.shape} {values.dtype} and k = {k}")
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):  # both pass on NaN
        raise ModelError(f"k-means: finite values expected, got {values.min()}..{values.max()}; train again with care")
    ordered = _Ordered.of(values)
    table, iterations = ordered.first_distinct(k + 1), 0
    if table.size > k:
        centroids, iterations = _lloyd(ordered, _start(ordered, k, init, seed), max_iter)
        table = np.sort(centroids.astype(np.float32))
    table += np.float32(0)  # no -0.0
    return Clustering(table, assign(values, table), ordered.inertia(table), iterations)


def assign(values: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.unsignedinteger]:
    """Index of the nearest table entry for each value; ties to the lower entry (midpoints in float64).

    Args:
        values: (n,) float32, finite.
        table: (k,) float32, ascending.

    Returns:
        (n,) indices, in the smallest unsigned type that holds k - 1.

    >>> assign(np.array([0.2, 0.5, 0.6], np.float32), np.array([0, 1], np.float32))
    array([0, 0, 1], dtype=uint8)
    """
    limits = _limits(table.astype(np.float64))
    out = np.empty(values.size, np.min_scalar_type(max(table.size - 1, 0)))
    grid = _Grid.of(limits)
    for i in range(0, values.size, _CHUNK):
        part = values[i : i + _CHUNK]
        out[i : i + _CHUNK] = np.searchsorted(limits, part) if grid is None else grid.assign(part, limits)
    return out


def _limits(centroids: NDArray[np.float64]) -> NDArray[np.float32]:
    """Largest float32 that is still nearest to each centroid but the last: the midpoints, rounded down."""
    middle = (centroids[:-1] + centroids[1:]) / 2
    limits = middle.astype(np.float32)
    return np.where(limits > middle, np.nextafter(limits, np.float32(-np.inf)), limits)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Even cells over the limits: the cell of a value tells its index but for the limits in the same cell.

    The cell is computed by the same float32 operations for values and limits, each of them monotonic: so a value in a
    cell above a limit's lies above that limit, whatever was rounded.
    """

    low: np.float32
    scale: np.float32
    below: NDArray[np.int64]  # (cells,) limits in lower cells
    crowd: int  # most limits in one cell

    @classmethod
    def of(cls, limits: NDArray[np.float32]) -> "_Grid | None":
        """None where a grid does not help: too few limits, or too many in one cell."""
        if limits.size < 2:
            return None
        with np.errstate(over="ignore", divide="ignore"):
            scale = np.float32(_GRID - 2) / (limits[-1] - limits[0])
        if not 0 < scale < np.inf:
            return None
        grid = cls(limits[0], scale, np.zeros(0, np.int64), 0)
        cells = np.bincount(grid._cell(limits), minlength=_GRID)
        crowd = int(cells.max())
        return cls(grid.low, scale, np.cumsum(cells) - cells, crowd) if crowd <= 4 else None

    def _cell(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        with np.errstate(over="ignore"):
            cell = values - self.low
            cell *= self.scale
        return np.clip(cell, 0, _GRID - 1, out=cell).astype(np.int64)

    def assign(self, values: NDArray[np.float32], limits: NDArray[np.float32]) -> NDArray[np.int64]:
        index = self.below.take(self._cell(values))
        ends = np.append(limits, np.float32(np.inf))
        for _ in range(self.crowd):
            index += values > ends.take(index)
        return index


@dataclass(frozen=True, slots=True)
class _Ordered:
    """Sorted values with prefix sums at every stride-th of them."""

    values: NDArray[np.float32]
    prefix: NDArray[np.float64]  # prefix[i]: sum of the first i * stride values
    stride: int

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> "_Ordered":
        ordered = np.sort(values)
        stride = 1 if ordered.size <= _DENSE else 64
        blocks = ordered.size // stride
        sums = np.empty(blocks + 1, np.float64)
        sums[0] = 0.0
        for i in range(0, blocks, _CHUNK):
            part = ordered[i * stride : min(i + _CHUNK, blocks) * stride].reshape(-1, stride)
            sums[i + 1 : i + 1 + len(part)] = part.sum(axis=1, dtype=np.float64)
        return cls(ordered, np.cumsum(sums, out=sums), stride)

    def sum_before(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sum of the first at[j] values, for each j."""
        block, rest = np.divmod(at, self.stride)
        sums: NDArray[np.float64] = self.prefix[block]
        if self.stride > 1:
            offset = np.arange(self.stride)
            index = np.minimum((at - rest)[:, None] + offset, self.values.size - 1)
            sums = sums + np.where(offset < rest[:, None], self.values[index], 0.0).sum(axis=1, dtype=np.float64)
        return sums

    def means(self, cuts: NDArray[np.int64], empty: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mean of each stretch between cuts; `empty` says what stands for one without values."""
        sums, sizes = np.diff(self.sum_before(cuts)), np.diff(cuts)
        return np.where(sizes > 0, sums / np.maximum(sizes, 1), empty)

    def cuts(self, centroids: NDArray[np.float64]) -> NDArray[np.int64]:
        """Where each cluster ends and the next begins, with 0 in front and n behind."""
        inner = np.searchsorted(self.values, _limits(centroids), side="right")
        return np.concatenate([[0], inner, [self.values.size]])

    def first_distinct(self, k: int) -> NDArray[np.float32]:
        """The lowest k distinct values, or all where there are fewer."""
        found = [self.values[:1]]
        have = 1
        for i in range(1, self.values.size, _CHUNK):
            part = self.values[i - 1 : i + _CHUNK]
            new = part[1:][part[1:] != part[:-1]][: k - have]
            found.append(new)
            have += new.size
            if have == k:
                break
        return np.concatenate(found)

    def inertia(self, table: NDArray[np.float32]) -> float:
        """Sum of squared distances to the nearest entry."""
        cuts = self.cuts(table.astype(np.float64)).tolist()
        total = 0.0
        for c, start, end in zip(table.tolist(), cuts[:-1], cuts[1:], strict=True):
            for i in range(start, end, _CHUNK):
                d = self.values[i : min(i + _CHUNK, end)].astype(np.float64)
                d -= c
                d *= d
                total += float(d.sum())
        return total


def _lloyd(ordered: _Ordered, start: NDArray[np.float64], max_iter: int) -> tuple[NDArray[np.float64], int]:
    centroids, cuts = start, np.zeros(0, np.int64)
    for iteration in range(max_iter):
        before, cuts = cuts, ordered.cuts(centroids)
        if np.array_equal(before, cuts):
            return centroids, iteration
        centroids = ordered.means(cuts, empty=centroids)
    return centroids, max_iter


def _start(ordered: _Ordered, k: int, init: Init, seed: int) -> NDArray[np.float64]:
    values = ordered.values
    match init:
        case "linear":
            return np.linspace(float(values[0]), float(values[-1]), k)
        case "density":
            return values[((np.arange(k) + 0.5) / k * values.size).astype(np.int64)].astype(np.float64)
        case "forgy":
            return _forgy(values, k, np.random.default_rng(seed)).astype(np.float64)
        case "optimal":
            return _optimal(ordered, k)


def _forgy(values: NDArray[np.float32], k: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """The first k distinct values of a random order, without putting all of them in order where few will do."""
    size = k
    while True:
        drawn = values[rng.choice(values.size, size, replace=False)]
        distinct, first = np.unique(drawn, return_index=True)
        if distinct.size >= k:
            return np.sort(drawn[np.sort(first)[:k]])
        size = min(2 * size, values.size)


# --- the optimal table of a histogram -------------------------------------------------------------------------------


def _optimal(ordered: _Ordered, k: int) -> NDArray[np.float64]:
    """Best k means of a fine histogram.

    cost_j(i) = min over h <= i of cost_{j-1}(h) + inertia of the bins h..i-1, for all i by divide and conquer: the best
    h never decreases with i.
    """
    if k > _MAX_OPTIMAL_K:
        raise ValueError(f'init="optimal" takes k up to {_MAX_OPTIMAL_K}, got {k}; use "linear" or "density"')
    values = ordered.values
    ends = _bins(values, max(_BINS, 2 * k))
    shift = float(ordered.sum_before(ends[-1:])[0]) / values.size  # squares are summed about the mean
    count = ends.astype(np.float64)
    first = ordered.sum_before(ends) - shift * count
    second = _squares_before(values, ends, shift)
    best = second - first**2 / (count + _TINY)
    choices = []
    for _ in range(k - 1):
        best, chosen = _next_layer(best, np.stack([count, first, second]))
        choices.append(chosen)
    cuts = [ends.size - 1]
    for chosen in reversed(choices):
        cuts.append(int(chosen[cuts[-1]]))
    at = ends[np.array([0, *reversed(cuts)])]
    return np.sort(ordered.means(at, empty=values[np.minimum(at[:-1], values.size - 1)]))


def _bins(values: NDArray[np.float32], m: int) -> NDArray[np.int64]:
    """Ends of at most m stretches of the sorted values, about as many in every cluster of the best table.

    The best table has its values as dense as the cube root of the density (Panter and Dite, 1951); so are these bins.
    """
    edges = np.linspace(float(values[0]), float(values[-1]), m + 1)
    counts = np.diff(np.searchsorted(values, edges.astype(np.float32)), append=values.size)[:m]
    mass = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    wanted = np.interp(np.linspace(0.0, mass[-1], m + 1), mass, edges).astype(np.float32)
    wanted[-1] = np.inf
    tail = np.arange(min(_TAIL, values.size))
    return np.unique(np.concatenate([np.searchsorted(values, wanted), tail, values.size - tail]))


def _squares_before(values: NDArray[np.float32], ends: NDArray[np.int64], shift: float) -> NDArray[np.float64]:
    """Sum of (value - shift)^2 over the first ends[j] values."""
    sums = np.zeros(ends.size, np.float64)
    for j in range(1, ends.size):
        for i in range(int(ends[j - 1]), int(ends[j]), _CHUNK):
            d = values[i : min(i + _CHUNK, int(ends[j]))] - np.float64(shift)
            sums[j] += float((d * d).sum())
    return np.cumsum(sums)


def _next_layer(best: NDArray[np.float64], sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One more cluster: for every end the least cost and where the last cluster begins.

    Ends are visited by halving, all those of one level at once; the ranges searched on a level overlap only at their
    limits, so each level costs as much as the histogram is long.
    """
    size, (count, first, second) = best.size, sums
    before = best - second
    cost, chosen = np.zeros(size), np.zeros(size + 1, np.int64)
    chosen[size] = size - 1
    step = 1 << (size - 1).bit_length()
    while step > 1:
        half = step // 2
        at = np.arange(half, size, step)
        low, high = chosen[at - half], np.minimum(chosen[np.minimum(at + half, size)], at)
        width = high - low + 1
        begin = np.cumsum(width) - width
        h = np.arange(int(width.sum())) + np.repeat(low - begin, width)
        n = np.repeat(count[at], width) - count[h]
        s = np.repeat(first[at], width) - first[h]
        total = before[h] - s * s / (n + _TINY)
        least = np.minimum.reduceat(total, begin)
        hits = np.flatnonzero(total == np.repeat(least, width))
        cost[at], chosen[at] = least + second[at], h[hits[np.searchsorted(hits, begin)]]
        step = half
    return cost, chosen[:size]
