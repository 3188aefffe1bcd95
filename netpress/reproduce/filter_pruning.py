"""Our numbers for "Using Neural networks for Convolutional Neural network compression" (Kale, Paranjape)."""

from __future__ import annotations

from collections.abc import Sequence

from netpress.reproduce import han
from netpress.reproduce.counting import Answer, Counter
from netpress.reproduce.papers import Claim


def answers(_claims: Sequence[Claim], counter: Counter) -> dict[str, Answer]:
    """Return our number for each key of the paper."""
    vgg16, mobilenet = counter.of("vgg16"), counter.of("mobilenet-v1")
    rates = (
        "ours weighs the rate that Han et al. print for each layer by its weights; their printed total is not that sum"
    )
    unknown = (
        "neither this paper nor the text it quotes says which filters went, so there is no network to count; what "
        "filter pruning does to MobileNet is a measurement, not a count"
    )
    return {
        "filter-pruning/vgg16": Answer(1 / han.coded_share("VGG-16", vgg16), "times", rates),
        "filter-pruning/mobilenet": Answer(
            vgg16.params() / mobilenet.params(), "times", "MobileNet-v1, width 1.0, 1000 classes"
        ),
        "filter-pruning/smaller": Answer(None, "share", unknown),
    }
