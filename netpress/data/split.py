"""Fixed, stratified splits that stay the same on every machine and with every library version."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from netpress.data.types import Data, Split, build
from netpress.errors import DataError


def stratify(labels: Tensor, counts: Sequence[int], *, seed: int) -> list[Tensor]:
    """Deal positions into parts of exact sizes, each with every class in proportion (but for rounding).

    Within its class each image gets a random rank r = 0..n-1 and the place (r + 1/2) / n; all images sorted by place
    are cut into consecutive parts. Only the raw stream of PCG64 and stable sorting are used: numpy promises to keep
    both, which it does not for its `permutation`.

    Args:
        labels: int64, (N,).
        counts: sizes of the parts; they add up to N.
        seed: of the ranks.

    Returns:
        One ascending int64 tensor of positions per part.

    >>> [part.tolist() for part in stratify(torch.tensor([0, 0, 1, 1]), (2, 2), seed=0)]
    [[1, 3], [0, 2]]
    """
    values = labels.cpu().numpy()
    if sum(counts) != len(values):
        raise ValueError(f"counts {tuple(counts)} add up to {sum(counts)}, not to {len(values)}")
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(values)), kind="stable")
    place = np.empty(len(values))
    for label in np.unique(values):
        members = shuffled[values[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((values, place))
    cuts = np.cumsum(counts)[:-1]
    return [torch.from_numpy(np.sort(part)) for part in np.split(order, cuts)]


def hold_out(split: Split, count: int, *, seed: int) -> tuple[Split, Split]:
    """Cut a stratified part of `count` images off a split.

    Returns:
        The rest and the part, both in the original order.

    Raises:
        DataError: the split is too small to leave anything.

    >>> split = Split(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10) % 2)
    >>> [part.labels.tolist() for part in hold_out(split, 2, seed=0)]
    [[0, 1, 0, 1, 0, 1, 0, 1], [0, 1]]
    """
    if not 0 < count < len(split):
        raise DataError(f"cannot hold out {count} of {len(split)} images; at least one must stay on each side")
    part, rest = stratify(split.labels, (count, len(split) - count), seed=seed)
    return split.select(rest), split.select(part)


def complete(parts: Sequence[Split], *, where: str) -> tuple[tuple[Split, Split, Split], str]:
    """Make train, validation and test of what is given, cutting off tenths stratified with seed 0.

    Args:
        parts: everything; or train and test; or train, validation and test.
        where: stands in the message.

    Returns:
        The splits, and how they were made.

    Raises:
        DataError: too few images.

    >>> all_of_it = Split(torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.arange(20) % 2)
    >>> [len(split) for split in complete([all_of_it], where="")[0]]
    [16, 2, 2]
    """
    if len(parts) == 3:
        train, validation, test = parts
        note = "as given"
    else:
        train, tenth = parts[0], max(1, round(len(parts[0]) / 10))
        if len(train) < 10:
            raise DataError(f"{where}: {len(train)} images are too few to cut a tenth off; give the splits yourself")
        if len(parts) == 2:
            test, note = parts[1], "a tenth of train validates (stratified, seed 0), test as given"
        else:
            train, test = hold_out(train, tenth, seed=0)
            note = "one folder cut into 80 % train, 10 % validation, 10 % test (stratified, seed 0)"
        train, validation = hold_out(train, tenth, seed=0)
    return (train, validation, test), f"{len(train):,}/{len(validation):,}/{len(test):,}; {note}"


def decide_on_test(data: Data, *, count: int = 5000) -> Data:
    """Make `count` test images the validation split and test on the others: for weights that have seen all of train.

    Stratified with seed 0. The training split is left as it is, the old validation images are not used.

    Args:
        data: the set whose validation split the weights have been trained on.
        count: how many test images decide from now on.

    >>> part = Split(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10) % 2)
    >>> toy = build("toy", (part, part, part), classes=("a", "b"), note="")
    >>> len(decide_on_test(toy, count=4).validation), len(decide_on_test(toy, count=4).test)
    (4, 6)
    """
    test, validation = hold_out(data.test, count, seed=0)
    note = (
        f"{len(data.train):,} train; {count:,} of the {len(data.test):,} test images (stratified, seed 0) decide and "
        f"the other {len(test):,} are reported, because the weights have seen the usual validation images"
    )
    splits = (data.train, validation, test)
    return build(data.name, splits, classes=data.classes, note=note, statistics=(data.mean, data.std))
