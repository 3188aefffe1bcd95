"""Images that stay where they lie until they are asked for: what every streamed source has in common.

Shape letters: N images, C channels, H rows, W columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from netpress.data.decode import decode, stack
from netpress.errors import DataError

Index = int | slice | Tensor
Part = tuple[int, int]
SAMPLE = 1024
"""Images of which a streamed set tells size, channels, mean and deviation."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What every image of a streamed set becomes.

    Args:
        channels, rows, columns: of every image.
        size: None, or the side to which the middle square of every image is scaled.
    """

    channels: int
    rows: int
    columns: int
    size: int | None = None

    def fill(self, where: str, content: bytes) -> Tensor:
        """Decode an image file: the same bytes as in a set that is read into memory.

        Returns:
            uint8, (C, H, W).

        Raises:
            DataError: damaged, of another size, or coloured in a set that was taken for grey.
        """
        image = decode(where, content, size=self.size)
        if image.shape[:2] != (self.rows, self.columns):
            raise DataError(
                f"{where}: {image.shape[1]}x{image.shape[0]} pixels, but the first has {self.columns}x{self.rows}; all "
                f"images need one size: resize them, or write ?size={self.rows}"
            )
        if self.channels == 1 and image.ndim == 3:
            raise DataError(f"{where}: a colour image, but those looked at first are grey; convert it or the others")
        return torch.from_numpy(stack([image], channels=self.channels)[0])


class Lazy(ABC):
    """Images that are read and decoded when they are indexed; stands where a split has its tensor.

    `images[index]` gives a uint8 tensor as the same index of a tensor would: (C, H, W) for a number, (N, C, H, W) for
    a slice, positions or a mask. `feed` is the way to read much: it decodes in parallel and ahead.
    """

    dtype, ndim, device = torch.uint8, 4, torch.device("cpu")
    frame: Frame

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def subset(self, positions: Tensor) -> "Lazy":
        """The images at the given positions, still not read."""

    @abstractmethod
    def feed(self, batches: Sequence[Index], *, pin: bool = False) -> Iterator[Tensor]:
        """Read batches one after the other, ahead of being asked for.

        Args:
            batches: what to read, a slice or positions each.
            pin: into page-locked memory, for copies to a GPU that nobody waits for.

        Returns:
            uint8 images (B, C, H, W) for each; closing the iterator ends everything that was started for it.

        Raises:
            DataError: an image is damaged or missing; the message names it.
        """

    @abstractmethod
    def identity(self) -> Iterator[bytes]:
        """What the fingerprint is taken of instead of the pixels."""

    def order(self, generator: torch.Generator, bounds: Sequence[slice], part: Part) -> Tensor:  # noqa: ARG002
        """The shuffled order of an epoch.

        Args:
            generator: the only source of randomness.
            bounds: for every batch of the epoch, which places of it this process reads.
            part: (rank, world).

        Returns:
            int64 (N,): the position of the image at each place of the epoch; only places in `bounds` are read.
        """
        return torch.randperm(len(self), generator=generator)

    def sample(self) -> Tensor:
        """Ascending positions of up to `SAMPLE` images, drawn from the raw stream of PCG64 with seed 0."""
        return torch.from_numpy(np.sort(np.argsort(np.random.PCG64(0).random_raw(len(self)), kind="stable")[:SAMPLE]))

    @property
    def shape(self) -> torch.Size:
        """N, C, H, W."""
        return torch.Size((len(self), self.frame.channels, self.frame.rows, self.frame.columns))

    def positions(self, index: Index) -> Tensor:
        """The positions, int64, that an index means."""
        return torch.arange(len(self))[index]

    def __getitem__(self, index: Index) -> Tensor:
        where = self.positions(index)
        images = next(iter(self.feed([where.reshape(-1)])))
        return images[0] if where.ndim == 0 else images

    def numpy(self) -> np.ndarray:
        """All images, in memory: (N, C, H, W)."""
        return self[:].numpy()


def usual(found: Sequence[tuple[str, tuple[int, int, bool]]], size: int | None) -> Frame:
    """The frame of images of which one knows name, rows, columns and whether they are grey.

    Raises:
        DataError: their sizes differ, and no `size` makes them one.

    >>> usual([("a.png", (8, 6, True)), ("b.png", (8, 6, False))], None)
    Frame(channels=3, rows=8, columns=6, size=None)
    """
    first, (rows, columns, _) = found[0]
    channels = 1 if all(grey for _, (_, _, grey) in found) else 3
    if size is not None:
        return Frame(channels, size, size, size)
    for where, (high, wide, _) in found:
        if (high, wide) != (rows, columns):
            raise DataError(
                f"{where}: {wide}x{high} pixels, but {first} has {columns}x{rows}; all images need one size: resize "
                f"them, or write ?size={rows}"
            )
    return Frame(channels, rows, columns)
