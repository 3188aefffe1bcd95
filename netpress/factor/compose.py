"""The one kernel that a chain of factors amounts to."""

from __future__ import annotations

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
    match found.operation:
        case "svd":
            return (w["expand"].flatten(1) @ w["reduce"].flatten(1)).reshape(shape)
        case "spatial_svd":
            return torch.einsum("rik,orl->oikl", w["vertical"].squeeze(3), w["horizontal"].squeeze(2))
        case "cp":
            flat = [w[name].flatten(1) for name in ("reduce", "vertical", "horizontal", "expand")]
            return torch.einsum("ri,rk,rl,or->oikl", *flat)
        case "tucker2":
            return torch.einsum("ri,srkl,os->oikl", w["reduce"].flatten(1), w["core"], w["expand"].flatten(1))
        case "stacked":
            return F.conv2d(w["first"].transpose(0, 1), w["second"].flip(2, 3), padding=2).transpose(0, 1)
        case "separable":
            point = w["pointwise"].flatten(1).unflatten(1, (shape[1], -1))
            return torch.einsum("oim,imkl->oikl", point, w["depthwise"].unflatten(0, (shape[1], -1)).squeeze(2))
        case "grouped" | "shuffled":
            return _spread(found, shape)
        case _:
            return None if found.numbers[2] else _fire(w, shape)


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


def _fire(w: dict[str, Tensor], shape: torch.Size) -> Tensor:
    condense, dense = w["condense"].flatten(1), w["wide"].new_zeros(shape)
    ones = len(w["ones"])
    dense[:ones, :, shape[2] // 2, shape[3] // 2] = w["ones"].flatten(1) @ condense
    dense[ones:] = torch.einsum("oskl,si->oikl", w["wide"], condense)
    return dense


def relative_error(weight: Tensor, found: Rebuilt) -> float | None:
    """||W - What|| / ||W||, or None where there is no single What; 0 for a kernel of zeros that stays one."""
    what = composed(found, weight.shape)
    if what is None:
        return None
    off, size = (weight.double() - what).norm().item(), weight.double().norm().item()
    return off / size if size else off
