"""Low rank by singular values: matrices, kernels as matrices, and kernels as k x 1 followed by 1 x k.

The best rank-r fit of a matrix M for the outputs M x of given inputs, rather than for M itself, is

    argmin over rank-r Z of E||(M - Z) x||^2 = argmin ||(M - Z) L||_F^2,   L L^T = E[x x^T]

which is the truncated SVD of M L, mapped back by L^-1. Without inputs L is the identity, and the error is that of
Eckart and Young: the root of the sum of the squared singular values left out.

Shapes: O outputs, I inputs, kh x kw the filter's height and width, D = I kh kw a patch in the order (i, kh, kw) of
`torch.nn.functional.unfold`, r the rank. All numbers are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from netpress.factor.structure import Rebuilt, Refused

Kind = Literal["svd", "spatial_svd"]

_LARGE = 1024  # a full SVD of a matrix whose smaller side is below this is a matter of a few seconds
_SMALL_PART = 4  # the randomised one pays where the rank is less than the side over this
_OVERSAMPLED = 16
_POWER_STEPS = 3  # see benchmarks/low_rank_fc6.py: the error is then within 2e-3 of the least


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """A matrix by its singular values in some metric: M = left diag(values) right, or nearly.

    Attributes:
        values: (n,) singular values, descending.
        left: (rows, n) orthonormal columns.
        right: (n, columns) rows; orthonormal where no moment was given, else orthonormal under it.
        total: squared norm of the whole matrix in the metric: the sum of all squared values, also of those beyond n.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    total: float


def regularised(moment: Tensor, ridge: float = 1e-6) -> Tensor:
    """A second moment made positive definite: C + ridge mean(diagonal) I; the identity where C is zero.

    Args:
        moment: (D, D) symmetric, no negative eigenvalues but for rounding.
        ridge: share of the mean of the diagonal.

    >>> regularised(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 0.5)
    tensor([[2.5000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """
    moment = moment.double()
    mean = float(moment.diagonal().mean())
    added = ridge * mean if mean > 0 else 1.0
    result = (moment + moment.T) / 2
    result.diagonal().add_(added)
    return result


def root(moment: Tensor) -> Tensor:
    """Lower triangular L with L L^T = C; where rounding has made C indefinite, of C with a larger diagonal.

    >>> root(torch.tensor([[4.0, 2.0], [2.0, 2.0]], dtype=torch.float64))
    tensor([[2., 0.],
            [1., 1.]], dtype=torch.float64)
    """
    added = 0.0
    while True:
        shifted = moment + added * torch.eye(len(moment)).to(moment)
        lower: Tensor
        lower, failed = torch.linalg.cholesky_ex(shifted)
        if not failed:
            return lower
        added = max(10 * added, 1e-12 * float(moment.diagonal().abs().mean()), torch.finfo(moment.dtype).tiny)


def output_error(difference: Tensor, metric: Tensor | None = None) -> float:
    """Mean squared norm of E x for a difference E of two matrices: trace(E C E^T), or ||E||_F^2 without C.

    Args:
        difference: (O, ...) flattened to (O, D).
        metric: (D, D) second moment C of x.

    >>> output_error(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    9.0
    """
    flat = difference.flatten(1).double()
    return float((flat**2).sum() if metric is None else ((flat @ metric.double()) * flat).sum())


def spectrum(
    matrix: Tensor, *, moment: Tensor | None = None, rank: int | None = None, ridge: float = 1e-6, seed: int = 0
) -> Spectrum:
    """Singular values and vectors, under the second moment of what the columns meet.

    Args:
        matrix: (rows, columns).
        moment: (columns, columns) second moment of the inputs; may be singular.
        rank: how many values are needed. Where that is under a quarter of a large matrix's smaller side they are found
            by random projection (and `Spectrum` holds no more); else, or without a rank, all of them by a full SVD.
        ridge: share of the moment's mean diagonal that is added to its diagonal.
        seed: of the random projection.

    Raises:
        Refused: the moment's shape is not that of the columns.

    Source: Halko, Martinsson and Tropp 2011 for the random projection, Musco and Musco 2015 for keeping all its blocks:
    with the weights of `benchmarks/low_rank_fc6.py` a quarter of the excess error of `torch.svd_lowrank` in much the
    same time, and the global random state is left alone.

    >>> spectrum(torch.diag(torch.tensor([1.0, 3.0]))).values
    tensor([3., 1.], dtype=torch.float64)
    """
    matrix = matrix.detach().double()
    lower = None
    if moment is not None:
        if moment.shape != (matrix.shape[1], matrix.shape[1]):
            raise Refused(f"a moment of {tuple(moment.shape)} does not fit {matrix.shape[1]} columns")
        lower = root(regularised(moment.to(matrix.device), ridge))
        matrix = matrix @ lower
    side = min(matrix.shape)
    if rank is not None and side > _LARGE and rank < side / _SMALL_PART:
        left, values, right = _projected(matrix, rank, seed)
        total = float(torch.linalg.vector_norm(matrix)) ** 2
    else:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        total = float(values.square().cumsum(0)[-1])
    if lower is not None:
        right = torch.linalg.solve_triangular(lower, right, upper=False, left=False)
    return Spectrum(values, left, right, total)


def _projected(matrix: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triplets within the span of all blocks M Z, (M M^T) M Z, ... of a random Z: block Krylov."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(matrix.shape[1], rank + _OVERSAMPLED, generator=generator, dtype=matrix.dtype)
    blocks = [torch.linalg.qr(matrix @ drawn.to(matrix.device))[0]]
    for _ in range(_POWER_STEPS):
        blocks.append(torch.linalg.qr(matrix @ (blocks[-1].T @ matrix).T)[0])
    basis = torch.linalg.qr(torch.cat(blocks, 1))[0]
    rows, small = torch.linalg.qr((basis.T @ matrix).T)
    left, values, right = torch.linalg.svd(small.T, full_matrices=False)
    return basis @ left[:, :rank], values[:rank], right[:rank] @ rows.T


def factors(found: Spectrum, rank: int) -> tuple[Tensor, Tensor]:
    """Two matrices whose product is the best fit of this rank.

    Every column of the left one has the norm of the row of the right one that it meets; without a moment both get the
    square root of the singular value.

    Returns:
        (rows, rank) and (rank, columns).

    Raises:
        Refused: there are fewer singular values than that.

    >>> factors(spectrum(torch.diag(torch.tensor([1.0, 4.0]))), 1)[0].abs()
    tensor([[0.],
            [2.]], dtype=torch.float64)
    """
    _within(rank, len(found.values))
    left = found.left[:, :rank] * found.values[:rank]
    right = found.right[:rank]
    norms = left.norm(dim=0), right.norm(dim=1)
    scale = torch.where((norms[0] > 0) & (norms[1] > 0), (norms[1] / norms[0]).sqrt(), 1.0)
    return left * scale, right / scale[:, None]


def rank_for(found: Spectrum, energy: float) -> int:
    """The least rank that keeps a share of the energy: sum of s_i^2 over i < r is at least energy times the total.

    Args:
        found: all singular values, or as many as the share needs.
        energy: in (0, 1].

    Raises:
        Refused: the share is outside (0, 1], or the values found do not reach it.

    >>> rank_for(spectrum(torch.diag(torch.tensor([3.0, 4.0]))), 0.6)
    1
    """
    if not 0 < energy <= 1:
        raise Refused(f"energy {energy}: expected above 0, at most 1")
    kept = found.values.square().cumsum(0)
    enough = kept >= energy * found.total
    if not bool(enough.any()):
        if found.total == 0:
            return 1
        held = float(kept[-1]) / found.total
        raise Refused(f"energy {energy}: the {len(kept)} values found hold {held:.6f}; ask for more, or for all")
    return int(enough.int().argmax()) + 1


def spatial_matrix(W: Tensor) -> Tensor:
    """A kernel as the matrix whose low rank is a k x 1 convolution followed by a 1 x k one.

    Args:
        W: (O, I, kh, kw).

    Returns:
        (O kw, I kh), rows in the order (o, kw), columns in the order (i, kh).

    >>> spatial_matrix(torch.zeros(8, 3, 5, 2)).shape
    torch.Size([16, 15])
    """
    return W.detach().double().permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def column_moment(moment: Tensor, W: Tensor) -> Tensor:
    """The second moment of one column of a patch, (i, kh): the mean over the kw columns.

    Args:
        moment: (D, D), in the patch order.
        W: (O, I, kh, kw); only its shape matters.

    Returns:
        (I kh, I kh).
    """
    wide = W.shape[3]
    tall = W[0].numel() // wide
    return moment.double().reshape(tall, wide, tall, wide).diagonal(dim1=1, dim2=3).mean(-1)


def kernel_spectrum(
    kind: Kind, W: Tensor, *, moment: Tensor | None = None, rank: int | None = None, seed: int = 0
) -> Spectrum:
    """The spectrum that the ranks of a kind are about.

    Args:
        kind: "svd" or "spatial_svd".
        W: (O, I, kh, kw), or (O, D) of a linear layer.
        moment: (D, D) second moment of the patches; "spatial_svd" takes its mean over the columns of a patch.
        rank, seed: as for `spectrum`.

    >>> kernel_spectrum("spatial_svd", torch.ones(4, 2, 3, 3)).values[:1]
    tensor([8.4853], dtype=torch.float64)
    """
    if kind == "svd":
        return spectrum(W.flatten(1), moment=moment, rank=rank, seed=seed)
    marginal = None if moment is None else column_moment(moment, W)
    return spectrum(spatial_matrix(W), moment=marginal, rank=rank, seed=seed)


def svd(W: Tensor, rank: int, *, moment: Tensor | None = None, seed: int = 0) -> Rebuilt:
    """A linear layer as two, or a convolution as a k x k one onto `rank` channels and a 1 x 1 one.

    Args:
        W: (O, D) or (O, I, kh, kw).
        rank: 1 to min(O, D).
        moment: (D, D) second moment of the inputs: the fit is then of the outputs.
        seed: of the random projection that large matrices take.

    Raises:
        Refused: the rank is above the full one, or the moment does not fit.

    >>> {name: tuple(w.shape) for name, w in svd(torch.zeros(8, 4, 3, 3), 2).weights.items()}
    {'reduce': (2, 4, 3, 3), 'expand': (8, 2, 1, 1)}
    """
    _within(rank, min(W.flatten(1).shape))
    left, right = factors(kernel_spectrum("svd", W, moment=moment, rank=rank, seed=seed), rank)
    expand = left if W.dim() == 2 else left[:, :, None, None]
    return Rebuilt("svd", (rank,), {"reduce": right.reshape(rank, *W.shape[1:]), "expand": expand})


def spatial_svd(W: Tensor, rank: int, *, moment: Tensor | None = None) -> Rebuilt:
    """A convolution as a k x 1 one onto `rank` channels and a 1 x k one.

    With a moment the k x 1 filters come from the SVD under the columns' mean moment, or from the plain one, whichever
    serves better once the 1 x k filters have been fitted to the outputs by least squares under the whole moment: the
    error on these inputs is then never above that of the plain SVD.

    Args:
        W: (O, I, kh, kw).
        rank: 1 to max(min(I kh, O kw), O); beyond the matrix's own rank the filters are zeros.
        moment: (D, D) second moment of the patches.

    Raises:
        Refused: the rank is too large, or the moment does not fit.

    Source: Jaderberg et al. 2014, scheme 2; the fit of the outputs differs from theirs.

    >>> {name: tuple(w.shape) for name, w in spatial_svd(torch.zeros(8, 4, 3, 3), 2).weights.items()}
    {'vertical': (2, 4, 3, 1), 'horizontal': (8, 2, 1, 3)}
    """
    outputs, inputs, high, wide = W.shape
    full = min(inputs * high, outputs * wide)
    _within(rank, max(full, outputs))
    W = W.detach().double()
    used = min(rank, full)
    horizontal, vertical = _halves(W, factors(kernel_spectrum("spatial_svd", W, rank=used), used))
    if moment is not None:
        moment = fits(moment, W)
        aware = _halves(W, factors(kernel_spectrum("spatial_svd", W, moment=moment, rank=used), used))[1]
        metric = regularised(moment)
        fitted = [(_fitted(W, v, metric), v) for v in (aware, vertical)]
        horizontal, vertical = min(fitted, key=lambda pair: output_error(W - spatial_kernel(*pair), metric))
    vertical, horizontal = _even(vertical, horizontal)
    pad = rank - used
    return Rebuilt(
        "spatial_svd",
        (rank,),
        {
            "vertical": torch.cat([vertical, vertical.new_zeros(pad, inputs, high)])[:, :, :, None],
            "horizontal": torch.cat([horizontal, horizontal.new_zeros(outputs, pad, wide)], 1)[:, :, None, :],
        },
    )


def spatial_kernel(horizontal: Tensor, vertical: Tensor) -> Tensor:
    """The kernel (O, I, kh, kw) that vertical (r, I, kh) followed by horizontal (O, r, kw) computes."""
    return torch.einsum("orw,rih->oihw", horizontal, vertical)


def _halves(W: Tensor, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(O kw, r), (r, I kh) as horizontal (O, r, kw) and vertical (r, I, kh)."""
    outputs, inputs, high, wide = W.shape
    return pair[0].reshape(outputs, wide, -1).transpose(1, 2), pair[1].reshape(-1, inputs, high)


def _even(vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, with equal norms on both sides of every channel between."""
    norms = vertical.flatten(1).norm(dim=1), horizontal.transpose(0, 1).flatten(1).norm(dim=1)
    scale = torch.where((norms[0] > 0) & (norms[1] > 0), (norms[1] / norms[0]).sqrt(), 1.0)
    return vertical * scale[:, None, None], horizontal / scale[:, None]


def _fitted(W: Tensor, vertical: Tensor, metric: Tensor) -> Tensor:
    """The 1 x k filters that fit the outputs best behind given k x 1 filters: least squares on the r kw features."""
    wide, rank = W.shape[3], len(vertical)
    flat = vertical.flatten(1)
    tall = flat.shape[1]
    seen = torch.tensordot(flat, metric.reshape(tall, wide, -1), 1)  # (r, kw, D): features against patches
    crossed = torch.tensordot(seen.reshape(rank, wide, tall, wide), flat, ([2], [1]))  # (r, kw, kw, r)
    crossed = crossed.transpose(2, 3).reshape(rank * wide, rank * wide)
    solved = torch.cholesky_solve(seen.flatten(0, 1) @ W.flatten(1).T, root(crossed))
    return solved.T.reshape(-1, rank, wide)


def fits(moment: Tensor, W: Tensor) -> Tensor:
    """The moment as float64 on the kernel's device.

    Raises:
        Refused: it is not of the kernel's patches.
    """
    size = W[0].numel()
    if moment.shape != (size, size):
        raise Refused(f"a moment of {tuple(moment.shape)} does not fit patches of {size} numbers")
    return moment.to(W.device).double()


def _within(rank: int, full: int) -> None:
    if not 1 <= rank <= full:
        raise Refused(f"rank {rank}: expected 1 to {full}, the full rank")
