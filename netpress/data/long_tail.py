"""Long-tailed training sets: from class to class fewer images, exponentially, as in the literature on imbalance."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from netpress.data.types import Data, build
from netpress.errors import DataError

_ROUND_OFF = 1e-9  # 1000 ** (1 / 3) is 9.999...: what should be a whole number must not lose one


def long_tail(data: Data, factor: float) -> Data:
    """Thin the training images out until the first class has `factor` times as many as the last; exponential between.

    Class k of K (in the order of `data.classes`) keeps n_k = floor(n F^(-k / (K - 1))) training images, where n is the
    largest whole number for which every class has that many. Which ones is drawn from the raw stream of PCG64 with seed
    0, and they stay in their order. Validation, test, mean and deviation stay as they are.

    Source: Y. Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", 2019; K. Cao et al., 2019.

    Args:
        data: any set; a streamed one stays streamed.
        factor: F, from 1; with 1 all classes have as many images as the smallest.

    Raises:
        DataError: a class would have no training image.

    >>> from netpress.data.types import Split
    >>> part = Split(torch.zeros(30, 1, 2, 2, dtype=torch.uint8), torch.arange(30) % 3)
    >>> toy = long_tail(build("toy", (part, part, part), classes=("a", "b", "c"), note="toy"), 4)
    >>> torch.bincount(toy.train.labels).tolist(), toy.name
    ([10, 5, 2], 'toy?imbalance=4')
    """
    sizes = tail(torch.bincount(data.train.labels, minlength=len(data.classes)).tolist(), factor)
    if 0 in sizes:
        first = data.classes[sizes.index(0)]
        raise DataError(
            f"{data.name}: imbalance {factor:.15g} leaves no training image of class {first!r}; the largest that "
            f"leaves one of every class is {_largest(data)}"
        )
    train = data.train.select(_members(data.train.labels, sizes))
    counts = ", ".join(f"{size:,}" for size in sizes) if len(sizes) <= 10 else f"from {sizes[0]:,} to {sizes[-1]:,}"
    note = f"{data.note}; long-tailed by {factor:.15g}: {len(train):,} training images are left, by class {counts}"
    splits, name = (train, data.validation, data.test), f"{data.name}?imbalance={factor:.15g}"
    return build(name, splits, classes=data.classes, note=note, statistics=(data.mean, data.std))


def tail(counts: Sequence[int], factor: float) -> list[int]:
    """How many images of each class a long-tailed set has: floor(n F^(-k / (K - 1))), n as large as `counts` allow.

    >>> tail([5000] * 10, 100)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    ratios = [factor ** (k / max(1, len(counts) - 1)) for k in range(len(counts))]
    largest = math.floor(min(count * ratio for count, ratio in zip(counts, ratios, strict=True)) + _ROUND_OFF)
    return [math.floor(largest / ratio + _ROUND_OFF) for ratio in ratios]


def _largest(data: Data) -> int:
    counts, low = torch.bincount(data.train.labels).tolist(), 1
    high = max(counts) + 1  # the last class has floor(n / F) images, and n is at most the first class's number
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tail(counts, middle)[-1] else (low, middle)
    return low


def _members(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    values = labels.cpu().numpy()
    shuffled = np.argsort(np.random.PCG64(0).random_raw(len(values)), kind="stable")
    kept = [shuffled[values[shuffled] == label][:size] for label, size in enumerate(sizes)]
    return torch.from_numpy(np.sort(np.concatenate(kept)))
