"""How many singular values of a matrix stand out of noise: variational Bayes, solved analytically.

For an L x M matrix (L <= M, a = L / M) with singular values g_h and noise variance s, empirical variational Bayes keeps
the values with x_h = g_h^2 / (M s) above

    (1 + t)(1 + a / t),   t = 2.5129 sqrt(a)

and s is the least point of the free energy, up to a constant

    sum_h (x_h - log x_h) + sum over kept of [log(1 + T) + a log(1 + T / a) - T],
    T(x) = (x - (1 + a) + sqrt((x - (1 + a))^2 - 4 a)) / 2

a function of one variable, looked at on a grid over all the noise that is possible and then refined.

Source: Nakajima, Sugiyama, Babacan and Tomioka 2013, Global analytic solution of fully-observed variational Bayesian
matrix factorization.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor, linalg

_THRESHOLD = 2.5129  # the root of the paper's equation (at a = 1) to which all others are nearly proportional
_GRID = 2048
_TINY = 1e-14  # noise below this share of the mean square is rounding


@dataclass(frozen=True, slots=True)
class Evidence:
    """What variational Bayes says of a matrix.

    Attributes:
        rank: number of singular values that stand out of the noise; 0: all of it may be noise.
        noise: variance of one entry's noise.
    """

    rank: int
    noise: float


def evidence(matrix: Tensor) -> Evidence:
    """The rank that the evidence supports, and the noise; a rank of 0 says that nothing stands out.

    Args:
        matrix: any shape (rows, columns), finite.

    >>> import torch
    >>> evidence(torch.randn(20, 30, generator=torch.Generator().manual_seed(0))).rank
    0
    """
    squares = linalg.svdvals(matrix.detach().double()).cpu().numpy() ** 2
    L, M = sorted(matrix.shape)
    a = L / M
    t = _THRESHOLD * np.sqrt(a)
    limit = (1 + t) * (1 + a / t)
    most = float(squares.sum()) / (L * M)
    if most == 0:
        return Evidence(0, 0.0)
    bound = int(np.ceil(L / (1 + a))) - 1  # no more can be kept
    least = max(squares[bound] / (M * limit), squares[bound:].mean() / M, _TINY * most)

    energy = partial(_free_energy, scaled=squares / M, a=a, limit=limit)
    grid = np.linspace(np.log(least), np.log(most), _GRID)
    energies = np.array([energy(point) for point in grid])
    best = int(energies.argmin())
    bracket = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    refined = minimize_scalar(energy, bounds=bracket, method="bounded") if bracket[0] < bracket[1] else None
    found = refined.x if refined is not None and refined.fun < energies[best] else grid[best]
    noise = float(np.exp(found))
    return Evidence(int((squares > M * noise * limit).sum()), noise)


def vbmf_rank(matrix: Tensor) -> int:
    """The rank that the evidence supports, at least 1; `evidence` tells whether it was less.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> planted = torch.randn(40, 3, generator=g) @ torch.randn(3, 60, generator=g)
    >>> vbmf_rank(planted + 0.1 * torch.randn(40, 60, generator=g))
    3
    """
    return max(1, evidence(matrix).rank)


def _free_energy(log_noise: float, scaled: NDArray[np.float64], a: float, limit: float) -> float:
    """Free energy, without its constant, at a logarithm of the noise; scaled: squared singular values over M."""
    x = scaled * np.exp(-log_noise)
    middle = x[x > limit] - (1 + a)
    T = (middle + np.sqrt(middle**2 - 4 * a)) / 2
    kept = np.log1p(T) + a * np.log1p(T / a) - T
    return float(x.sum() + len(x) * log_noise + kept.sum())
