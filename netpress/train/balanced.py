"""The class-balanced focal loss: rare classes count more, images that are right for sure count less."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from netpress.errors import DataError


def effective_number(count: int, beta: float) -> float:
    """How many different images a class of n holds, where images overlap (Cui et al. 2019, proposition 1).

        E_n = (1 - beta^n) / (1 - beta)

    Args:
        count: n, images of the class, at least 0.
        beta: 0 (one image tells all) to below 1 (towards 1 every image is new: E_n = n).

    Returns:
        Between 0 and n.

    >>> effective_number(5000, 0.0), round(effective_number(5000, 0.9999), 3)
    (1.0, 3934.845)
    """
    if beta == 0.0:
        return float(count > 0)
    # expm1: beta^n of a beta near 1 would cancel
    return -math.expm1(count * math.log(beta)) / (1 - beta)


def class_weights(labels: Tensor, classes: int, beta: float) -> Tensor:
    """Weight of each class in the loss, from the training labels.

        alpha_y = present * (1 / E_{n_y}) / sum_c (1 / E_{n_c})

    Args:
        labels: int64 (N,), of the training split.
        classes: C.
        beta: as in `effective_number`.

    Returns:
        float32 (C,): the weights of the classes present sum to their number, which is C where none is missing; a class
        without images has weight 0 (the paper does not say; nothing asks for it).

    Raises:
        DataError: there is no label, or one is not in 0..C-1.

    >>> class_weights(torch.tensor([0, 0, 0, 1]), 2, 0.0), class_weights(torch.tensor([0, 0, 0, 1]), 2, 1 - 1e-9)
    (tensor([1., 1.]), tensor([0.5000, 1.5000]))

    Source: Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of Samples", 2019, section 4.
    """
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(f"class weights: expected labels from 0 to {classes - 1}, at least one")
    counts = torch.bincount(labels.long(), minlength=classes).tolist()
    inverse = torch.tensor([1 / effective_number(n, beta) if n else 0.0 for n in counts], dtype=torch.float64)
    present = sum(n > 0 for n in counts)
    weights: Tensor = present * inverse / inverse.sum()
    return weights.float()


def class_balanced_focal(logits: Tensor, labels: Tensor, weights: Tensor, *, form: str, gamma: float) -> Tensor:
    """Class-balanced focal loss, mean over the batch.

        sigmoid:  L = -alpha_y sum_i (1 - p_i)^gamma log p_i,  p_i = sigmoid(z_i) for i = y, else sigmoid(-z_i)
        softmax:  L = -alpha_y (1 - p_y)^gamma log p_y,        p_y = softmax(z)_y

    Args:
        logits: (N, C).
        labels: int64 (N,).
        weights: alpha, (C,), of `class_weights`.
        form: "sigmoid" (one yes or no per class, the paper's choice) or "softmax".
        gamma: 0 and more; at 0 nothing is taken back from easy images.

    Returns:
        Scalar, at least float32.

    >>> z, y, ones = torch.zeros(1, 4), torch.tensor([2]), torch.ones(4)
    >>> round(class_balanced_focal(z, y, ones, form="softmax", gamma=0.0).item(), 4)  # log 4
    1.3863
    >>> round(class_balanced_focal(z, y, ones, form="sigmoid", gamma=2.0).item(), 4)  # 4 * 0.25 * log 2
    0.6931

    Source: Cui et al. 2019, equations 10 to 12; the focal loss: Lin et al. 2017.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    at = labels[:, None]
    own = logits.gather(1, at)
    if form == "sigmoid":
        losses = _focal((-logits).scatter(1, at, own), gamma).sum(1)
    else:
        # softmax(z)_y = sigmoid(z_y - log sum_{i != y} exp z_i): exact at both ends, where 1 - p_y would cancel
        others = logits.scatter(1, at, -torch.inf).logsumexp(1)
        losses = _focal(own[:, 0] - others, gamma)
    return (weights.to(losses)[labels] * losses).mean()


def _focal(z: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of p = sigmoid(z), in logarithms: finite, with finite gradients, at any finite z."""
    losses: Tensor = -torch.exp(gamma * F.logsigmoid(-z)) * F.logsigmoid(z)
    return losses
