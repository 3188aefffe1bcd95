"""A convolution as four: 1 x 1, depthwise k x 1, depthwise 1 x k, 1 x 1; its kernel as a sum of rank-one terms.

    W[o, i, y, x] ~ sum over r of A[o, r] B[i, r] C[y, r] D[x, r]

Alternating least squares, one factor at a time with unit columns in the other three, of

    ||W - W'||_F^2 + ridge sum over r of n_r^2,   n_r the norm of the r-th term

so that no step makes it larger, with an extrapolation between sweeps that is taken back where it does. The terms are
bounded for every ridge: sum of n_r^2 <= ||W||^2 / ridge. The start is an orthogonal decomposition into rank-one terms
by nested SVDs, of which the largest are taken; a warm start keeps the terms that it has and adds such terms of what is
left.

Degeneracy: where fewer terms fit ever better as they grow and cancel each other (a kernel whose border rank is below
its rank), the root of sum n_r^2 over ||W|| grows without bound. Past a limit the ridge is raised until the limit is
kept. With trained kernels that is the rule, and mostly costs next to nothing; a fit counts as degenerate, and the terms
are named, where without it the error was clearly less.

Source: Lebedev et al. 2015 for the layers; Mitchell, Ye and De Sterck 2020 for the extrapolation; de Silva and Lim
2008 for degeneracy. The ridge on the terms' norms and the start are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from netpress.factor.structure import Rebuilt, Refused

Factors = tuple[Tensor, Tensor, Tensor, Tensor]  # A (O, R), B (I, R), C (kh, R), D (kw, R)

LIMIT = 5.0
"""Root of the sum of the terms' squared norms over the kernel's norm, above which the ridge is raised."""
_WORSE = 1.25  # error over that before the ridge was raised, above which the fit counts as degenerate
_HARDER = (1e-4, 1e-3, 1e-2, LIMIT**-2)  # ridges tried then; the last one keeps LIMIT by the bound above
_PATIENCE = 60  # sweeps after which terms beyond LIMIT are not expected to come back
_TRIAL_SWEEPS = 8  # of each start before the best is followed
_TOLERANCE = 1e-5  # share of the objective by which a sweep has to lower it
_FLOOR = 1e-15  # squared error, over that of zero, that rounding leaves


@dataclass(frozen=True, slots=True, eq=False)
class Cp:
    """A kernel as a sum of rank-one terms, each term's norm spread evenly over its four factors.

    Attributes:
        reduce: (R, I).
        vertical: (R, kh).
        horizontal: (R, kw).
        expand: (O, R).
        error: ||W - W'|| / ||W||; 0 for a kernel of zeros.
        ridge: that it was made with: above the one asked for where terms had to be kept from cancelling each other.
        degenerate: where that has cost much of the fit, which terms cancelled and how far; else None.
        sweeps: how many were made, those of starts not followed included.
    """

    reduce: Tensor
    vertical: Tensor
    horizontal: Tensor
    expand: Tensor
    error: float
    ridge: float
    degenerate: str | None
    sweeps: int


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Unit columns, norms (R,) of the terms, squared error and objective."""

    columns: Factors
    norms: Tensor
    error: float
    objective: float
    sweeps: int


def cp(
    W: Tensor,
    rank: int,
    *,
    start: Cp | None = None,
    ridge: float = 1e-10,
    sweeps: int = 200,
    seed: int = 0,
) -> Cp:
    """Fit a sum of `rank` rank-one terms to a kernel.

    Args:
        W: (O, I, kh, kw).
        rank: number of terms, at least 1.
        start: a fit of the same kernel's shape with at most as many terms, to go on from.
        ridge: weight of the terms' squared norms, above 0.
        sweeps: at most this many over the four factors, for each ridge; fewer once one gains next to nothing.
        seed: of the terms drawn where the orthogonal decomposition has not enough of them.

    Raises:
        Refused: the rank, the ridge or the start does not fit.

    >>> W = torch.einsum("o,i,y,x->oiyx", *(torch.arange(1.0, n + 1) for n in (4, 3, 3, 3)))
    >>> cp(W, 1).error < 1e-7
    True
    """
    if W.dim() != 4 or rank < 1:
        raise Refused(f"rank {rank} of a weight with {W.dim()} axes: expected at least 1, and 4 axes")
    if ridge <= 0:
        raise Refused(f"ridge {ridge}: expected above 0")
    W = W.detach().double()
    whole = float(W.square().sum())
    if whole == 0:
        return _finished(W, _State(_drawn(W, rank, seed), W.new_zeros(rank), 0.0, 0.0, 0), ridge, None)
    scaled = W / whole**0.5
    state = _begun(scaled, rank, start, ridge, seed)
    free = state = _descended(scaled, state, ridge, sweeps, _TOLERANCE)
    for harder in _HARDER:
        if harder > ridge and _strain(state) > LIMIT:
            ridge = harder
            state = _descended(scaled, state, ridge, sweeps, _TOLERANCE)
    worse = state.error > _WORSE**2 * max(free.error, _FLOOR)
    return _finished(W, state, ridge, _named(free) if worse else None)


def as_rebuilt(found: Cp) -> Rebuilt:
    """The fit as the weights of the four convolutions.

    >>> W = torch.ones(4, 3, 5, 3)
    >>> {name: tuple(w.shape) for name, w in as_rebuilt(cp(W, 2)).weights.items()}
    {'reduce': (2, 3, 1, 1), 'vertical': (2, 1, 5, 1), 'horizontal': (2, 1, 1, 3), 'expand': (4, 2, 1, 1)}
    """
    weights = {
        "reduce": found.reduce[:, :, None, None],
        "vertical": found.vertical[:, None, :, None],
        "horizontal": found.horizontal[:, None, None, :],
        "expand": found.expand[:, :, None, None],
    }
    return Rebuilt("cp", (len(found.reduce),), weights)


def cp_kernel(found: Cp) -> Tensor:
    """The kernel (O, I, kh, kw) that the four convolutions compute."""
    return _composed((found.expand, found.reduce.T, found.vertical.T, found.horizontal.T))


def _composed(columns: Factors) -> Tensor:
    A, B, C, D = columns
    return (A @ _rows(B, _rows(C, D)).T).reshape(*(len(factor) for factor in columns))


def _rows(left: Tensor, right: Tensor) -> Tensor:
    """Products of the rows of two factors, (m, R) and (n, R) to (m n, R): Khatri-Rao."""
    return (left[:, None, :] * right).flatten(0, 1)


# --- iteration ---


def _descended(W: Tensor, state: _State, ridge: float, sweeps: int, tolerance: float) -> _State:
    """Sweeps with extrapolation, from a state; ||W|| = 1."""
    x = _swept(W, state.columns, ridge)
    before, run, made = x, 1, 1
    while made < sweeps:
        pace = (run - 1) / (run + 2)
        ahead = tuple(new + pace * (new - old) for new, old in zip(x.columns, before.columns, strict=True))
        after = _swept(W, ahead, ridge)  # type: ignore[arg-type]
        made += 1
        if run > 1 and after.objective > x.objective:
            before, run = x, 1  # too far: the next sweep is a plain one
            continue
        gained = x.objective - after.objective
        plain = run == 1
        before, x, run = x, after, run + 1
        settled = gained < tolerance * x.objective and (plain or run > 3)
        if settled or x.error < _FLOOR or (made >= _PATIENCE and _strain(x) > LIMIT):
            break
    return _State(x.columns, x.norms, x.error, x.objective, state.sweeps + made)


def _swept(W: Tensor, columns: Factors, ridge: float) -> _State:
    """One sweep over the four factors; of the first one only the size is used."""
    B, C, D = (factor / factor.norm(dim=0) for factor in columns[1:])
    added = ridge * torch.eye(B.shape[1]).to(B)
    grams = [factor.T @ factor for factor in (B, C, D)]
    A, _ = _solved(W.flatten(1) @ _rows(B, _rows(C, D)), grams[0] * grams[1] * grams[2] + added)
    outer = A.T @ A
    projected = (A.T @ W.flatten(1)).reshape(-1, len(B), W.shape[2] * W.shape[3])  # (R, I, kh kw)
    met = torch.bmm(projected, _rows(C, D).T[:, :, None])[:, :, 0].T
    B, _ = _solved(met, outer * grams[1] * grams[2] + added)
    outer = outer * (B.T @ B)
    small = torch.bmm(B.T[:, None, :], projected).reshape(-1, len(C), len(D))  # (R, kh, kw)
    C, _ = _solved(torch.einsum("ryx,xr->yr", small, D), outer * grams[2] + added)
    gram = outer * (C.T @ C)
    met = torch.einsum("ryx,yr->xr", small, C)
    D, norms = _solved(met, gram + added)
    full = D * norms
    error = 1.0 - 2 * float((met * full).sum()) + float((gram * (full.T @ full)).sum())
    return _State((A, B, C, D), norms, error, error + ridge * float(norms.square().sum()), 1)


def _solved(met: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """The factor that solves X gram = met, as unit columns and their norms; an empty column stays a unit one."""
    lower, failed = torch.linalg.cholesky_ex(gram)
    full = torch.cholesky_solve(met.T, lower).T if not failed else torch.linalg.lstsq(gram, met.T).solution.T
    norms = full.norm(dim=0)
    spare = full.new_full(full.shape, len(full) ** -0.5)
    return torch.where(norms > 0, full / norms, spare), norms


# --- starts ---


def _begun(W: Tensor, rank: int, start: Cp | None, ridge: float, seed: int) -> _State:
    """The best after a few sweeps of several starts, or the one that was given, filled up."""
    if start is not None:
        given: Factors = (start.expand, start.reduce.T, start.vertical.T, start.horizontal.T)
        shape = tuple(len(factor) for factor in given)
        if shape != tuple(W.shape) or given[0].shape[1] > rank:
            raise Refused(f"a start of rank {given[0].shape[1]} for {shape}: expected at most {rank}, for {W.shape}")
        starts: Iterator[Factors] = iter([_filled(W, given, rank, seed)])
    else:
        starts = _starts(W, rank, seed)
    tried = [_descended(W, _State(columns, W, 1.0, 1.0, 0), ridge, _TRIAL_SWEEPS, 0.0) for columns in starts]
    best = min(tried, key=lambda state: state.objective)
    return _State(best.columns, best.norms, best.error, best.objective, sum(state.sweeps for state in tried))


def _starts(W: Tensor, rank: int, seed: int) -> Iterator[Factors]:
    yield _padded(W, _orthogonal(W, rank), rank, seed)
    B, A, C, D = _orthogonal(W.transpose(0, 1), rank)
    yield _padded(W, (A, B, C, D), rank, seed)
    yield _drawn(W, rank, seed)


def _filled(W: Tensor, given: Factors, rank: int, seed: int) -> Factors:
    """The given terms and, for the rest of the rank, the largest of what they leave."""
    more = rank - given[0].shape[1]
    if not more:
        return given
    rest = _padded(W, _orthogonal(W - _composed(given), more), more, seed)
    return tuple(torch.cat(pair, 1) for pair in zip(given, rest, strict=True))  # type: ignore[return-value]


def _orthogonal(W: Tensor, rank: int) -> Factors:
    """The largest terms of an exact sum of orthogonal rank-one terms, by an SVD of (O, I kh kw), of each of its right
    vectors as (I, kh kw), and of each of theirs as (kh, kw). At most min(O, I kh kw) min(I, kh kw) min(kh, kw).
    """
    inputs, high, wide = W.shape[1:]
    A, first, rest = torch.linalg.svd(W.flatten(1), full_matrices=False)
    B, second, rest = torch.linalg.svd(rest.reshape(-1, inputs, high * wide), full_matrices=False)
    C, third, D = torch.linalg.svd(rest.reshape(*rest.shape[:2], high, wide), full_matrices=False)
    sizes = first[:, None, None] * second[:, :, None] * third
    chosen = sizes.flatten().argsort(descending=True, stable=True)[:rank]
    a, b, c = (torch.div(chosen, step, rounding_mode="floor") for step in (sizes[0].numel(), sizes.shape[2], 1))
    b, c = b % sizes.shape[1], c % sizes.shape[2]
    return A[:, a], B[a, :, b].T, C[a, b, :, c].T, D[a, b, c].T


def _padded(W: Tensor, columns: Factors, rank: int, seed: int) -> Factors:
    more = rank - columns[0].shape[1]
    if not more:
        return columns
    return tuple(torch.cat(pair, 1) for pair in zip(columns, _drawn(W, more, seed), strict=True))  # type: ignore[return-value]


def _drawn(W: Tensor, rank: int, seed: int) -> Factors:
    """Columns of random directions."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(size, rank, generator=generator, dtype=W.dtype).to(W.device) for size in W.shape]
    return drawn[0], drawn[1], drawn[2], drawn[3]


# --- degeneracy and result ---


def _strain(state: _State) -> float:
    return float(state.norms.norm())


def _named(state: _State) -> str:
    """Which two terms cancel most, and how large the terms are over the kernel."""
    cosines = torch.ones(len(state.norms), len(state.norms)).to(state.norms)
    for factor in state.columns:
        cosines = cosines * (factor.T @ factor)
    shared = (cosines * state.norms[:, None] * state.norms).flatten()
    i, j = sorted(divmod(int(shared.argmin()), len(cosines)))
    return (
        f"terms {i} and {j} nearly cancel: cosine {float(cosines[i, j]):.3f}, norms {float(state.norms[i]):.3g} and "
        f"{float(state.norms[j]):.3g} times the kernel's, all terms {_strain(state):.3g} times"
    )


def _finished(W: Tensor, state: _State, ridge: float, degenerate: str | None) -> Cp:
    """Norms spread over the four factors, and the error as it is."""
    size = float(W.norm())
    share = (state.norms * size) ** 0.25
    A, B, C, D = (factor * share for factor in state.columns)
    error = float((W - _composed((A, B, C, D))).norm()) / size if size else 0.0
    return Cp(B.T, C.T, D.T, A, error, ridge, degenerate, state.sweeps)
