"""Narrow strided 1 x 1 convolutions: training them must not write past oneDNN's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from contract import one_thread  # noqa: F401
from torch import nn

from netpress.train.layout import channels_last
from netpress.train.strided import Unstrided

TRAINED = """
import torch
from toy_nets import toy_candidate, toy_context
from torch import nn

from netpress.train import Training, fit

torch.set_num_threads(1)
torch.manual_seed(0)
parts = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 4, 1, stride=2), nn.Flatten(), nn.Linear(64, 4)
net = nn.Sequential(*parts)
fitted = fit(toy_candidate("plain").but(net=net), Training(epochs=20, batch=32, lr=0.01), toy_context())
assert fitted.candidate.net[1].stride == (2, 2)
print(fitted.history[-1]["train_top1"])
"""


def test_training_one_does_not_corrupt_the_heap():
    # in a process of its own: without the rewriting it is aborted on processors that have AVX2 and no AVX-512
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRAINED], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) > 0.5


@pytest.mark.parametrize(("channels", "stride", "size"), [(1, 2, 8), (2, 2, 8), (5, (1, 2), 9), (7, 3, 9), (15, 2, 1)])
def test_outputs_and_gradients_are_those_of_the_layer(channels, stride, size):
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 6, 1, stride=stride)
    x = torch.randn(3, channels, size, size)
    slow, fast = deepcopy(layer).double(), deepcopy(layer).to(memory_format=torch.channels_last)
    unstrided = Unstrided(fast)
    inputs, answers = [], []
    for net, images in ((slow, x.double()), (fast, channels_last(x))):
        inputs.append(images.clone().requires_grad_())
        answers.append(net(input=inputs[-1]))
        answers[-1].square().sum().backward()
    unstrided.close()
    assert fast.stride == layer.stride
    assert not fast._forward_pre_hooks
    torch.testing.assert_close(answers[1].double(), answers[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inputs[1].grad.double(), inputs[0].grad, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 4, 1, stride=2),  # a whole block of channels
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 1, stride=2, padding=1),
        nn.Conv2d(4, 4, 1, stride=2, groups=2),
    ],
)
def test_all_others_are_left_alone(layer):
    stride = layer.stride
    Unstrided(layer)
    assert layer.stride == stride
    assert not layer._forward_pre_hooks
