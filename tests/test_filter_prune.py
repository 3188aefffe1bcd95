"""Filter pruning: what it refuses, what stays as it was, batch norms, forms, and that zeroing is not removing."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import broken, facts, one_thread, raw, state  # noqa: F401
from filter_nets import X, ladder
from jobs import no_graph, recipe, run
from pydantic import ValidationError
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from toy_nets import KINDS, toy_candidate, toy_context

import netpress as nxp
from netpress import graph, store
from netpress.candidate import Context
from netpress.errors import ModelError, RecipeError
from netpress.methods import WeightPrune, WeightShare
from netpress.methods.filter_prune import FilterPrune

# --- refusals ---


@pytest.mark.parametrize(("setting", "said"), [
    ({}, "give one of keep, remove"),
    ({"keep": 0.5, "remove": 1}, "got keep, remove"),
    ({"max_macs": "50%", "max_params": "50%"}, "got max_macs, max_params"),
    ({"keep": {"default": 0.5}, "scope": "global"}, "'global' needs one keep"),
    ({"remove": 3, "scope": "global"}, "'global' needs one keep"),
    ({"max_macs": "50%", "order": "largest_first"}, "needs keep, remove or threshold"),
    ({"threshold": 1.0, "rounds": 2}, "need keep or a budget"),
    ({"keep": 0.5, "turn": 1}, "turn 1 of 1 rounds"),
])  # fmt: skip
def test_settings_that_do_not_go_together(setting, said):
    for make in (FilterPrune, lambda **s: nxp.Recipe.model_validate({"step": [{"method": "filter_prune", **s}]})):
        with pytest.raises((RecipeError, ValidationError), match=said):
            make(**setting)
    with pytest.raises(RecipeError) as caught:
        recipe(step=[{"method": "filter_prune", **setting}])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 0.0, 1.5, -0.5, "half", {"default": 0}, {"0": 1.01}])
def test_a_share_outside_zero_to_one(keep):
    with pytest.raises(ValidationError):
        FilterPrune(keep=keep)
    with pytest.raises(RecipeError, match=r"step\[0\] \(filter_prune\)\.keep"):
        recipe(step=[{"method": "filter_prune", "keep": keep}])


class Branching(nn.Module):
    """Looks at values."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        if x.sum() > 0:  # looks here
            return x
        return -x


LINE = next(n for n, line in enumerate(open(__file__), 1) if line.rstrip().endswith("# looks here"))  # noqa: PTH123, SIM115


def bad_nets() -> Iterator[tuple[str, nn.Module, dict, str]]:
    poisoned = ladder(4)
    with torch.no_grad():
        poisoned[0].weight[0] = float("nan")
    yield "nan", poisoned, {}, r"0\.weight holds NaN"
    yield "nothing", nn.Sequential(nn.Conv2d(1, 4, 3)), {}, r"no filter can be removed: network output"
    yield "branch", Branching(), {}, rf"test_filter_prune\.py:{LINE}\b"
    yield "lazy", nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 2, 3)), {}, "not initialised"
    yield "example", ladder(4), {"example": torch.zeros(1, 3, 8, 8)}, r"3"
    yield "axes", ladder(4), {"example": torch.zeros(8)}, r"."
    yield "weight norm", nn.Sequential(weight_norm(nn.Conv2d(1, 4, 1)), nn.Conv2d(4, 2, 1)), {}, r"parametriz"
    yield "data", ladder(4), {"score": "activation"}, "needs data"


@pytest.mark.parametrize(("net", "change", "said"), [b[1:] for b in bad_nets()], ids=[b[0] for b in bad_nets()])
def test_networks_that_cannot_be_pruned_say_why_in_one_line(net, change, said):
    before = str(net)
    change = dict(change)
    example = change.pop("example", X)
    with pytest.raises((ModelError, RecipeError), match=said) as caught:
        nxp.apply(FilterPrune(keep=0.5, **change), net, example=example)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(net) == before
    assert all(p.device.type == "cpu" for p in net.parameters())


def test_the_same_mistakes_in_a_recipe_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_graph", no_graph)
    step = {"method": "filter_prune", "keep": 0.5, "recalibrate": 0}
    for net, said in (
        (Branching(), rf"{LINE}\b"),
        (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "no filter can be removed"),
    ):
        what = recipe(step=[step], baseline={"epochs": 0})
        with pytest.raises((ModelError, RecipeError), match=said) as caught:
            run(tmp_path / type(net).__name__, what, net=net)
        assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match=r"frozen: 'layer9' names no layer"):
        run(tmp_path / "c", recipe(step=[{**step, "frozen": ["layer9"]}]))


# --- what stays as it was ---


@pytest.mark.parametrize("kind", KINDS)
def test_modes_and_frozen_parameters_come_along(kind):
    candidate = toy_candidate(kind)
    net = candidate.net
    for p in list(net.parameters())[::2]:
        p.requires_grad_(requires_grad=False)
    before, held = facts(candidate), {n: raw(p) for n, p in net.named_parameters()}
    small = FilterPrune(keep=0.5).apply(candidate, toy_context()).net
    assert facts(candidate) == before
    assert {n: raw(p) for n, p in net.named_parameters()} == held
    assert [m.training for m in small.modules()] == [m.training for m in net.modules()]
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in net.named_parameters()
    }
    smaller = [n for n, p in net.named_parameters() if small.get_parameter(n).numel() < p.numel()]
    assert any(not net.get_parameter(n).requires_grad for n in smaller)
    mine = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert mine.isdisjoint(p.untyped_storage().data_ptr() for p in small.parameters())


class Kernel(nn.Module):
    """A convolution that is a function of a parameter."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 1, 3, 3))

    def forward(self, x):
        return F.relu(F.conv2d(x, self.kernel))


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.conv, self.head = Kernel(), nn.Conv2d(6, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(F.relu(self.conv(self.first(x))).mean((2, 3)))


def test_a_network_of_ones_own():
    torch.manual_seed(0)
    net, x = Mine(), torch.randn(2, 1, 8, 8)
    small = nxp.apply(FilterPrune(keep=0.5, frozen=("conv",)), net, example=x).net
    stay = net.first.kernel.detach().abs().flatten(1).sum(1).argsort()[3:].sort().values
    assert torch.equal(small.first.kernel, net.first.kernel[stay])
    assert torch.equal(small.conv.weight, net.conv.weight[:, stay])
    zeroed = Mine()
    zeroed.load_state_dict(net.state_dict())
    with torch.no_grad():
        zeroed.first.kernel[[j for j in range(6) if j not in stay]] = 0
        torch.testing.assert_close(small(x), zeroed(x))


class Root(nn.Module):
    """A convolution of a parameter that the network itself holds, beside a layer that reads it."""

    def __init__(self):
        super().__init__()
        self.kernel, self.conv = nn.Parameter(torch.randn(6, 1, 3, 3)), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        return self.conv(F.relu(F.conv2d(x, self.kernel)))


def test_a_layer_that_reads_what_its_parent_makes_is_no_maker():
    (group,) = graph.couple(Root(), X).free
    assert [(s.tensor, s.axis, s.role) for s in group.slots] == [("kernel", 0, "filter"), ("conv.weight", 1, "input")]


def test_an_activation_in_place_is_followed():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Mish(inplace=True), nn.Conv2d(4, 2, 3))
    assert graph.couple(net, X).unknown == ()


# --- batch norm measured again ---


def test_batch_norms_are_measured_again_from_the_train_split():
    def stats(**change):
        seed = change.pop("seed", 3)
        small = FilterPrune(keep=0.5, **change).apply(toy_candidate("residual"), toy_context(seed=seed)).net
        return {n: raw(b) for n, b in small.named_buffers() if "running" in n}, state(small)

    kept, _ = stats(recalibrate=0)
    measured, whole = stats(recalibrate=64)
    assert all(measured[n] != kept[n] for n in kept)
    assert stats(recalibrate=64)[1] == whole  # to the byte
    assert stats(recalibrate=64, seed=4)[0] != measured  # another sample
    old = toy_candidate("residual").net
    stay = old.a.weight.detach().abs().flatten(1).sum(1).argsort()[3:].sort().values
    assert kept["norm_a.running_mean"] == raw(old.norm_a.running_mean[stay])  # as they were
    without = FilterPrune(keep=0.5).apply(toy_candidate("residual"), Context(example=X)).net
    assert {n: raw(b) for n, b in without.named_buffers() if "running" in n} == kept  # no data, no measuring


# --- forms ---


@pytest.mark.parametrize("first", [WeightPrune(sparsity=0.6), WeightShare(bits=3)], ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["plain", "residual", "shuffle", "depthwise"])
def test_forms_come_along_into_the_file(first, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_graph", no_graph)
    context = toy_context()
    before = first.apply(toy_candidate(kind), context)
    small = FilterPrune(keep=0.5).apply(before, context)
    assert small.forms.keys() == before.forms.keys()
    assert broken(small) == []
    for name, w in small.net.named_parameters():
        if name in small.forms:
            old = before.net.get_parameter(name)
            assert set(w.unique().tolist()) <= set(old.unique().tolist())
            assert small.forms[name].traits == before.forms[name].traits
            assert first.name != "weight_prune" or small.forms[name].support.shape == w.shape
    store.save(small, tmp_path / "a.press")
    back = store.load(tmp_path / "a.press", into=toy_candidate(kind, seed=5).net)
    assert broken(back) == []
    assert {n: f.traits for n, f in back.forms.items()} == {n: f.traits for n, f in small.forms.items()}
    for name, w in small.net.named_parameters():
        assert torch.equal(w, back.net.get_parameter(name))


# --- zeroing is not removing ---


class Followed(nn.Module):
    """A convolution with what may follow it; padding makes the borders tell."""

    def __init__(self, *, bias, norm):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.head = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))))


@pytest.mark.parametrize(("bias", "norm", "same"), [
    (False, False, True), (True, False, False), (False, True, False), (True, True, False),
])  # fmt: skip
def test_silenced_is_not_removed_unless_nothing_follows(bias, norm, same):
    torch.manual_seed(1)
    net = Followed(bias=bias, norm=norm).eval()
    if bias:
        nn.init.uniform_(net.conv.bias, 0.5, 1.0)
    if norm:
        nn.init.uniform_(net.norm.bias, 0.5, 1.0)
    coupling = graph.couple(net, X)
    kept = {"conv": np.array([True, False, True, True, False, False])}
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        small, zeroed, silenced = (
            make(net, coupling, kept)(x) for make in (graph.keep, graph.zeroed_twin, graph.silenced_twin)
        )
    torch.testing.assert_close(small, zeroed)
    if same:
        torch.testing.assert_close(small, silenced)
    else:
        assert (small - silenced).abs().max() > 0.05
