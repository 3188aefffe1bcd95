"""The group lasso: over coupled classes, differentiable, and training with it empties channels."""

from __future__ import annotations

import pytest
import torch
from toy_nets import toy_candidate, toy_context

from netpress import graph
from netpress.train import Training, bind, fit, unbind
from netpress.train.sparsity import GroupLasso


@pytest.mark.parametrize("kind", ["plain", "residual", "concat", "depthwise", "shuffle", "squeeze_excite"])
def test_equals_the_norms_of_all_slices_of_each_class(kind):
    net = toy_candidate(kind).net
    coupling, example = graph.couple(net, torch.zeros(1, 1, 8, 8)), torch.zeros(1, 1, 8, 8)
    tensors, expected = dict(net.named_parameters()), 0.0
    for group in coupling.free:
        for member in range(len(group)):
            squares = 0.0
            for slot in group.slots:
                if slot.role in ("filter", "input"):
                    for position in slot.positions[member]:
                        squares += tensors[slot.tensor].select(slot.axis, int(position)).double().square().sum().item()
            expected += squares**0.5
    assert GroupLasso(net, example)(net).item() == pytest.approx(expected, rel=1e-5)


def test_training_with_it_makes_channels_smaller():
    candidate = toy_candidate("residual")
    settings = {"epochs": 6, "lr": 0.02, "batch": 32}
    free = fit(candidate, Training(**settings), toy_context()).candidate
    small = fit(candidate, Training(**settings, group_lasso=0.05), toy_context()).candidate
    penalty = GroupLasso(candidate.net, torch.zeros(1, 1, 8, 8))
    assert penalty(small.net) < 0.7 * penalty(free.net)


def test_a_bound_network_has_the_penalty_of_what_it_computes_with():
    candidate = toy_candidate("plain")
    penalty = GroupLasso(candidate.net, torch.zeros(1, 1, 8, 8))
    before = penalty(candidate.net).item()
    bind(candidate.net, candidate.forms)
    assert penalty(candidate.net).item() == pytest.approx(before)
    unbind(candidate.net, candidate.forms)
