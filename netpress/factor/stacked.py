"""Two 3 x 3 convolutions in the place of a 5 x 5 one: the pair whose composition is nearest to the kernel.

Shape letters: O outputs, I inputs, M channels between.
"""

from __future__ import annotations

import torch
from torch import Tensor

from netpress.factor.structure import Rebuilt

_LIFT = 1e-9  # of the mean diagonal: keeps a half where its normal equations leave it open
# where, among the 5 x 5 shifts between two 3 x 3 places, the shift between each two of the nine lies
_SHIFTS = torch.tensor([[(b // 3 - a // 3 + 2) * 5 + (b % 3 - a % 3 + 2) for b in range(9)] for a in range(9)])


def stacked(weight: Tensor, middle: int, *, sweeps: int = 200, tolerance: float = 1e-6) -> Rebuilt:
    """Two 3 x 3 kernels, no activation between, near a 5 x 5 kernel.

        min over A, B of ||W - B * A||^2,   (B * A)[o, i, u] = sum over m, a + b = u of B[o, m, b] A[m, i, a]

    Each half is a linear problem when the other is fixed: they are solved in turn (alternating least squares), with a
    step along the last change where that helps. Of two starts, the leading patterns of the kernel's 3 x 3 windows seen
    from the inputs and from the outputs, the better one after 30 sweeps goes on. The problem has local minima: a
    composition of two 3 x 3 kernels through at most as many channels as there are on both sides is found again; from
    M = 4 min(O, I) on every kernel is one.

    Args:
        weight: (O, I, 5, 5).
        middle: M >= 1.
        sweeps: at most.
        tolerance: stop where ten sweeps lower the relative error by less than this share of it.

    Returns:
        Weights `first` (M, I, 3, 3) and `second` (O, M, 3, 3), each channel between of equal norm in both.

    Source: Simonyan and Zisserman 2015, section 2.3, put two 3 x 3 layers in the place of a 5 x 5 one, with a ReLU
    between and trained from scratch; starting from a trained 5 x 5 kernel is ours.

    >>> ramp = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0])
    >>> found = stacked(torch.outer(ramp, ramp)[None, None], 1)
    >>> found.weights["first"].abs().round(decimals=4).unique()
    tensor([1.], dtype=torch.float64)
    """
    w = weight.detach().double()
    other = w.transpose(0, 1)
    backwards = _half(other, _leading(other, middle), w.new_zeros(w.shape[1], middle, 3, 3)).transpose(0, 1)
    begun = [_fit(w, first, min(sweeps, 30), tolerance) for first in (_leading(w, middle), backwards)]
    best = min(begun, key=lambda pair: _off(w, *pair))
    return Rebuilt("stacked", (middle,), _balanced(*_fit(w, best[0], sweeps - 30, tolerance) if sweeps > 30 else best))


def _leading(w: Tensor, middle: int) -> Tensor:
    """A first half: the leading right singular vectors of all 3 x 3 windows."""
    outputs, inputs = w.shape[:2]
    windows = w.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).reshape(outputs * 9, inputs * 9)
    leading = torch.linalg.svd(windows, full_matrices=False)[2][:middle]
    first = w.new_zeros(middle, inputs * 9)
    first[: len(leading)] = leading
    return first.view(middle, inputs, 3, 3)


def _fit(w: Tensor, first: Tensor, sweeps: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Solve for both halves in turn, from a first half."""
    second = w.new_zeros(len(w), len(first), 3, 3)
    size, step, earlier, last = float(w.norm()), 1.0, float("inf"), (first, second)
    for sweep in range(sweeps if size else 0):
        second = _half(w, first, second)
        first = _half(w.transpose(0, 1), second.transpose(0, 1), first.transpose(0, 1)).transpose(0, 1)
        found, lost = (first, second), _off(w, first, second)
        if sweep:
            far = first + step * (first - last[0]), second + step * (second - last[1])
            reached = _off(w, *far)
            step = min(1.5 * step, 50.0) if reached < lost else max(0.5 * step, 0.5)
            if reached < lost:
                (first, second), lost = far, reached
        last = found
        if sweep % 10 == 9:
            if lost < 1e-12 * size or earlier - lost < tolerance * lost:
                break
            earlier = lost
    return first, second


def _half(w: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The second kernel that fits best behind the first, near the one there is.

    The normal equations depend on shifts only: they are correlations, far cheaper than the equations written out.
    """
    middle, seen = len(first), _waves(first)
    shifted = _places(seen @ seen.mH).roll((2, 2), (2, 3)).flatten(2)  # (M, M, 25): by shift, -2 to 2
    normal = shifted[:, :, _SHIFTS.to(w.device)].permute(0, 2, 1, 3).reshape(middle * 9, middle * 9)
    lift = _LIFT * float(normal.diagonal().mean())
    normal.diagonal().add_(lift)
    wanted = _places(_waves(w) @ seen.mH)[:, :, :3, :3].flatten(1) + lift * second.flatten(1)
    solved: Tensor = torch.cholesky_solve(wanted.T, torch.linalg.cholesky(normal)).T
    return solved.reshape(second.shape)


def _off(w: Tensor, first: Tensor, second: Tensor) -> float:
    return float((w - _places(_waves(second) @ _waves(first))).norm())


def _waves(kernel: Tensor) -> Tensor:
    """(F, rows, columns): composing kernels is a product per frequency; five of each axis tell all shifts apart."""
    waves: Tensor = torch.fft.rfft2(kernel, s=(5, 5))
    return waves.permute(2, 3, 0, 1).flatten(0, 1)


def _places(waves: Tensor) -> Tensor:
    """The kernel (rows, columns, 5, 5) of its waves."""
    kernel: Tensor = torch.fft.irfft2(waves.reshape(5, 3, *waves.shape[1:]).permute(2, 3, 0, 1), s=(5, 5))
    return kernel


def _balanced(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Each channel between gets the same norm on both sides: what trains best."""
    before, after = first.flatten(1).norm(dim=1), second.transpose(0, 1).flatten(1).norm(dim=1)
    used = (before > 0) & (after > 0)
    scale = torch.where(used, (after / before).sqrt(), torch.ones_like(before))
    return {"first": first * scale[:, None, None, None], "second": second / scale[None, :, None, None]}
