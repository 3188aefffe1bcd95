"""A convolution as three: fewer channels in, the k x k filters between fewer channels, and back.

    W[o, i, y, x] ~ sum over p, q of U[o, q] C[q, p, y, x] P[p, i]

Without inputs: the leading singular vectors of both unfoldings, then sweeps that take each side's vectors again for
the kernel projected on the other side (HOOI). With the second moment of the patches the error is that of the outputs,
and given P the best core and expansion are found exactly: the features P x have a least-squares fit of the outputs,
whose best low rank under the features' moment is a truncated SVD (reduced-rank regression).

Shapes as in `netpress.factor.svd`. Source: Kim et al. 2016 for Tucker-2 of a layer; De Lathauwer et al. 2000 for HOOI;
the fit of the outputs is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from netpress.factor.structure import Rebuilt, Refused
from netpress.factor.svd import Spectrum, fits, output_error, regularised, root, spectrum

Parts = tuple[Tensor, Tensor, Tensor]  # P (rank_in, I), core (rank_out, rank_in, kh, kw), U (O, rank_out)


def input_moment(moment: Tensor, W: Tensor) -> Tensor:
    """The second moment of the input channels: the mean over the positions of a patch.

    Args:
        moment: (D, D), in the patch order.
        W: (O, I, kh, kw); only its shape matters.

    Returns:
        (I, I).
    """
    inputs, places = W.shape[1], W[0, 0].numel()
    return moment.double().reshape(inputs, places, inputs, places).diagonal(dim1=1, dim2=3).mean(-1)


def unfoldings(W: Tensor, moment: Tensor | None = None) -> tuple[Spectrum, Spectrum]:
    """The spectra that the two ranks are about: of the inputs' unfolding (O kh kw, I) and the outputs' (O, I kh kw).

    Args:
        W: (O, I, kh, kw).
        moment: (D, D) second moment of the patches; the inputs' unfolding takes its mean over the positions.

    Raises:
        Refused: the moment does not fit.

    >>> [len(found.values) for found in unfoldings(torch.zeros(8, 4, 3, 3))]
    [4, 8]
    """
    W = W.detach().double()
    if moment is None:
        return spectrum(_by_input(W)), spectrum(W.flatten(1))
    moment = fits(moment, W)
    return spectrum(_by_input(W), moment=input_moment(moment, W)), spectrum(W.flatten(1), moment=moment)


def tucker2(W: Tensor, rank_in: int, rank_out: int, *, moment: Tensor | None = None, sweeps: int = 5) -> Rebuilt:
    """A convolution as a 1 x 1 one onto `rank_in` channels, a k x k one onto `rank_out`, and a 1 x 1 one.

    With a moment the error on these inputs is never above that of the plain fit.

    Args:
        W: (O, I, kh, kw).
        rank_in: 1 to I; beyond the unfolding's own rank the filters are zeros.
        rank_out: 1 to O; likewise.
        moment: (D, D) second moment of the patches.
        sweeps: how often both sides are fitted again.

    Raises:
        Refused: a rank is too large, or the moment does not fit.

    >>> {name: tuple(w.shape) for name, w in tucker2(torch.zeros(8, 4, 3, 3), 2, 3).weights.items()}
    {'reduce': (2, 4, 1, 1), 'core': (3, 2, 3, 3), 'expand': (8, 3, 1, 1)}
    """
    W = W.detach().double()
    for rank, full, what in ((rank_in, W.shape[1], "inputs"), (rank_out, W.shape[0], "outputs")):
        if not 1 <= rank <= full:
            raise Refused(f"rank of the {what} {rank}: expected 1 to {full}, the full rank")
    used_in = min(rank_in, W.shape[0] * W[0, 0].numel())
    used_out = min(rank_out, used_in * W[0, 0].numel())
    parts = _plain(W, used_in, used_out, sweeps)
    if moment is not None:
        parts = _aware(W, parts, regularised(fits(moment, W)), sweeps)
    P, core, U = parts
    more_in, more_out = rank_in - used_in, rank_out - used_out
    pad = torch.nn.functional.pad
    weights = {
        "reduce": pad(P, (0, 0, 0, more_in))[:, :, None, None],
        "core": pad(core, (0, 0, 0, 0, 0, more_in, 0, more_out)),
        "expand": pad(U, (0, more_out))[:, :, None, None],
    }
    return Rebuilt("tucker2", (rank_in, rank_out), weights)


def tucker_kernel(P: Tensor, core: Tensor, U: Tensor) -> Tensor:
    """The kernel (O, I, kh, kw) that the three computes: P (p, I), core (q, p, kh, kw), U (O, q)."""
    kernel: Tensor = torch.einsum("oq,qpyx,pi->oiyx", U, core, P)
    return kernel


def _by_input(W: Tensor) -> Tensor:
    """(O, I, kh, kw) as (O kh kw, I)."""
    return W.permute(0, 2, 3, 1).flatten(0, 2)


def _plain(W: Tensor, rank_in: int, rank_out: int, sweeps: int) -> Parts:
    U = torch.linalg.svd(W.flatten(1), full_matrices=False)[0][:, :rank_out]
    P = torch.linalg.svd(_by_input(W), full_matrices=False)[2][:rank_in]
    for _ in range(sweeps):
        P = torch.linalg.svd(_by_input(torch.tensordot(U.T, W, 1)), full_matrices=False)[2][:rank_in]
        if len(P) < rank_in:  # fewer outputs than that many inputs can tell apart: the rest is of no use to them
            P = _completed(P, rank_in)
        U = torch.linalg.svd(torch.einsum("oiyx,pi->opyx", W, P).flatten(1), full_matrices=False)[0][:, :rank_out]
    return P, torch.einsum("oq,oiyx,pi->qpyx", U, W, P), U


def _completed(P: Tensor, rank: int) -> Tensor:
    """Orthonormal rows, the given ones and others orthogonal to them."""
    rows: Tensor = torch.linalg.svd(P, full_matrices=True)[2]
    return rows[:rank]


def _aware(W: Tensor, plain: Parts, metric: Tensor, sweeps: int) -> Parts:
    """The best of what the plain inputs' directions and the whitened ones lead to, by the error of the outputs."""
    rank_in, rank_out = plain[1].shape[1], plain[1].shape[0]
    lower = root(input_moment(metric, W))
    best = _regressed(W, plain[0], metric, rank_out)
    least = output_error(W - tucker_kernel(*best), metric)
    projected = W
    for _ in range(1 + sweeps):
        P = torch.linalg.svd(_by_input(projected) @ lower, full_matrices=False)[2]
        P = P[:rank_in] if len(P) >= rank_in else _completed(P, rank_in)
        found = _regressed(W, torch.linalg.solve_triangular(lower, P, upper=False, left=False), metric, rank_out)
        error = output_error(W - tucker_kernel(*found), metric)
        if error < least:
            best, least = found, error
        projected = torch.tensordot(torch.linalg.qr(found[2])[0].T, W, 1)
    return best


def _regressed(W: Tensor, P: Tensor, metric: Tensor, rank_out: int) -> Parts:
    """The best core and expansion behind given directions of the inputs; the directions' rows get norm 1."""
    P = P / P.norm(dim=1, keepdim=True)
    (rank_in, inputs), places = P.shape, W[0, 0].numel()
    seen = torch.tensordot(P, metric.reshape(inputs, places, -1), 1)  # (p, places, D): features against patches
    crossed = torch.tensordot(seen.reshape(rank_in, places, inputs, places), P, ([2], [1]))
    crossed = crossed.transpose(2, 3).reshape(rank_in * places, rank_in * places)
    lower = root(crossed)
    fit = torch.cholesky_solve(seen.flatten(0, 1) @ W.flatten(1).T, lower).T  # (O, p places)
    U, values, right = torch.linalg.svd(fit @ lower, full_matrices=False)
    core = torch.linalg.solve_triangular(lower, values[:rank_out, None] * right[:rank_out], upper=False, left=False)
    return P, core.reshape(-1, rank_in, *W.shape[2:]), U[:, :rank_out]
