"""What a data set is: three splits of uint8 pixels in memory, its classes, its normalisation, its fingerprint.

Shape letters: N images, C channels, H rows, W columns.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from netpress.data.lazy import Lazy
from netpress.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images and labels of one split, in a fixed order.

    Args:
        images: uint8 pixels 0..255, (N, C, H, W).
        labels: int64 class numbers, (N,).

    Raises:
        DataError: a type or a shape is another one, or the lengths differ.

    >>> len(Split(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])))
    2
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            got = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise DataError(f"images: expected torch.uint8 of shape (N, C, H, W), got {got}")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            got = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise DataError(f"labels: expected torch.int64 of shape (N,), got {got}")
        if len(self.images) != len(self.labels):
            raise DataError(f"unequal lengths: {len(self.images)} images, {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor | slice) -> "Split":
        """Return the images and labels at the given positions.

        >>> split = Split(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([5, 6, 7]))
        >>> split.select(slice(1, None)).labels
        tensor([6, 7])
        """
        return Split(self.images[index], self.labels[index])

    def to(self, device: str | torch.device) -> "Split":
        """Return the split on a device; batches are then cut there, without a transfer each."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class Streamed(Split):
    """A split whose images stay where they lie: `images[index]` reads them, `batches` reads ahead.

    Args:
        images: indexed as a tensor is.
        labels: int64 class numbers, (N,), in memory.

    Raises:
        DataError: the lengths differ.
    """

    images: Lazy  # type: ignore[assignment]  # it is only ever indexed and asked for its shape

    def select(self, index: Tensor | slice) -> "Streamed":
        """Return the images and labels at the given positions; nothing is read."""
        return Streamed(self.images.subset(self.images.positions(index)), self.labels[index])

    def to(self, device: str | torch.device) -> "Streamed":  # noqa: ARG002
        """Return the split itself: its images come to a device batch by batch."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A data set with its three splits; make one with `build`, which checks it and takes its fingerprint.

    Args:
        name: as in `netpress.data.open`; a folder or a file is named by its last part only.
        train, validation, test: fixed splits; decisions use the first two only.
        classes: one name per class number.
        mean, std: of pixel / 255, per channel.
        fingerprint: SHA-256 in hex over class names, shapes, images (streamed: names and sizes of files) and
            labels of all splits; the same on any machine.
        note: how the splits were made, one sentence for reports.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    note: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of every image."""
        channels, rows, columns = self.train.images.shape[1:]
        return channels, rows, columns

    def splits(self) -> Iterator[tuple[str, Split]]:
        """Yield the three splits with their names, train first."""
        yield "train", self.train
        yield "validation", self.validation
        yield "test", self.test


def build(
    name: str,
    splits: tuple[Split, Split, Split],
    *,
    classes: tuple[str, ...],
    note: str,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Data:
    """Check three splits against each other and make a `Data` of them.

    Args:
        name: stands in every message.
        splits: train, validation, test.
        classes: one name per class number.
        note: how the splits were made, for reports.
        statistics: mean and standard deviation of pixel / 255 per channel; None takes them from train.

    Raises:
        DataError: an empty split, images of different sizes, a label out of range, a class without a training image.

    >>> part = Split(torch.full((2, 1, 8, 8), 51, dtype=torch.uint8), torch.tensor([0, 1]))
    >>> data = build("toy", (part, part, part), classes=("a", "b"), note="three times the same")
    >>> data.shape, data.mean, data.std
    ((1, 8, 8), (0.2,), (1.0,))
    """
    train, validation, test = splits
    for part, split in (("train", train), ("validation", validation), ("test", test)):
        _check_split(f"{name}, {part}", split, shape=tuple(train.images.shape[1:]), classes=len(classes))
    counts = torch.bincount(train.labels, minlength=len(classes))
    if missing := [classes[k] for k in range(len(classes)) if not counts[k]]:
        raise DataError(f"{name}: empty class {missing[0]!r}: no image of it in train; add images or drop the class")
    mean, std = statistics or pixel_statistics(train.images)
    if not len(mean) == len(std) == train.images.shape[1]:
        raise DataError(f"{name}: {train.images.shape[1]} channels, but mean and std of {len(mean)} and {len(std)}")
    digest = fingerprint(splits, classes)
    return Data(name, train, validation, test, classes, mean, std, digest, note)


def _check_split(where: str, split: Split, *, shape: tuple[int, ...], classes: int) -> None:
    if not len(split):
        raise DataError(f"{where}: no images; every split needs at least one")
    if tuple(split.images.shape[1:]) != shape:
        got = tuple(split.images.shape[1:])
        raise DataError(f"{where}: images of shape {got}, train has {shape} (channels, rows, columns)")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{where}: labels out of range: expected 0..{classes - 1}, got {low}..{high}")


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixel / 255 per channel, from exact integer counts.

    A constant channel gets the deviation 1, so that dividing by it is harmless.

    Args:
        images: uint8, (N, C, H, W).

    >>> pixel_statistics(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2))
    ((0.5,), (0.5,))
    """
    return moments(histogram(images))


def histogram(images: Tensor) -> np.ndarray:
    """How often each value of a pixel occurs: int64, (C, 256), of uint8 images (N, C, H, W)."""
    channels = (images[:, channel].reshape(-1) for channel in range(images.shape[1]))
    return np.stack([torch.bincount(channel, minlength=256).cpu().numpy() for channel in channels])


def moments(counts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixel / 255 per channel, of how often each value occurs, (C, 256).

    A constant channel gets the deviation 1.
    """
    means, stds = [], []
    for row in counts.tolist():
        total = sum(row)
        first = sum(value * count for value, count in enumerate(row))
        second = sum(value * value * count for value, count in enumerate(row))
        # Integers up to here: neither the order of summing nor the number of threads can change the result.
        variance = (second * total - first * first) / (total * total)
        means.append(first / total / 255)
        stds.append(variance**0.5 / 255 or 1.0)
    return tuple(means), tuple(stds)


def fingerprint(splits: tuple[Split, Split, Split], classes: tuple[str, ...]) -> str:
    """SHA-256 over class names, shapes, images and labels: the same data has the same one on any machine.

    Of images that are not in memory, what `Lazy.identity` gives stands for the pixels: names and sizes.

    >>> part = Split(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]))
    >>> len(fingerprint((part, part, part), ("a",)))
    64
    """
    digest = hashlib.sha256(json.dumps(classes).encode())
    for split in splits:
        digest.update(json.dumps(list(split.images.shape)).encode())
        if isinstance(split, Streamed):
            for piece in split.images.identity():
                digest.update(piece)
        else:
            digest.update(np.ascontiguousarray(split.images.cpu().numpy()).data)
        digest.update(split.labels.cpu().numpy().astype("<i8").data)
    return digest.hexdigest()
