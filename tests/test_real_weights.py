"""Published networks on all 10,000 test images: within 0.1 points of the accuracy that is stated with the weights."""

import pytest
import torch

from netpress import data as data_sets
from netpress.arch import open_network
from netpress.candidate import Inputs
from netpress.errors import DataError
from netpress.train.evaluate import evaluate
from netpress.weights import open_weights

STATED = {  # from the sources' pages; LeNet and ResNet-8 as first measured with other programs
    "lenet5": ("mnist", 0.9906),
    "mlperf-tiny-resnet8": ("cifar10", 0.8721),
    "cifar-resnet20": ("cifar10", 0.9173),
    "cifar-resnet32": ("cifar10", 0.9263),
    "cifar-resnet44": ("cifar10", 0.9310),
    "cifar-resnet56": ("cifar10", 0.9339),
}
SLOW = ("cifar-resnet32", "cifar-resnet44", "cifar-resnet56")


@pytest.fixture(scope="module")
def part_of(data_root):
    """The test split of a set, read once."""
    found = {}

    def get(name):
        if name not in found:
            try:
                found[name] = data_sets.open(name, data_root).test
            except DataError as error:
                pytest.skip(str(error))
        return found[name]

    return get


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in STATED])
def test_stated_accuracy(name, part_of, data_root):
    set_name, stated = STATED[name]
    split = part_of(set_name)
    assert len(split) == 10_000
    named = open_network(name)
    known = open_weights(named.net, named.arch, "pretrained", data_root).known
    net = named.net.to(memory_format=torch.channels_last)  # half the time on a CPU
    found = evaluate(net, split, Inputs(tuple(split.images.shape[1:]), known.mean, known.std))
    assert abs(found.top1 - stated) <= 0.001, f"{found.top1:.2%}"
    assert known.top1 == stated
