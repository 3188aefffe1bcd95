"""Images in tar files, as WebDataset writes them: for sets that many machines stream. Read from beginning to end.

Shape letters: B images in a batch, C channels, H rows, W columns.
"""

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from netpress.data.decode import header
from netpress.data.lazy import SAMPLE, Frame, Index, Lazy, Part, usual
from netpress.data.split import hold_out
from netpress.data.stream import default_workers, sampled
from netpress.data.tars import Sample, contents, scan, webdataset
from netpress.data.types import Data, Split, Streamed, build
from netpress.errors import DataError

_BUFFER = 2048  # files held at once, still packed, among which the order is shuffled
_AHEAD = 3  # batches that are read and decoded ahead
_UNKNOWN = Frame(0, 0, 0)
_VALIDATION_NAMES = ("val", "valid", "validation")


@dataclass(frozen=True, slots=True, eq=False)
class Tars(Lazy):
    """Images in tar files.

    Args:
        paths: the tar files.
        samples: one per image; those of one file stand together and in its order.
        frame: what each becomes.
        workers: threads that decode (Pillow lets go of the interpreter's lock meanwhile).
    """

    paths: tuple[Path, ...]
    samples: tuple[Sample, ...]
    frame: Frame
    workers: int

    def __len__(self) -> int:
        return len(self.samples)

    def subset(self, positions: Tensor) -> "Tars":
        """The images at the given positions, still not read."""
        return replace(self, samples=tuple(self.samples[k] for k in positions.tolist()))

    def identity(self) -> Iterator[bytes]:
        """Each image's tar file, name in it, and size in bytes."""
        for each in self.samples:
            yield f"{self.paths[each.shard].name}\0{each.key}\0{each.size}\n".encode()

    def sample(self) -> Tensor:
        """The first `SAMPLE` positions: others would cost reading all tar files."""
        return torch.arange(min(SAMPLE, len(self)))

    def order(self, generator: torch.Generator, bounds: Sequence[slice], part: Part) -> Tensor:
        """The order of an epoch: tar files shuffled, and dealt out to processes; then 2,048 images shuffled at a time.

        Every process reads its own tar files only. All have the same number of batches: one whose files hold fewer
        images than its batches begins them again, one whose files hold more leaves some out, others each epoch.

        Raises:
            DataError: there are fewer tar files than processes.
        """
        of_shard: dict[int, list[int]] = {}
        for position, each in enumerate(self.samples):
            of_shard.setdefault(each.shard, []).append(position)
        rank, world = part
        if len(of_shard) < world:
            where = self.paths[0].parent
            raise DataError(f"{where}: {len(of_shard)} tar files for {world} processes; write at least one for each")
        shuffled = torch.randperm(len(of_shard), generator=generator).tolist()
        shards = list(of_shard.values())
        mine = chain.from_iterable(shards[k] for k in shuffled[rank::world])
        draw = random.Random(int(torch.randint(2**62, (), generator=generator)))  # noqa: S311  nothing secret
        stream = torch.tensor(list(webdataset().shuffle(_BUFFER, initial=_BUFFER, rng=draw)(mine)), dtype=torch.int64)
        order, taken = torch.zeros(len(self), dtype=torch.int64), 0
        for places in bounds:
            count = places.stop - places.start
            order[places] = stream[(taken + torch.arange(count)) % len(stream)]
            taken += count
        return order

    def feed(self, batches: Sequence[Index], *, pin: bool = False) -> Iterator[Tensor]:
        """Read batches: one thread reads the tar files, others decode, three batches ahead."""
        wanted = [self.positions(batch).tolist() for batch in batches]
        reader, decoders = ThreadPoolExecutor(1), ThreadPoolExecutor(max(1, self.workers))
        packed = self.packed(wanted)
        ahead: deque[Future[list[Future[Tensor]]]] = deque()

        def read_one() -> list[Future[Tensor]]:
            return [decoders.submit(self.frame.fill, where, content) for where, content in next(packed)]

        try:
            for number in range(len(wanted) + _AHEAD):
                if number < len(wanted):
                    ahead.append(reader.submit(read_one))
                if number >= _AHEAD:
                    yield self._stack(ahead.popleft().result(), pin=pin)
        finally:
            reader.shutdown(cancel_futures=True)
            decoders.shutdown(cancel_futures=True)

    def _stack(self, images: list[Future[Tensor]], *, pin: bool) -> Tensor:
        stacked = torch.empty(len(images), *self.shape[1:], dtype=torch.uint8, pin_memory=pin)
        for target, image in zip(stacked, images, strict=True):
            target.copy_(image.result())
        return stacked

    def packed(self, wanted: list[list[int]]) -> Iterator[list[tuple[str, bytes]]]:
        """Yield names and bytes of the images of every batch; a tar file is read when the first of it is due."""
        uses = Counter(chain.from_iterable(wanted))
        position = {(self.samples[k].shard, self.samples[k].key): k for k in uses}
        shards = dict.fromkeys(self.samples[k].shard for k in chain.from_iterable(wanted))  # by first use
        stream = ((shard, key, data) for shard in shards for key, data in contents(self.paths[shard]))
        held: dict[int, bytes] = {}
        for batch in wanted:
            found = []
            for k in batch:
                while k not in held:
                    shard, key, data = next(stream, (-1, "", b""))
                    if shard < 0:
                        raise DataError(f"{self._where(k)}: gone since the set was opened")
                    if (shard, key) in position:
                        held[position[shard, key]] = data
                found.append((self._where(k), held[k]))
                uses[k] -= 1
                if not uses[k]:
                    del held[k]
            yield found

    def _where(self, position: int) -> str:
        return f"{self.paths[self.samples[position].shard]}/{self.samples[position].key}"


def load(folder: Path, *, size: int | None = None, workers: int | None = None) -> Data:
    """Open a folder of WebDataset's tar files: `train-*.tar`, and `val-*.tar` or `test-*.tar` or both.

    Each image `NAME.jpg` (or png, jpeg, webp, bmp) has a `NAME.cls` beside it, a class number as text. Nothing else in
    the tar files is read: no pickle, no tensor. `classes.txt` in the folder names the classes, one a line.

    - Training images are streamed; validation and test are read into memory. Where only one of the two is there, half
      of it validates and half tests, stratified with seed 0.
    - Opening reads the tar files' headers and class numbers. The fingerprint is taken of names, sizes in bytes and
      classes, not of pixels.
    - Size, channels, mean and deviation are those of the first 1,024 training images: write them in a random order.

    Args:
        folder: the folder.
        size: None when all images have one size; else the middle square of each is scaled to size x size.
        workers: threads that decode; None: one per core, at most 8.

    Raises:
        DataError: the webdataset library is missing, no tar files, damaged ones, images without a class; later, a
            damaged image.
    """
    webdataset()
    kinds = {"train": ("train",), "validation": _VALIDATION_NAMES, "test": ("test",)}
    found = {kind: sorted(chain(*(folder.glob(f"{name}-*.tar") for name in names))) for kind, names in kinds.items()}
    if not found["train"] or not (found["validation"] or found["test"]):
        raise DataError(f"{folder}: expected tar files train-*.tar, and val-*.tar or test-*.tar or both")
    count = default_workers() if workers is None else workers
    seen, labels = _index(found["train"], count)
    frame = _frame(seen, size)
    train = Streamed(replace(seen, frame=frame), labels)
    held = {kind: _resident(found[kind], frame, count) for kind in ("validation", "test") if found[kind]}
    how = "as given"
    if len(held) == 1:
        ((kind, only),) = held.items()
        test, validation = hold_out(only, len(only) // 2, seed=0)
        held, how = {"validation": validation, "test": test}, f"{kind} cut into halves (stratified, seed 0)"
    splits = (train, held["validation"], held["test"])
    statistics, number = sampled(train.images)
    name, lengths = folder.resolve().name, "/".join(f"{len(split):,}" for split in splits)
    note = f"{name}: {lengths}; {how}; {len(found['train'])} tar files; mean and deviation of the first {number:,}"
    return build(name, splits, classes=_classes(folder, splits), note=note, statistics=statistics)


def _index(paths: list[Path], workers: int) -> tuple[Tars, Tensor]:
    samples = tuple(chain.from_iterable(scan(path, shard) for shard, path in enumerate(paths)))
    if not samples:
        raise DataError(f"{paths[0]}: no images; expected NAME.jpg or NAME.png, each with its class in NAME.cls")
    labels = torch.tensor([each.label for each in samples], dtype=torch.int64)
    return Tars(tuple(paths), samples, _UNKNOWN, workers), labels


def _frame(images: Tars, size: int | None) -> Frame:
    found = images.packed([[k] for k in images.sample().tolist()])
    return usual([(where, header(where, content)) for [(where, content)] in found], size)


def _resident(paths: list[Path], frame: Frame, workers: int) -> Split:
    seen, labels = _index(paths, workers)
    parts = torch.split(torch.arange(len(labels)), 64)
    return Split(torch.cat(list(replace(seen, frame=frame).feed(parts))), labels)


def _classes(folder: Path, splits: tuple[Split, ...]) -> tuple[str, ...]:
    file = folder / "classes.txt"
    if file.is_file():
        return tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    highest = max(int(split.labels.max()) for split in splits)
    if highest >= len(splits[0]):
        raise DataError(f"{folder}: class numbers up to {highest} for {len(splits[0]):,} images; expected 0..K-1")
    return tuple(str(number) for number in range(highest + 1))
