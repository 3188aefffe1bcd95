"""Training of steps and scales: they move by their own size, and one that vanishes is an error."""

import pytest
import torch
from contract import one_thread  # noqa: F401
from toy_nets import toy_candidate, toy_context

from netpress.codec.sides import MIN_STEP
from netpress.errors import ModelError
from netpress.methods import Quantize
from netpress.rounding import grids
from netpress.train import Training, fit
from netpress.train.bind import unbind
from netpress.train.engine import LEASH


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


def test_one_update_cannot_throw_a_grid_away():
    before = quantized("plain")
    settings = Training(epochs=1, lr=0.5, optimizer="sgd", batch=96, momentum=0, schedule="constant")
    trained = fit(before, settings, toy_context()).candidate  # 96 images: one update
    ratios = [(trained.forms[name].step / form.step).flatten() for name, form in before.forms.items()]
    ratios += [(grid.scale / grids(before.net)[at].scale).flatten() for at, grid in grids(trained.net).items()]
    ratios = torch.cat(ratios).detach()
    assert ratios.min() > 1 - LEASH - 1e-6
    assert ratios.max() < 1 + LEASH + 1e-6
    assert (ratios == 1).float().mean() < 1, "nothing moved"


def test_a_grid_that_training_pushes_to_nothing_is_named(monkeypatch):
    def push(net, forms):
        next(iter(grids(net).values())).scale.data.fill_(MIN_STEP)
        return unbind(net, forms)

    monkeypatch.setattr("netpress.train.loop.unbind", push)
    with pytest.raises(ModelError, match=r"step 1: the scale of input went to 0 in training; try a lower lr"):
        fit(quantized("plain"), Training(epochs=1, lr=0.01, batch=16), toy_context())
