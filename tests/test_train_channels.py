"""Statistics of channels: batch norms measured again, strength of activations, first-order gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from netpress.candidate import Inputs
from netpress.data import Split
from netpress.train.channels import mean_activation, recalibrate
from netpress.train.gradients import first_order

INPUTS = Inputs((1, 6, 6), (0.4,), (0.3,))


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(count) % 3)


def normalised(split):
    return (split.images.float() / 255 - 0.4) / 0.3


def net():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    )


def test_statistics_are_those_of_the_images():
    model, split = net(), images(64)
    model[1].running_mean.fill_(7.0)
    model.train()
    weights = [p.clone() for p in model.parameters()]
    assert recalibrate(model, split, INPUTS) == 1
    out = model[0](normalised(split))
    torch.testing.assert_close(model[1].running_mean, out.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model[1].running_var, out.transpose(0, 1).flatten(1).var(1), atol=1e-5, rtol=1e-4)
    assert model.training
    assert model[1].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_no_batch_norm_no_pass():
    assert recalibrate(nn.Linear(3, 3), images(4), INPUTS) == 0


@pytest.mark.parametrize("samples", [16, 64, 1000])
def test_activation_is_the_mean_of_absolute_outputs(samples):
    model, split = net(), images(64)
    found = mean_activation(model, ["0", "5"], split, INPUTS, samples=samples, seed=2)
    assert model.training
    if samples >= 64:  # all images, in whatever order
        out = model[0](normalised(split)).abs().mean((0, 2, 3))
        torch.testing.assert_close(found["0"].float(), out, atol=1e-5, rtol=1e-5)
    assert found["5"].shape == (3,)
    assert not model[0]._forward_hooks


def test_first_order_is_weight_times_gradient():
    model, split = net().eval(), images(24)
    (found,) = first_order(model, ["0.weight", "5.bias"], split, INPUTS, samples=24)
    loss = F.cross_entropy(model(normalised(split)), split.labels)
    slopes = torch.autograd.grad(loss, [model[0].weight, model[5].bias])
    torch.testing.assert_close(found["0.weight"], (model[0].weight * slopes[0]).detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found["5.bias"], (model[5].bias * slopes[1]).detach(), atol=1e-6, rtol=1e-4)
    assert len(list(first_order(model, ["0.weight"], images(100), INPUTS, samples=64))) == 2
