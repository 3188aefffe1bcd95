"""Pruning to a budget: counts against really pruned networks, targets met within 2 %, targets that cannot be met."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import facts, one_thread  # noqa: F401
from filter_nets import X, ladder
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import no_graph
from torch import nn
from toy_nets import KINDS, toy_candidate

import netpress as nxp
from netpress import graph, store, zoo
from netpress.candidate import Candidate, Context, Inputs
from netpress.cli import main
from netpress.errors import BudgetError
from netpress.measure.cost import cost
from netpress.methods import WeightPrune, WeightShare, filter_budget
from netpress.methods.filter_budget import meter, pruned
from netpress.methods.filter_prune import FilterPrune


class Attention(nn.Module):
    """Positions attend to each other: products of activations, which no weight counts."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(1, 6, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        seen = torch.softmax(q.transpose(1, 2) @ k, dim=-1)
        return self.head((v @ seen.transpose(1, 2)).mean(2))


class ChannelConv(nn.Module):
    """A convolution along the channels (ECA): fewer channels are fewer places, with the same weight."""

    def __init__(self):
        super().__init__()
        self.conv, self.eca = nn.Conv2d(1, 12, 3), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.conv(x)
        gate = self.eca(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return self.head((x * torch.sigmoid(gate)[:, :, None, None]).mean((2, 3)))


class Tied(nn.Module):
    """One convolution at two paths."""

    def __init__(self):
        super().__init__()
        self.stem, self.a = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.b, self.head = self.a, nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.b(F.relu(self.a(F.relu(self.stem(x))))).mean((2, 3)))


class Grouped(nn.Module):
    """Groups, a depthwise layer that multiplies its channels, a transposed layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.group = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3, groups=4)
        self.deep, self.up = nn.Conv2d(12, 24, 3, groups=12, padding=1), nn.ConvTranspose2d(24, 6, 2, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.up(F.relu(self.deep(F.relu(self.group(F.relu(self.stem(x))))))).mean((2, 3)))


OWN = {"attention": Attention, "channel_conv": ChannelConv, "tied": Tied, "grouped": Grouped}


def candidate_of(kind):
    if kind in KINDS:
        return toy_candidate(kind)
    torch.manual_seed(0)
    return Candidate(OWN[kind](), inputs=Inputs((1, 8, 8)))


COUPLED = {kind: (c, graph.couple(c.net, X)) for kind in (*KINDS, *OWN) for c in [candidate_of(kind)]}


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from([*KINDS, *OWN]), data=st.data())
def test_counts_are_those_of_the_pruned_network(kind, data):
    candidate, coupling = COUPLED[kind]
    kept = {}
    for group in coupling.free:
        flags = data.draw(st.lists(st.booleans(), min_size=len(group), max_size=len(group)))
        kept[group.name] = np.array([*flags[:-1], True])
    small = graph.keep(candidate.net, coupling, kept)
    real = cost(small, (1, 8, 8))
    found = {limit: meter(limit, candidate, coupling, near={})(kept) for limit in ("max_macs", "max_params")}
    assert found == {"max_macs": real.macs, "max_params": sum(p.numel() for p in small.parameters())}


def test_one_count_serves_where_it_can(monkeypatch):
    # the others take the slow way: a pass per count
    passes = []
    monkeypatch.setattr(filter_budget, "cost", lambda *given: passes.append(given) or cost(*given))
    slow = set()
    for kind, (candidate, coupling) in COUPLED.items():
        count = meter("max_macs", candidate, coupling, near={})
        passes.clear()
        count({})
        slow |= {kind} if passes else set()
    assert slow == {"attention", "channel_conv"}


@pytest.mark.parametrize(
    "first", [None, WeightPrune(sparsity=0.8), WeightShare(bits=3)], ids=["plain", "sparse", "shared"]
)
@pytest.mark.parametrize("kind", ["plain", "residual", "tied"])
def test_sizes_are_those_of_files(first, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_graph", no_graph)
    candidate, coupling = COUPLED[kind]
    if first is not None:
        candidate = first.apply(candidate, Context(example=X))
    half = graph.choose(coupling, graph.random_scores(coupling, 1), keep=0.5)
    some = graph.choose(coupling, graph.random_scores(coupling, 2), keep=0.55)
    real = {}
    for name, kept in (("half", half), ("some", some)):
        real[name] = store.save(pruned(candidate, coupling, kept), tmp_path / "a.press").file_bytes
    size = meter("max_size", candidate, coupling, near=half)
    assert size(half) == real["half"]  # exact where it was calibrated
    assert abs(size(some) / real["some"] - 1) < 0.02


def measured(limit, candidate, folder):
    match limit:
        case "max_macs":
            return cost(candidate.net, candidate.inputs.shape).macs
        case "max_params":
            return sum(p.numel() for p in candidate.net.parameters())
    store.save(candidate, folder / "a.press")
    return (folder / "a.press").stat().st_size


def zoo_candidate(name):
    torch.manual_seed(0)
    shape = {"lenet5": (1, 28, 28), "cifar-resnet20": (3, 32, 32), "mobilenet-v2": (3, 32, 32)}[name]
    settings = {"alpha": 0.35} if name == "mobilenet-v2" and "alpha" in zoo.settings(name) else {}
    return Candidate(zoo.create(name, **settings), inputs=Inputs(shape))


def example_of(candidate):
    return torch.zeros(1, *candidate.inputs.shape)


@pytest.mark.parametrize("limit", ["max_macs", "max_params", "max_size"])
@pytest.mark.parametrize(
    ("name", "share"), [("lenet5", 50), ("lenet5", 20), ("cifar-resnet20", 60), ("mobilenet-v2", 60)]
)
def test_budgets_are_met_within_two_per_cent(name, share, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_graph", no_graph)  # with graphs: below, and slow
    candidate = zoo_candidate(name)
    whole = measured(limit, candidate, tmp_path)
    small = FilterPrune(**{limit: f"{share}%"}).apply(candidate, Context(example=example_of(candidate)))
    assert abs(measured(limit, small, tmp_path) / (whole * share / 100) - 1) <= 0.02


@pytest.mark.parametrize(
    "name", ["lenet5", *(pytest.param(n, marks=pytest.mark.slow) for n in ("cifar-resnet20", "mobilenet-v2"))]
)
def test_bytes_of_the_whole_file_with_its_graph(name, tmp_path):
    candidate = zoo_candidate(name)
    target = measured("max_size", candidate, tmp_path) // 2
    small = FilterPrune(max_size=f"{target}B").apply(candidate, Context(example=example_of(candidate)))
    assert abs(measured("max_size", small, tmp_path) / target - 1) <= 0.02


@pytest.mark.parametrize(
    "change", [{"scope": "global"}, {"round_to": 4}, {"frozen": ("blocks.0.*", "conv")}, {"score": "l2"}]
)
def test_budgets_with_other_settings(change, tmp_path):
    candidate = zoo_candidate("cifar-resnet20")
    if "frozen" in change:
        change = {"frozen": [path for path, m in candidate.net.named_modules() if isinstance(m, nn.Conv2d)][1:3]}
    small = FilterPrune(max_macs="55%", **change).apply(candidate, Context(example=example_of(candidate)))
    whole = measured("max_macs", candidate, tmp_path)
    assert abs(measured("max_macs", small, tmp_path) / (0.55 * whole) - 1) <= 0.02
    for path in change.get("frozen", ()):
        assert small.net.get_submodule(path).out_channels == candidate.net.get_submodule(path).out_channels
    if "round_to" in change:
        for path, layer in small.net.named_modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.out_channels % 4 == 0, path


def test_absolute_and_relative_targets_mean_the_same(tmp_path):
    candidate = zoo_candidate("lenet5")
    whole = measured("max_params", candidate, tmp_path)
    found = [
        FilterPrune(max_params=text).apply(candidate, Context(example=example_of(candidate)))
        for text in ("40%", f"{0.4 * whole / 1e3}k", str(0.4 * whole))
    ]
    assert len({str(c.net) for c in found}) == 1
    # per cent are of what comes in
    again = FilterPrune(max_params="50%").apply(found[0], Context(example=example_of(candidate)))
    assert abs(measured("max_params", again, tmp_path) / (0.2 * whole) - 1) <= 0.04


@pytest.mark.parametrize("text", ["100%", "1G", "140%"])
def test_a_target_that_is_met_already_removes_nothing(text):
    candidate = zoo_candidate("lenet5")
    small = FilterPrune(max_macs=text).apply(candidate, Context(example=example_of(candidate)))
    assert all(torch.equal(a, b) for a, b in zip(candidate.net.parameters(), small.net.parameters(), strict=True))


@pytest.mark.parametrize("text", ["30%", "690k"])
def test_rounds_come_down_by_equal_factors_to_the_same_target(text, tmp_path):
    candidate = zoo_candidate("lenet5")
    whole = measured("max_macs", candidate, tmp_path)
    target = 0.3 * whole if "%" in text else 690e3
    left, at = candidate, [whole]
    for part in FilterPrune(max_macs=text, rounds=3).expand():
        left = part.apply(left, Context(example=example_of(candidate)))
        at.append(measured("max_macs", left, tmp_path))
    assert abs(at[-1] / target - 1) <= (0.06 if "%" in text else 0.02)  # absolute: every round looks at the end
    for before, after in itertools.pairwise(at):
        assert abs(after / before / (target / whole) ** (1 / 3) - 1) <= 0.04
    once = FilterPrune(max_macs=text).apply(candidate, Context(example=example_of(candidate)))
    assert abs(measured("max_macs", once, tmp_path) / at[-1] - 1) <= 0.06


@pytest.mark.parametrize(("limit", "target"), [("max_macs", "1"), ("max_params", "0.001%"), ("max_size", "10B")])
def test_what_cannot_be_reached_names_the_nearest(limit, target, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_graph", no_graph)
    candidate = zoo_candidate("lenet5")
    before = facts(candidate)
    with pytest.raises(BudgetError, match="the nearest that can be reached is") as caught:
        FilterPrune(**{limit: target}).apply(candidate, Context(example=example_of(candidate)))
    assert facts(candidate) == before
    text = str(caught.value)
    assert f"filter_prune: {limit} = {target}" in text
    assert "\n" not in text
    # nearest: one filter of every layer
    least = FilterPrune(keep=1e-9).apply(candidate, Context(example=example_of(candidate)))
    said = float(text.split("reached is ")[1].split(" of ", maxsplit=1)[0].replace(",", ""))
    assert said == pytest.approx(measured(limit, least, tmp_path), rel=1e-5)


def test_a_gap_that_no_bundle_can_fill_is_said():
    # two layers in bundles of 8: nothing lies near 90 %
    candidate = Candidate(ladder(16, 16), inputs=Inputs((1, 8, 8)))
    with pytest.raises(BudgetError, match=r"cannot be met within 2 %; the nearest"):
        FilterPrune(max_params="90%", round_to=8).apply(candidate, Context(example=X))


def test_a_missed_budget_is_exit_code_one(tmp_path, capsys):
    (tmp_path / "r.toml").write_text(
        '[network]\nname = "lenet-300-100"\n[data]\nname = "digits"\n[baseline]\nepochs = 1\n'
        '[[step]]\nmethod = "filter_prune"\nmax_params = "1"\n'
    )
    assert main(["run", str(tmp_path / "r.toml"), "--out", str(tmp_path / "o"), "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "max_params = 1: 1 cannot be met within 2 %; the nearest that can be reached is " in err
    assert err.count("\n") == 1


def test_a_network_in_training_mode_is_counted_as_it_answers(tmp_path):
    candidate = zoo_candidate("cifar-resnet20")
    candidate.net.train()
    small = nxp.apply(FilterPrune(max_macs="50%"), candidate.net, example=example_of(candidate))
    assert all(module.training for module in small.net.modules())
    whole = measured("max_macs", candidate, tmp_path)
    assert abs(measured("max_macs", small, tmp_path) / (0.5 * whole) - 1) <= 0.02


@pytest.mark.slow
def test_milliseconds():
    # the clock of a shared machine: only that it comes down, about as far as was asked
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    candidate = Candidate(net, inputs=Inputs((3, 64, 64)))
    coupling = graph.couple(net, example_of(candidate))
    for _ in range(3):
        try:
            small = FilterPrune(max_latency="50%").apply(candidate, Context(example=example_of(candidate)))
            break
        except BudgetError as missed:  # nothing within 2 % by this clock
            assert "the nearest that can be reached" in str(missed)  # noqa: PT017
    else:
        pytest.skip("the clock is too restless")
    clock = meter("max_latency", candidate, coupling, near={})
    after = meter("max_latency", small, graph.couple(small.net, example_of(candidate)), near={})
    assert 0.3 < after({}) / clock({}) < 0.75
