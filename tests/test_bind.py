"""Binding: forms hold in anybody's loop, and the network is the same plain module before and after."""

from __future__ import annotations

from copy import deepcopy

import contract
import pytest
import torch
from contract import one_thread  # noqa: F401
from torch import nn
from torch.nn.utils import parametrize
from toy_nets import toy_candidate, toy_context

from netpress import store
from netpress.candidate import Candidate, Inputs
from netpress.errors import ModelError
from netpress.forms import Form, Shared, holds
from netpress.methods import WeightPrune, WeightShare
from netpress.train import bind, bound, fit, unbind
from netpress.train.bind import trained_groups
from netpress.train.settings import Training


@pytest.fixture
def small():
    pruned = WeightPrune(sparsity=0.5).apply(toy_candidate("plain"), toy_context())
    return WeightShare(bits={"linear": 2}).apply(pruned, toy_context())


def nudge(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape))


def test_binding_and_unbinding_changes_nothing(small):
    earlier = contract.facts(small)
    with bound(small) as net:
        assert net is small.net
        assert parametrize.is_parametrized(net.fc1)
        assert not parametrize.is_parametrized(net.norm)
    assert contract.facts(small) == earlier
    assert not any(parametrize.is_parametrized(m) for m in small.net.modules())


def test_forms_hold_at_every_moment_inside(small):
    with bound(small) as net:
        for _ in range(3):
            nudge(net)
            for name, form in small.forms.items():
                path, _, leaf = name.rpartition(".")
                assert holds(form, getattr(net.get_submodule(path), leaf))
    assert contract.broken(small) == []


def test_the_weight_afterwards_is_the_trained_table(small):
    with bound(small) as net:
        nudge(net)
        table = net.fc2.parametrizations.weight.original.detach().clone()
    form = small.forms["fc2.weight"]
    assert torch.equal(small.net.fc2.weight.detach()[form.support], table[form.values.index])


def test_the_table_is_what_training_trained(small):
    seen = {}

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            result = super().step(closure)
            seen["tables"] = [p.detach().clone() for g in self.param_groups for p in g["params"] if p.ndim == 1]
            return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netpress.train.engine.SGD", Spy)
        end = fit(small, Training(epochs=1, optimizer="sgd", lr=0.05), toy_context()).candidate
    form = end.forms["fc1.weight"]
    expected = next(t for t in seen["tables"] if len(t) == form.values.size and _fits(end, form, t))
    assert torch.equal(end.net.fc1.weight.detach()[form.support], expected[form.values.index])


def _fits(end: Candidate, form: Form, table: torch.Tensor) -> bool:
    return torch.equal(end.net.fc1.weight.detach()[form.support].unique(), table.unique())


def test_an_exception_inside_leaves_a_plain_network(small):
    def fail(net: nn.Module) -> None:
        nudge(net)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), bound(small) as net:
        fail(net)
    assert contract.broken(small) == []
    assert "fc1.weight" in small.net.state_dict()


def test_copies_of_a_bound_network_are_unbound_one_by_one(small):
    bind(small.net, small.forms)
    copy = deepcopy(small.net)
    unbind(small.net, small.forms)
    nudge(copy)  # the copy is still bound, and its own
    assert contract.broken(small) == []
    assert copy.fc1.weight.shape == small.net.fc1.weight.shape
    assert contract.raw(copy.fc1.weight) != contract.raw(small.net.fc1.weight)
    again = deepcopy(copy)
    unbind(copy, small.forms)
    unbind(again, small.forms)
    for net in (copy, again, small.net):
        assert type(net.fc1) is nn.Linear
        assert list(net.state_dict()) == list(toy_candidate("plain").net.state_dict())
        assert contract.broken(small.but(net=net)) == []
    assert torch.equal(copy.fc1.weight, again.fc1.weight)


def test_two_tensors_of_one_module_keep_their_order():
    net = nn.Linear(3, 2)
    forms = {n: Form(support=torch.ones_like(p, dtype=torch.bool)) for n, p in net.named_parameters()}
    for some in (forms, {"weight": forms["weight"]}, {"bias": forms["bias"]}, dict(reversed(forms.items()))):
        with bound(Candidate(net, some)):
            pass
        assert [n for n, _ in net.named_parameters()] == ["weight", "bias"]


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = net[1].weight
    return net


def test_tied_weights_are_refused_and_nothing_stays_bound():
    net, ones = tied(), torch.ones(4, 4, dtype=torch.bool)
    forms = {"0.weight": Form(ones), "1.weight": Form(ones)}
    with pytest.raises(ModelError, match=r"1\.weight is one tensor with 2\.weight"), bound(Candidate(net, forms)):
        pass
    assert not any(parametrize.is_parametrized(m) for m in net.modules())
    assert net[1].weight is net[2].weight


def test_pruning_keeps_ties_and_training_refuses_them():
    candidate = Candidate(tied(), inputs=Inputs((4,)))
    pruned = WeightPrune(sparsity=0.5).apply(candidate, toy_context())
    assert pruned.net[1].weight is pruned.net[2].weight
    with pytest.raises(ModelError, match="tied weights"):
        bind(pruned.net, pruned.forms)


def test_a_parametrized_tensor_is_refused(small):
    net = small.net
    nn.utils.parametrizations.weight_norm(net.fc2)
    with pytest.raises(ModelError, match=r"fc2\.weight already has a parametrization"):
        bind(net, small.forms)
    assert not parametrize.is_parametrized(net.conv1)


def test_nothing_bound_is_saved(small, tmp_path):
    with bound(small), pytest.raises(ModelError, match="has a parametrization") as caught:
        store.save(small, tmp_path / "a.press")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    store.save(small, tmp_path / "a.press")


def test_decay_acts_on_free_weights_only(small):
    with bound(small) as net:
        decayed, kept = (g["params"] for g in trained_groups(net, 0.1))
        conv = net.conv1.parametrizations.weight.original
        table = net.fc1.parametrizations.weight.original
        assert any(p is conv for p in decayed)
        assert all(p is not table for p in decayed)
        assert any(p is table for p in kept)
        assert all(p.ndim > 1 for p in decayed)
        assert len(decayed) + len(kept) == len(list(net.parameters()))
        assert len(decayed) == 2  # two convolutions; both linear layers are tables


def test_a_two_dimensional_table_would_not_be_decayed():
    net = nn.Linear(2, 2, bias=False)
    form = Form(values=Shared(torch.tensor([0, 1, 0, 1]), 2))
    with bound(Candidate(net, {"weight": form})) as trainable:
        assert trained_groups(trainable, 0.1)[0]["params"] == []


def test_a_bound_network_trains_compiled(small):
    with bound(small) as net:
        torch._dynamo.reset()
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        x = torch.randn(4, 1, 8, 8)
        net.eval()
        torch.testing.assert_close(compiled(x), net(x))
        compiled(x).sum().backward()
        assert net.fc1.parametrizations.weight.original.grad is not None
