"""ONNX files of saved networks, checked against the network on real images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netpress import atomic
from netpress.candidate import Candidate, Images
from netpress.data.types import Split
from netpress.errors import FileError
from netpress.processor import processor
from netpress.runtime import Session, graph_bytes
from netpress.train.evaluate import logits

INTEGERS_DIFFER = 0.005
"""Share of images on which integer kernels may name another class than our own arithmetic."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How well two ways of running a network agree on the same images.

    Attributes:
        images: how many were compared.
        same_top1: share of images on which both name the same class.
        largest: largest absolute difference of a logit.
        scale: largest absolute logit.
        integers: whether activations are integers, which a rounding error can move by a level.
    """

    images: int
    same_top1: float
    largest: float
    scale: float
    integers: bool = False


def export_onnx(press: Path, path: Path) -> int:
    """Write the ONNX model that a `.press` file holds, weights included.

    Returns:
        Bytes written.

    Raises:
        FileError: the file is damaged or holds no graph.
    """
    return atomic.write(path, graph_bytes(press))


def agree(mine: Tensor, other: Tensor) -> Parity:
    """Compare two sets of logits (N, C)."""
    return Parity(
        images=len(mine),
        same_top1=(mine.argmax(1) == other.argmax(1)).double().mean().item(),
        largest=(mine - other).abs().max().item(),
        scale=mine.abs().max().item(),
    )


def check(press: Path, candidate: Candidate, split: Images, *, images: int = 10_000) -> Parity:
    """Run a `.press` file without PyTorch and compare its logits with the network's, on real images.

    Args:
        press: the file.
        candidate: the network that was saved.
        split: images as pixels.
        images: at most so many.

    Raises:
        FileError: they disagree by more than rounding: more than 1e-3 of the largest logit; where activations are
            integers, which a rounding error can move by a level: another class on more than 0.5 % of the images.
    """
    part = Split(split.images[:images], split.labels[:images])
    session = Session(press)
    pixels = part.images.numpy()
    rows = [session.run(pixels[i : i + 500]) for i in range(0, len(pixels), 500)]
    found = agree(logits(candidate.net, part, candidate.inputs), torch.from_numpy(np.concatenate(rows)))
    if "rounded" in candidate.traits:
        found = replace(found, integers=True)
        other = round(found.images * (1 - found.same_top1))
        if other > math.ceil(INTEGERS_DIFFER * found.images):
            raise FileError(
                f"{press}: the runtime's integers name another class than the network's on {other} of {found.images:,} "
                f"images: {processor()} may add products of full 8-bit weights in 16 bits; quantize with "
                'kernels = "reduced"'
            )
    elif not found.largest <= 1e-3 * max(found.scale, 1.0):
        raise FileError(
            f"{press}: the runtime differs from the network by {found.largest:.3g} (logits to {found.scale:.3g})"
        )
    return found
