"""The composed kernel against running the chain: one convolution with it gives the same outputs."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from netpress.factor import CHILDREN, Rebuilt, rebuilt, structure
from netpress.factor.compose import composed, relative_error

NUMBERS = {"tucker2": (3, 4), "fire": (2, 3, 0), "grouped": (2,), "shuffled": (2,), "separable": (2,), "beside": ()}


@pytest.mark.parametrize("operation", sorted(CHILDREN))
def test_the_composed_kernel_computes_what_the_chain_computes(operation):
    torch.manual_seed(0)
    kernel = 5 if operation == "stacked" else 3
    layer = nn.Conv2d(6, 8, kernel, padding=kernel // 2, bias=False).double()
    numbers = NUMBERS.get(operation, (5,))
    made = structure(layer, operation, *numbers)
    weights = {}
    for name in CHILDREN[operation] or ("",):
        child = made.get_submodule(name)
        if hasattr(child, "index"):
            weights[name] = torch.randperm(len(child.index))
        else:
            weights[name] = torch.randn_like(child.weight)
    found = Rebuilt(operation, numbers, weights)
    x = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    one = composed(found, layer.weight.shape)
    torch.testing.assert_close(F.conv2d(x, one, padding=kernel // 2), rebuilt(layer, found)(x))
    assert relative_error(one, found) < 1e-14
    assert relative_error(2 * one, found) == pytest.approx(0.5)


def test_linear_layers():
    found = Rebuilt("svd", (2,), {"reduce": torch.randn(2, 5).double(), "expand": torch.randn(3, 2).double()})
    made = rebuilt(nn.Linear(5, 3, bias=False).double(), found)
    torch.testing.assert_close(made(torch.eye(5).double()).T, composed(found, torch.Size((3, 5))))


def test_a_relu_between_has_no_single_kernel():
    assert relative_error(torch.ones(4, 2, 3, 3), Rebuilt("fire", (1, 2, 1), {})) is None
