"""Training of steps and scales: they move by their own size, and one that vanishes is an error."""

import pytest
import torch
from contract import one_thread  # noqa: F401
from toy_nets import toy_candidate, toy_context

from netpress.errors import ModelError
from netpress.methods import Quantize
from netpress.rounding import grids
from netpress.train import Training, fit


def quantized(kind, **settings):
    return Quantize(kernels="reduced", samples=32, **settings).apply(toy_candidate(kind), toy_context())


def test_adam_moves_steps_by_their_own_size():
    before = quantized("residual")
    trained = fit(before, Training(epochs=3, lr=0.02, batch=16), toy_context()).candidate
    for name, form in before.forms.items():
        ratio = trained.forms[name].step / form.step
        assert 0.5 < ratio.min() <= ratio.max() < 2, name
    assert any(not torch.equal(trained.forms[name].step, form.step) for name, form in before.forms.items())
    for place, grid in grids(trained.net).items():
        assert 0.5 < grid.scale.item() / grids(before.net)[place].scale.item() < 2, place


def test_a_step_that_training_pushes_to_nothing_is_named():
    with pytest.raises(ModelError, match=r"(a step of|the scale of) .* went to 0 in training; try a lower lr"):
        fit(quantized("plain"), Training(epochs=2, lr=0.5, optimizer="sgd", batch=16, momentum=0), toy_context())
