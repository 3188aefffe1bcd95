"""What the fractions and rates that Han et al. 2016 print per layer make of our networks' layers."""

from __future__ import annotations

from collections.abc import Iterable

from netpress.reproduce.counting import Counted, Layer
from netpress.reproduce.papers import published

NETWORKS = {"LeNet-300-100": "lenet-300-100", "LeNet-5": "lenet5", "AlexNet": "alexnet-caffe", "VGG-16": "vgg16"}
"""Their networks, and ours."""

KEPT = (
    "the pruned network is not published: ours is its layers × the fraction kept of each, printed in whole per "
    "cents only"
)


def kept(name: str, net: Counted) -> list[tuple[Layer, float]]:
    """Return each layer with the weights of it that pruning leaves.

    Args:
        name: "LeNet-300-100", "LeNet-5", "AlexNet" or "VGG-16".
        net: the same network of ours.
    """
    return [
        (layer, layer.weights * fraction) for layer, fraction in zip(net.layers, published(name, "kept"), strict=True)
    ]


def reduction(layers: Iterable[tuple[Layer, float]]) -> float:
    """Return weights before / after."""
    found = list(layers)
    return sum(layer.weights for layer, _ in found) / sum(after for _, after in found)


def coded_share(name: str, net: Counted) -> float:
    """Return the size after Deep Compression over the size before, from the printed rate of each layer."""
    rates = published(name, "rate_percent")
    coded = sum(layer.weights * rate / 100 for layer, rate in zip(net.layers, rates, strict=True))
    return coded / net.weights
