"""A folder of images that stay on disc: for sets larger than memory. Worker processes read and decode ahead.

Shape letters: B images in a batch, C channels, H rows, W columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from netpress.data.decode import header
from netpress.data.download import read
from netpress.data.folder import listing
from netpress.data.lazy import SAMPLE, Frame, Index, Lazy, usual
from netpress.data.split import complete
from netpress.data.types import Data, Streamed, build, histogram, moments
from netpress.errors import DataError
from netpress.processor import usable_cores

_MOST_WORKERS = 8
_FEW = 64  # images that are decoded sooner here than workers are started
_AHEAD = 2  # batches that each worker reads ahead


@dataclass(frozen=True, slots=True, eq=False)
class Files(Lazy):
    """Image files.

    Args:
        root: the folder.
        names: of the files, below it, with /.
        sizes: their bytes, int64 (N,).
        frame: what each becomes.
        workers: processes that decode; 0: this one does.
    """

    root: Path
    names: tuple[str, ...]
    sizes: Tensor
    frame: Frame
    workers: int

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, positions: Tensor) -> "Files":
        """The images at the given positions, still not read."""
        return replace(self, names=tuple(self.names[k] for k in positions.tolist()), sizes=self.sizes[positions])

    def identity(self) -> Iterator[bytes]:
        """Each file's name below the folder and its size in bytes."""
        for name, size in zip(self.names, self.sizes.tolist(), strict=True):
            yield f"{name}\0{size}\n".encode()

    def feed(self, batches: Sequence[Index], *, pin: bool = False) -> Iterator[Tensor]:
        """Read batches with `workers` processes, each two batches ahead; a few images are read by this process."""
        reader, wanted = _Reader(self.root, self.names, self.frame), [self.positions(batch) for batch in batches]
        # Started anew for every epoch: forking takes milliseconds, and none is left behind when an epoch is given up.
        workers = self.workers if sum(map(len, wanted)) > _FEW else 0
        loader: DataLoader[Tensor] = DataLoader(
            reader,
            batch_sampler=[batch.tolist() for batch in wanted],
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=_AHEAD if workers else None,
            pin_memory=pin,
            generator=torch.Generator(),  # else a number is drawn from the stream that everybody shares
        )
        try:
            for found in loader:
                if isinstance(found, _Failure):
                    raise DataError(found.message)
                yield found
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"{self.root}: a process that decodes images died ({str(error).splitlines()[0]}); it may lack shared "
                "memory: allow more of it, or write workers=0"
            ) from error


@dataclass(frozen=True, slots=True)
class _Failure:
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class _Reader(Dataset[Tensor]):
    """What the workers hold."""

    root: Path
    names: tuple[str, ...]
    frame: Frame

    def __getitems__(self, index: list[int]) -> Tensor | _Failure:
        """Read one batch; a failure is handed over as one line, an exception would come with the worker's traceback."""
        images = torch.empty(len(index), self.frame.channels, self.frame.rows, self.frame.columns, dtype=torch.uint8)
        try:
            for image, k in zip(images, index, strict=True):
                path = self.root / self.names[k]
                image.copy_(self.frame.fill(str(path), read(path)))
        except DataError as error:
            return _Failure(str(error))
        return images


def _as_it_is(batch: Any) -> Any:
    return batch


def load(folder: Path, *, size: int | None = None, workers: int | None = None) -> Data:
    """Open a folder as `folder.load` does, with the same splits and the same pixels, but leave the images on disc.

    - Size and channels are those of up to 1,024 files' headers per part; a file that is otherwise is refused by name
      when it is read.
    - Mean and deviation are taken of up to 1,024 training images, drawn with seed 0.
    - The fingerprint is taken of the files' names below the folder and their sizes in bytes, not of pixels: the set
      is not read for it, and a file exchanged for another one of the same size is not noticed.

    Args:
        folder: as in `folder.load`.
        size: None when all images have one size; else the middle square of each is scaled to size x size.
        workers: processes that decode; None: one per core, at most 8.

    Raises:
        DataError: no folder, no class, an empty class, images of different sizes; later, a damaged file.
    """
    classes, parts = listing(folder)
    count = default_workers() if workers is None else workers
    looked_at = [str(path) for part in parts for path, _ in part[:: max(1, -(-len(part) // SAMPLE))]]
    frame = usual([(name, header(name)) for name in looked_at], size)
    splits, note = complete([_split(folder, part, frame, count) for part in parts], where=str(folder))
    name = folder.resolve().name
    statistics, number = sampled(splits[0].images)
    note = f"{name}: {note}; read from disc; mean and deviation of {number:,} training images (seed 0)"
    return build(name, splits, classes=classes, note=note, statistics=statistics)


def default_workers() -> int:
    """One per core that this process may use, at most 8."""
    return min(_MOST_WORKERS, usable_cores())


def _split(folder: Path, part: list[tuple[Path, int]], frame: Frame, workers: int) -> Streamed:
    names = tuple(path.relative_to(folder).as_posix() for path, _ in part)
    sizes = torch.tensor([path.stat().st_size for path, _ in part], dtype=torch.int64)
    labels = torch.tensor([label for _, label in part], dtype=torch.int64)
    return Streamed(Files(folder, names, sizes, frame, workers), labels)


def sampled(images: object) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], int]:
    """Mean and deviation of pixel / 255 per channel of a sample of streamed images, and the number of images in it.

    The sample that is all of them gives what `pixel_statistics` gives of all of them.
    """
    assert isinstance(images, Lazy)
    chosen = images.sample()
    counts = np.zeros((images.frame.channels, 256), np.int64)
    for batch in images.feed(torch.split(chosen, 32)):
        counts += histogram(batch)
    return moments(counts), len(chosen)
