"""The one kernel that a chain of factors amounts to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from netpress.factor.structure import Rebuilt


def composed(found: Rebuilt, shape: torch.Size) -> Tensor | None:
    """The kernel of the single layer that computes what the factors do, or None where a ReLU stands between them.

    Args:
        found: the factors, any operation of `structure`.
        shape: of the layer's weight, (O, I, kh, kw) or (O, I).

    Returns:
        float64, of that shape.

    >>> ones = torch.ones(2, 1, dtype=torch.float64)
    >>> composed(Rebuilt("svd", (1,), {"reduce": ones.T, "expand": 3 * ones}), torch.Size((2, 2)))
    tensor([[3., 3.],
            [3., 3.]], dtype=torch.float64)
    """
    w = {name: weight.double() for name, weight in found.weights.items() if weight.is_floating_point()}
    if found.operation in ("grouped", "shuffled"):
        return _spread(found, shape)
    if found.operation == "fire" and found.numbers[2]:
        return None
    return _COMPOSED[found.operation](w, shape)


Weights = dict[str, Tensor]


def _svd(w: Weights, shape: torch.Size) -> Tensor:
    return (w["expand"].flatten(1) @ w["reduce"].flatten(1)).reshape(shape)


def _spatial_svd(w: Weights, _shape: torch.Size) -> Tensor:
    return torch.einsum("rik,orl->oikl", w["vertical"].squeeze(3), w["horizontal"].squeeze(2))


def _cp(w: Weights, _shape: torch.Size) -> Tensor:
    flat = [w[name].flatten(1) for name in ("reduce", "vertical", "horizontal", "expand")]
    return torch.einsum("ri,rk,rl,or->oikl", *flat)


def _tucker2(w: Weights, _shape: torch.Size) -> Tensor:
    return torch.einsum("ri,srkl,os->oikl", w["reduce"].flatten(1), w["core"], w["expand"].flatten(1))


def _stacked(w: Weights, _shape: torch.Size) -> Tensor:
    return F.conv2d(w["first"].transpose(0, 1), w["second"].flip(2, 3), padding=2).transpose(0, 1)


def _separable(w: Weights, shape: torch.Size) -> Tensor:
    inputs, (high, wide) = shape[1], shape[2:]
    point = w["pointwise"].reshape(shape[0], inputs, -1)
    return torch.einsum("oim,imkl->oikl", point, w["depthwise"].reshape(inputs, -1, high, wide))


def _spread(found: Rebuilt, shape: torch.Size) -> Tensor:
    """The blocks of a grouped kernel at their places in a dense one."""
    name = "" if found.operation == "grouped" else "grouped"
    blocks = found.weights[name].double()
    groups = found.numbers[0]
    dense = blocks.new_zeros(shape)
    rows = found.weights.get("after", torch.arange(shape[0])).argsort()  # output of the block -> output of the layer
    columns = found.weights.get("before", torch.arange(shape[1]))
    for o, i, block in zip(rows.chunk(groups), columns.chunk(groups), blocks.chunk(groups), strict=True):
        dense[o[:, None], i[None, :]] = block
    return dense


def _beside(w: Weights, _shape: torch.Size) -> Tensor:
    dense = w["pattern"].clone()
    dense[:, :, dense.shape[2] // 2, dense.shape[3] // 2] += w["point"].flatten(1)
    return dense


def _fire(w: Weights, shape: torch.Size) -> Tensor:
    condense, dense = w["condense"].flatten(1), w["wide"].new_zeros(shape)
    ones = len(w["ones"])
    dense[:ones, :, shape[2] // 2, shape[3] // 2] = w["ones"].flatten(1) @ condense
    dense[ones:] = torch.einsum("oskl,si->oikl", w["wide"], condense)
    return dense


_COMPOSED: Mapping[str, Callable[[Weights, torch.Size], Tensor]] = {
    "svd": _svd,
    "spatial_svd": _spatial_svd,
    "cp": _cp,
    "tucker2": _tucker2,
    "stacked": _stacked,
    "separable": _separable,
    "fire": _fire,
    "beside": _beside,
}


def relative_error(weight: Tensor, found: Rebuilt) -> float | None:
    """||W - What|| / ||W||, or None where there is no single What; 0 for a kernel of zeros that stays one."""
    what = composed(found, weight.shape)
    if what is None:
        return None
    off, size = float((weight.double() - what).norm()), float(weight.double().norm())
    return off / size if size else off
