"""Fit what stands in a layer's place to that layer's outputs on calibration images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from netpress.candidate import Candidate, Context, Images, Inputs
from netpress.errors import RecipeError
from netpress.train.moments import moments, regress
from netpress.train.schedule import draw

_LAST = {
    "svd": "expand",
    "spatial_svd": "horizontal",
    "cp": "expand",
    "tucker2": "expand",
    "stacked": "second",
    "grouped": "",
    "shuffled": "grouped",
    "separable": "pointwise",
}


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Images that layers are fitted on: a seeded sample of a split."""

    split: Images
    inputs: Inputs
    samples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Refitted:
    """How well a layer's outputs are met, and whether the inputs left directions open (a ridge then decides).

    Attributes:
        error: sqrt(E||y - y'||^2 / E||y||^2) on the calibration images.
        singular: whether the second moment of the inputs was.
    """

    error: float
    singular: bool


def calibration(candidate: Candidate, context: Context, *, samples: int, what: str) -> Calibration:
    """The training images as calibration images.

    Args:
        candidate, context: as a method gets them.
        samples: how many images.
        what: the setting that needs them, for the message.

    Raises:
        RecipeError: there are no training images.
    """
    if context.train is None:
        raise RecipeError(f"{what} needs images: give train = ...")
    return Calibration(context.train, candidate.inputs, samples, draw(context.seed, context.step))


def refit(student: nn.Module, path: str, operation: str, original: nn.Module, images: Calibration) -> Refitted:
    """Fit the last weights of what stands at a path, in place, so that its outputs are nearest to the original's.

    The inputs are those that the student sees: of a network in which other layers have been replaced before, the fit
    also takes back what they spoil (asymmetric reconstruction, Zhang et al. 2016).

    Args:
        student: has a structure of `factor.structure` at the path.
        path: of the layer in both networks.
        operation: of the structure.
        original: has the layer; left untouched.
        images: to fit on.

    Returns:
        The outputs' error, and whether the inputs' moment was singular.
    """
    made: Any = student.get_submodule(path)
    lost, whole, singular = 0.0, 0.0, False
    for child, channels in _fitted(made, operation):
        layer: Any = made.get_submodule(child) if child else made
        at = f"{path}.{child}" if child else path
        found = moments(
            student,
            at,
            original,
            path,
            images.split,
            images.inputs,
            samples=images.samples,
            seed=images.seed,
            channels=channels,
        )
        weight, bias = regress(layer.weight, layer.bias, found)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
        size = float(found.output_square.sum())
        lost += found.error(layer.weight, layer.bias) ** 2 * size
        whole += size
        singular = singular or (found if bias is None else found.centred()).singular()
    return Refitted((lost / whole) ** 0.5 if whole else 0.0, singular)


def _fitted(made: Any, operation: str) -> list[tuple[str, Sequence[int] | None]]:
    """The children whose outputs are the layer's, and which of the layer's outputs each gives."""
    if operation == "fire":
        first, second = len(made.ones.weight), len(made.wide.weight)
        return [("ones", range(first)), ("wide", range(first, first + second))]
    channels = made.after.index.argsort().tolist() if operation == "shuffled" else None
    return [(_LAST[operation], channels)]
