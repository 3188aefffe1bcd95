"""A depthwise and a pointwise convolution in the place of a dense one: the pair nearest to the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from netpress.factor.structure import Rebuilt


def separable(weight: Tensor, multiplier: int = 1) -> Rebuilt:
    """The best pair in the least-squares sense: each input channel's kernels, cut to rank m.

        W[:, i] as a matrix (O, kh kw) = U S V^T;   depthwise kernels sqrt(S_j) V_j,  pointwise columns sqrt(S_j) U_j

    Args:
        weight: (O, I, kh, kw).
        multiplier: m, depthwise kernels per input, 1 to kh kw; at kh kw nothing is lost.

    Returns:
        Weights `depthwise` (I m, 1, kh, kw) and `pointwise` (O, I m, 1, 1).

    Source: the slides of SEP-Net convert by hand and retrain; the closed form is that of Guo et al. 2018 (Network
    decoupling) for one kernel per input.

    >>> found = separable(torch.ones(4, 3, 3, 3))
    >>> {name: tuple(w.shape) for name, w in found.weights.items()}
    {'depthwise': (3, 1, 3, 3), 'pointwise': (4, 3, 1, 1)}
    """
    w = weight.detach().double()
    outputs, inputs, high, wide = w.shape
    left, values, right = torch.linalg.svd(w.transpose(0, 1).flatten(2), full_matrices=False)
    rank = min(multiplier, values.shape[1])
    root = values[:, :rank].sqrt()
    depthwise, pointwise = w.new_zeros(inputs, multiplier, high * wide), w.new_zeros(outputs, inputs, multiplier)
    depthwise[:, :rank] = root[:, :, None] * right[:, :rank]
    pointwise[:, :, :rank] = (left[:, :, :rank] * root[:, None, :]).transpose(0, 1)
    weights = {
        "depthwise": depthwise.reshape(inputs * multiplier, 1, high, wide),
        "pointwise": pointwise.reshape(outputs, inputs * multiplier, 1, 1),
    }
    return Rebuilt("separable", (multiplier,), weights)
