"""Batches for training and evaluation: cut, shifted, flipped and normalised with whole-tensor operations.

Shape letters: B images in a batch, C channels, H rows, W columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from netpress.candidate import Images
from netpress.data.lazy import Index, Lazy
from netpress.errors import DataError


@dataclass(frozen=True, slots=True)
class Augment:
    """Random changes of training images.

    Args:
        shift: each image moves by -shift..shift pixels down and right, both uniform; what comes in is black (0).
        flip: each image is mirrored left to right with probability 1/2.
    """

    shift: int = 0
    flip: bool = False


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn pixels into network input: (pixel / 255 - mean) / std, per channel.

    Args:
        images: uint8, (B, C, H, W).
        mean, std: of pixel / 255, C numbers each.

    Returns:
        float32, same shape and device.

    Raises:
        DataError: the number of channels differs.

    >>> normalise(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2), (0.5,), (0.25,)).flatten()
    tensor([-2.,  2.])
    """
    centre, scale = _constants(images.shape[1], mean, std, images.device)
    return _normalise(images, centre, scale)


def share(count: int, part: tuple[int, int]) -> tuple[int, int]:
    """Which images of a batch of `count` one process gets: from floor(count r / w) up to floor(count (r + 1) / w).

    Sizes differ by at most one. A batch with fewer images than processes goes whole to every process: an empty part has
    no gradient. Processes that average gradients of means must weigh unequal parts by their sizes.

    Args:
        count: images in the whole batch.
        part: (rank r, world w).

    Returns:
        First position, and the one behind the last.

    >>> [share(10, (rank, 4)) for rank in range(4)], share(3, (1, 4))
    ([(0, 2), (2, 5), (5, 7), (7, 10)], (0, 3))
    """
    rank, world = part
    return (count * rank // world, count * (rank + 1) // world) if count >= world else (0, count)


def batches(  # noqa: PLR0913  one flat call is what training and evaluation loops read best
    split: Images,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device = "cpu",
    seed: int | None = None,
    augment: Augment | None = None,
    drop_last: bool = False,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of normalised batches.

    The order and every image's shift and flip are drawn at the start from one generator seeded by `seed`: the epoch is
    a function of the split, the seed and `augment` alone, and what happens to an image does not depend on `size`,
    `start` or `part`.

    Args:
        split: uint8 images; may already lie on `device`, or still on disc (`Streamed`): then they are read ahead.
        size: images per batch; the last batch may be smaller.
        mean, std: of pixel / 255 per channel.
        device: where the batches go; only uint8 pixels travel.
        seed: of this epoch; None keeps the split's order and changes nothing.
        augment: random changes; needs a seed.
        drop_last: leave an incomplete last batch out.
        start: number of the batch to begin with, from 0; the ones before are not even cut. An interrupted epoch that
            is begun here goes on bit for bit.
        part: (rank, world): of every batch of `size` images this process gets its `share`, in order; a last batch with
            fewer images than processes goes whole to every process.

    Returns:
        Pairs of float32 images (B, C, H, W) and int64 labels (B,).

    Raises:
        ValueError: size below 1, `augment` without a seed, start below 0, or a rank outside 0..world-1.
        DataError: the number of channels differs.

    >>> from netpress.data.types import Split
    >>> split = Split(torch.zeros(5, 1, 4, 4, dtype=torch.uint8), torch.arange(5))
    >>> [tuple(x.shape) for x, y in batches(split, size=2, mean=(0.0,), std=(1.0,))]
    [(2, 1, 4, 4), (2, 1, 4, 4), (1, 1, 4, 4)]
    """
    if size < 1:
        raise ValueError(f"size is {size}, expected at least 1")
    if seed is None and augment is not None:
        raise ValueError(f"{augment} needs a seed; without one the epoch is in order and unchanged")
    if start < 0 or not 0 <= part[0] < part[1]:
        raise ValueError(f"start is {start}, part {part}; expected a batch from 0 and (rank, world) with rank < world")
    count, device = len(split), torch.device(device)
    bounds = list(_bounds(count - count % size if drop_last else count, size, part))
    plan = _plan(split, seed, augment or Augment(), bounds, part).to(split.images.device, device)
    constants = _constants(split.images.shape[1], mean, std, device)
    cuts = _cuts(split, plan, bounds[start:], device)
    return ((_normalise(images, *constants), labels) for images, labels in cuts)


def _bounds(stop: int, size: int, part: tuple[int, int]) -> Iterator[slice]:
    for first in range(0, stop, size):
        low, high = share(min(size, stop - first), part)
        yield slice(first + low, first + high)


def _constants(
    channels: int, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[Tensor, Tensor]:
    if not channels == len(mean) == len(std):
        raise DataError(
            f"images have {channels} channels, the normalisation {len(mean)} means and {len(std)} deviations"
        )
    both = torch.tensor([tuple(mean), tuple(std)], dtype=torch.float32, device=device).view(2, 1, channels, 1, 1)
    return both[0], both[1]


def _normalise(images: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255).sub_(centre).div_(scale)


@dataclass(frozen=True, slots=True)
class _Plan:
    order: Tensor | None  # positions in the split; None: as they are
    down: Tensor | None  # row where each image's window starts in the padded image
    right: Tensor | None
    flips: Tensor | None
    shift: int

    def to(self, images: torch.device, batches: torch.device) -> "_Plan":
        """Lay the order beside the images and the changes where the batches go: once, not in every batch."""
        order = None if self.order is None else self.order.to(images)
        down, right, flips = (
            None if each is None else each.to(batches) for each in (self.down, self.right, self.flips)
        )
        return _Plan(order, down, right, flips, self.shift)


def _plan(split: Images, seed: int | None, augment: Augment, bounds: list[slice], part: tuple[int, int]) -> _Plan:
    if seed is None:
        return _Plan(None, None, None, None, 0)
    count, images = len(split), _lazy(split)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator) if images is None else images.order(generator, bounds, part)
    # Drawn also where unused: switching the flip off must not change the shifts.
    offsets = torch.randint(0, 2 * augment.shift + 1, (2, count), generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5
    down, right = (offsets[0], offsets[1]) if augment.shift else (None, None)
    return _Plan(order, down, right, flips if augment.flip else None, augment.shift)


def _lazy(split: Images) -> Lazy | None:
    images: object = split.images
    return images if isinstance(images, Lazy) else None


def _cuts(split: Images, plan: _Plan, bounds: list[slice], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    where: list[Index] = [each if plan.order is None else plan.order[each] for each in bounds]
    images = _lazy(split)
    # One that is not in memory is told all that is wanted, and reads ahead.
    pixels = (split.images[i] for i in where) if images is None else images.feed(where, pin=device.type == "cuda")
    for bound, index, cut in zip(bounds, where, pixels, strict=True):
        yield _change(_send(cut, device), plan, bound), _send(split.labels[index], device)


def _change(images: Tensor, plan: _Plan, bounds: slice) -> Tensor:
    if plan.down is not None and plan.right is not None:
        images = _crop(images, plan.down[bounds], plan.right[bounds], plan.shift)
    if plan.flips is not None:
        images = torch.where(plan.flips[bounds].view(-1, 1, 1, 1), images.flip(3), images)
    return images


def _send(part: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and not part.is_cuda and not part.is_pinned():
        part = part.pin_memory()  # from memory that may be paged out, a copy would wait for the device
    return part.to(device, non_blocking=True)


def _crop(images: Tensor, down: Tensor, right: Tensor, shift: int) -> Tensor:
    """Pad by `shift` black pixels on each side and take from each image the window at its own offset."""
    count, channels, rows, columns = images.shape
    padded = torch.nn.functional.pad(images, (shift, shift, shift, shift))
    # All windows as a view (B, C, 2 shift + 1, 2 shift + 1, H, W): indexing copies the chosen ones only.
    windows = padded.unfold(2, rows, 1).unfold(3, columns, 1)
    every = torch.arange(count, device=images.device)
    return windows[every, :, down, right].view(count, channels, rows, columns)
