"""Channels in another order: the same function, forms kept, fewer bytes; what must keep its place keeps it."""

from __future__ import annotations

import pytest
import torch
from contract import one_thread  # noqa: F401
from torch import nn
from toy_nets import toy_candidate, toy_context

from netpress.candidate import Candidate, Context
from netpress.forms import Affine, Form, holds
from netpress.methods import Condense, SortChannels
from netpress.methods.file_bytes import coded

NETS = ("plain", "residual", "concat", "depthwise", "shuffle", "squeeze_excite")


def sparse(kind):
    """A toy network whose channels have very different shares of zeros, on grids."""
    toy = toy_candidate(kind)
    forms, generator = {}, torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in toy.net.named_parameters():
            if p.ndim < 2:
                continue
            wide = torch.linspace(0.2, 3, len(p))[torch.randperm(len(p), generator=generator)]
            q = torch.randn(p.shape, generator=generator) * wide.reshape(-1, *[1] * (p.ndim - 1))
            step = torch.full((1,) * p.ndim, 0.125)
            p.copy_(q.round().clamp(-8, 7) * step + 0.0)
            forms[name] = Form(p != 0, Affine.symmetric(step, 4))
    return toy.but(forms=forms)


@pytest.mark.parametrize("kind", NETS)
def test_the_same_function_with_its_forms(kind):
    before = sparse(kind)
    made = SortChannels().apply(before, toy_context())
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(made.net.eval()(x), before.net.eval()(x), atol=1e-5, rtol=1e-5)
    assert coded(made) <= coded(before)
    for name, form in made.forms.items():
        assert holds(form, made.net.get_parameter(name))
        assert torch.equal(form.support, made.net.get_parameter(name) != 0)
    again = SortChannels().apply(made, toy_context())
    assert coded(again) == coded(made)


def test_channels_with_most_weights_come_first_and_outputs_stay():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 10))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.copy_(torch.where(torch.rand_like(layer.weight) < 0.3, layer.weight, 0.0))
        net[0].weight[::2] = 0
        net[2].weight[:, ::2] = 0
    before = Candidate(net, {f"{i}.weight": Form(net[i].weight != 0) for i in (0, 2)})
    made = SortChannels().apply(before, Context(example=torch.zeros(1, 40)))
    used = (made.net[0].weight != 0).sum(1) + (made.net[2].weight != 0).sum(0)
    assert used.tolist() == sorted(used.tolist(), reverse=True)
    assert torch.equal(made.net[2].bias, net[2].bias)
    assert coded(made) < coded(before)
    x = torch.randn(5, 40)
    torch.testing.assert_close(made.net(x), net(x), atol=1e-5, rtol=1e-5)


def test_nothing_is_touched_where_the_file_gains_nothing():
    before = toy_candidate("plain")
    made = SortChannels().apply(before, toy_context())
    assert all(torch.equal(a, b) for a, b in zip(made.net.parameters(), before.net.parameters(), strict=True))
    assert made.history[-1].notes[0].startswith("sorted 0 of")


def test_channels_that_an_index_picks_keep_their_places():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 36, 4))
    small = Condense(groups=2, factor=4).apply(Candidate(net.eval()), toy_context())
    made = SortChannels().apply(small, toy_context())
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(made.net(x), small.net(x), atol=1e-5, rtol=1e-5)
