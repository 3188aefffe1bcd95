"""Batches for training and evaluation: cut, shifted, flipped and normalised with whole-tensor operations.

Shape letters: B images in a batch, C channels, H rows, W columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from netpress.candidate import Images
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
    channels = images.shape[1]
    if not channels == len(mean) == len(std):
        raise DataError(
            f"images have {channels} channels, the normalisation {len(mean)} means and {len(std)} deviations"
        )
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(1, channels, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(1, channels, 1, 1)
    return images.to(torch.float32).div_(255).sub_(centre).div_(scale)


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
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of normalised batches.

    The order and every image's shift and flip are drawn at the start from one generator seeded by `seed`: the epoch is
    a function of the split, the seed and `augment` alone, and what happens to an image does not depend on `size`.

    Args:
        split: uint8 images; may already lie on `device`.
        size: images per batch; the last batch may be smaller.
        mean, std: of pixel / 255 per channel.
        device: where the batches go; only uint8 pixels travel.
        seed: of this epoch; None keeps the split's order and changes nothing.
        augment: random changes; needs a seed.
        drop_last: leave an incomplete last batch out.

    Returns:
        Pairs of float32 images (B, C, H, W) and int64 labels (B,).

    Raises:
        ValueError: size below 1, or `augment` without a seed.
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
    count = len(split)
    plan = _plan(count, seed, augment or Augment())
    stop = count - count % size if drop_last else count
    cuts = (_cut(split, plan, start, min(start + size, stop), device) for start in range(0, stop, size))
    return ((normalise(images, mean, std), labels) for images, labels in cuts)


@dataclass(frozen=True, slots=True)
class _Plan:
    order: Tensor | None  # positions in the split; None: as they are
    down: Tensor | None  # row where each image's window starts in the padded image
    right: Tensor | None
    flips: Tensor | None
    shift: int


def _plan(count: int, seed: int | None, augment: Augment) -> _Plan:
    if seed is None:
        return _Plan(None, None, None, None, 0)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    # Drawn also where unused: switching the flip off must not change the shifts.
    offsets = torch.randint(0, 2 * augment.shift + 1, (2, count), generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5
    down, right = (offsets[0], offsets[1]) if augment.shift else (None, None)
    return _Plan(order, down, right, flips if augment.flip else None, augment.shift)


def _cut(split: Images, plan: _Plan, start: int, stop: int, device: str | torch.device) -> tuple[Tensor, Tensor]:
    if plan.order is None:
        images, labels = split.images[start:stop], split.labels[start:stop]
    else:
        index = plan.order[start:stop].to(split.images.device)
        images, labels = split.images[index], split.labels[index]
    images = images.to(device, non_blocking=True)
    if plan.down is not None and plan.right is not None:
        down, right = plan.down[start:stop].to(device), plan.right[start:stop].to(device)
        images = _crop(images, down, right, plan.shift)
    if plan.flips is not None:
        images = torch.where(plan.flips[start:stop].to(device).view(-1, 1, 1, 1), images.flip(3), images)
    return images, labels.to(device, non_blocking=True)


def _crop(images: Tensor, down: Tensor, right: Tensor, shift: int) -> Tensor:
    """Pad by `shift` black pixels on each side and take from each image the window at its own offset."""
    count, channels, rows, columns = images.shape
    padded = torch.nn.functional.pad(images, (shift, shift, shift, shift))
    # All windows as a view (B, C, 2 shift + 1, 2 shift + 1, H, W): indexing copies the chosen ones only.
    windows = padded.unfold(2, rows, 1).unfold(3, columns, 1)
    every = torch.arange(count, device=images.device)
    return windows[every, :, down, right].view(count, channels, rows, columns)
