"""One line of a family's table."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The plain numbers of one network, as its source states them and as `measure.cost` counts them.

    Args:
        settings: arguments of the family's `build` that make this variant.
        shape: one input image (channels, height, width).
        num_classes: outputs of the classifier.
        params: trainable parameters.
        macs: multiply-adds of convolutions and linear layers, one image.
        activation_floats: numbers in the input and in the output of every convolution, linear layer and pool.
        source: where the network is described.
        status: EXACT (the source's printed number is met to every digit), NEAR (nearest reading) or RECON
            (reconstruction: the source gives no layer table, this one was found to fit its totals).
        operations: by CondenseNet's own convention (`measure.cost`), where the source counts that way.
        recipe: the preset that trains it, where that is more than training.
        note: what a user must know about this variant: where it differs from its source, what cannot be reproduced.

    >>> Variant(settings={}, shape=(1, 2, 2), num_classes=2, params=10, macs=8, source="a page", status="EXACT").macs
    8
    """

    settings: Mapping[str, object]
    shape: tuple[int, int, int]
    num_classes: int
    params: int
    macs: int
    activation_floats: int | None = None
    source: str
    status: str
    operations: int | None = None
    recipe: str = "train"
    note: str = ""
