"""A fire module in the place of a convolution: few condensed channels, then 1 x 1 and k x k filters side by side.

Shape letters: O outputs, n of them by 1 x 1 filters, I inputs, S condensed channels, D = I kh kw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from netpress.factor.structure import Rebuilt
from netpress.factor.svd import regularised, root

_SPREAD = 2.5  # standard deviations of a condensed channel that its bias keeps above zero


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """What a layer sees: second moment E[p p^T] (D, D) and mean E[p] (D,) of its input patches (i, kh, kw)."""

    moment: Tensor
    mean: Tensor


def fire(
    weight: Tensor,
    condensed: int,
    ones: int,
    *,
    rectified: Literal["relu", "identity"],
    bias: Tensor | None = None,
    seen: Patches | None = None,
) -> Rebuilt:
    """Condensing directions and the filters behind them that are nearest to a kernel.

        y = [E1 a, E3 * a],  a = C x  (or relu(C x + b));   C: leading directions of the inputs' unfolding

    The first n outputs see the middle of their window only. Without patches, C is the leading right singular vectors
    of the weights that can be kept (all of the k x k filters, the middle of the others): the best fit there is. With
    patches, directions and filters are fitted to what the layer gives on them: a 1 x 1 filter then stands in for a
    whole k x k one as far as neighbours are alike. Behind a ReLU each direction points to where its mean is positive,
    and b = max(0, 2.5 sigma - mean) lets nearly everything pass; without patches b = 0, and the ReLU cuts.

    Args:
        weight: (O, I, kh, kw), kh and kw odd.
        condensed: S, 1 to I.
        ones: n, 1 to O - 1.
        rectified: what follows the condensing convolution.
        bias: of the layer, (O,) or None; only used with patches.
        seen: patches of the layer's inputs.

    Returns:
        Weights `condense` (S, I, 1, 1), `ones` (n, S, 1, 1), `wide` (O - n, S, kh, kw); with patches also biases. Zeros
        around an image stay zeros, they get no b: near the border a rectified module differs more.

    Source: Iandola et al. 2016, SqueezeNet, train such modules from scratch; starting from a trained layer is ours.

    >>> found = fire(torch.randn(8, 6, 3, 3), 2, 4, rectified="identity")
    >>> {name: tuple(w.shape) for name, w in found.weights.items()}
    {'condense': (2, 6, 1, 1), 'ones': (4, 2, 1, 1), 'wide': (4, 2, 3, 3)}
    """
    w = weight.detach().double()
    numbers = (condensed, ones, int(rectified == "relu"))
    if seen is None:
        return Rebuilt("fire", numbers, _plain(w, condensed, ones))
    free = bias is not None or rectified == "relu"
    mean = seen.mean.to(w).reshape(w[0].shape)
    moment = seen.moment.to(w)
    if free:  # biases take up the means: only what varies is to be fitted
        moment = moment - mean.flatten().outer(mean.flatten())
    moment = regularised(moment)
    middle = mean[:, w.shape[2] // 2, w.shape[3] // 2]
    c, e1, e3 = _fitted(w, condensed, ones, moment.reshape(*w[0].shape, *w[0].shape))
    c, e1, e3 = _upright(c, e1, e3, (c @ middle))
    weights = {"condense": c[:, :, None, None], "ones": e1[:, :, None, None], "wide": e3}
    if not free:
        return Rebuilt("fire", numbers, weights)
    return Rebuilt("fire", numbers, weights, _biases(w, (c, e1, e3), (moment, mean), bias, rectified))


def _plain(w: Tensor, condensed: int, ones: int) -> dict[str, Tensor]:
    """The best fit where all inputs count alike."""
    high, wide = w.shape[2:]
    centre = w[:ones, :, high // 2, wide // 2]
    kept = torch.cat([centre, w[ones:].permute(0, 2, 3, 1).flatten(0, 2)])
    c = torch.linalg.svd(kept, full_matrices=False)[2][:condensed]
    c = torch.cat([c, c.new_zeros(condensed - len(c), w.shape[1])])
    e1, e3 = centre @ c.T, torch.einsum("oikl,si->oskl", w[ones:], c)
    c, e1, e3 = _upright(c, e1, e3, c.sum(1))  # inputs behind a ReLU: all means are positive
    return {"condense": c[:, :, None, None], "ones": e1[:, :, None, None], "wide": e3}


def _fitted(w: Tensor, condensed: int, ones: int, moment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Directions by whitened unfolding, then both kinds of filters by least squares; moment (I, kh, kw, I, kh, kw)."""
    inputs, high, wide = w.shape[1:]
    whole = moment.reshape(w[0].numel(), -1)
    centre = moment[:, high // 2, wide // 2]  # middle of the window x window
    small = centre[..., high // 2, wide // 2]
    wanted = w[:ones].flatten(1) @ centre.reshape(inputs, -1).T  # E[y x^T] of the first outputs
    marginal = torch.einsum("iabjab->ij", moment) / (high * wide)
    factor = root(marginal)
    nearest = torch.linalg.solve(small, wanted.T).T  # the best 1 x 1 filters without condensing
    kept = torch.cat([nearest, w[ones:].permute(0, 2, 3, 1).flatten(0, 2)])
    right = torch.linalg.svd(kept @ factor, full_matrices=False)[2][:condensed]
    c = torch.linalg.solve_triangular(factor, right, upper=False, left=False)
    c = torch.cat([c, c.new_zeros(condensed - len(c), inputs)])
    e1 = _solve(c @ small @ c.T, wanted @ c.T)
    spread = torch.einsum("si,ab,cd->sacibd", c, *(torch.eye(n).to(c) for n in (high, wide))).reshape(-1, len(whole))
    e3 = _solve(spread @ whole @ spread.T, w[ones:].flatten(1) @ whole @ spread.T)
    return c, e1, e3.reshape(-1, condensed, high, wide)


def _solve(normal: Tensor, wanted: Tensor) -> Tensor:
    """X of X N = B for a symmetric N that may be singular."""
    answer: Tensor = wanted @ torch.linalg.pinv(normal, hermitian=True)
    return answer


def _upright(c: Tensor, e1: Tensor, e3: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn directions whose mean is negative."""
    sign = torch.where(mean < 0, -1.0, 1.0).to(c)
    return c * sign[:, None], e1 * sign, e3 * sign[:, None, None]


def _biases(
    w: Tensor,
    parts: tuple[Tensor, Tensor, Tensor],
    patches: tuple[Tensor, Tensor],
    bias: Tensor | None,
    rectified: str,
) -> dict[str, Tensor]:
    """Biases that make the mean outputs right, behind a bias that keeps what is condensed above zero."""
    c, e1, e3 = parts
    moment, mean = patches
    (high, wide), ones = w.shape[2:], len(e1)
    outputs = torch.einsum("oikl,ikl->o", w, mean)
    if bias is not None:
        outputs = outputs + bias.detach().to(w)
    means = torch.einsum("si,ikl->skl", c, mean)
    places = torch.arange(len(moment)).reshape(w[0].shape)[:, high // 2, wide // 2]
    middle = moment[places][:, places]
    shift = torch.zeros(len(c)).to(w)
    if rectified == "relu":
        sigma = torch.einsum("si,ij,sj->s", c, middle, c).clamp(min=0).sqrt()
        shift = (_SPREAD * sigma - means[:, high // 2, wide // 2]).clamp(min=0)
    means = means + shift[:, None, None]
    behind = {
        "ones": outputs[:ones] - e1 @ means[:, high // 2, wide // 2],
        "wide": outputs[ones:] - torch.einsum("oskl,skl->o", e3, means),
    }
    return behind if rectified != "relu" else {"condense": shift, **behind}
