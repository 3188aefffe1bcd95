"""Coupling: what is found, what is refused, what is left alone; random prunings of the toy networks."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as masks
from toy_nets import KINDS, SIZE

from netpress import graph
from netpress.errors import ModelError
from netpress.graph.labels import Equations

EXAMPLE = torch.zeros(1, 1, SIZE, SIZE)


def pruned(net, example, *, seed=0, keep=0.5):
    coupling = graph.couple(net, example)
    kept = graph.choose(coupling, graph.random_scores(coupling, seed), keep=keep)
    return coupling, kept, graph.keep(net, coupling, kept)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(seed=st.integers(0, 10**6), keep=st.floats(0.05, 1.0))
def test_random_prunings_are_exact(kind, seed, keep):
    torch.manual_seed(seed)
    net = KINDS[kind]()
    coupling, kept, small = pruned(net, EXAMPLE, seed=seed, keep=keep)
    assert graph.check(net, small, coupling, kept, torch.randn(2, 1, SIZE, SIZE)) < 1e-12
    assert not any(g.pinned for g in coupling.groups if not g.pinned.startswith("network"))


@pytest.mark.parametrize("kind", KINDS)
def test_costs_add_up(kind):
    """What goes with one member alone is what its cost says; nobody's cost is another's."""
    net = KINDS[kind]()
    coupling = graph.couple(net, EXAMPLE)
    count = sum(p.numel() for p in net.parameters())
    for group in coupling.free:
        for member in {0, len(group) - 1} if len(group) > 1 else set():
            flags = [k != member for k in range(len(group))]
            small = graph.keep(net, coupling, {group.name: flags})
            assert count - sum(p.numel() for p in small.parameters()) == group.cost[member]


def test_groups_say_where_their_channels_live():
    coupling = graph.couple(KINDS["residual"](), EXAMPLE)
    stem = coupling.by_name["stem"]
    assert (len(stem), stem.pinned, stem.makers) == (6, "", ("stem", "b"))
    assert {(s.tensor, s.axis): s.role for s in stem.slots} == {
        ("stem.weight", 0): "filter", ("a.weight", 1): "input", ("b.weight", 0): "filter", ("norm_b.weight", 0): "bias",
        ("norm_b.bias", 0): "bias", ("norm_b.running_mean", 0): "bias", ("norm_b.running_var", 0): "bias",
        ("head.weight", 1): "input",
    }  # fmt: skip
    assert all(s.positions.tolist() == [[k] for k in range(6)] for s in stem.slots)
    assert coupling.by_name["head"].pinned == "network output"
    flat = graph.couple(KINDS["plain"](), EXAMPLE).by_name["conv2"]
    assert next(s for s in flat.slots if s.tensor == "fc1.weight").positions[1].tolist() == [4, 5, 6, 7]


def test_the_network_is_left_alone():
    net = KINDS["shuffle"]().train()
    net.branch.eval()
    net.stem.weight.requires_grad_(False)
    net.stem.register_forward_hook(lambda *_: pytest.fail("a hook of the network ran"))
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    coupling, kept, small = pruned(net, EXAMPLE)
    hooks = net.stem._forward_hooks.copy()
    net.stem._forward_hooks.clear()
    graph.check(net, small, coupling, kept)
    assert hooks
    assert [m.training for m in net.modules()] == modes == [m.training for m in small.modules()]
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert not small.stem.weight.requires_grad
    assert small.group.weight.requires_grad
    assert small.stem.out_channels < 8, "frozen parameters are pruned like any other"
    assert not small.stem._forward_hooks
    assert not any(p.is_meta for p in small.parameters())


def test_same_network_same_answer():
    torch.manual_seed(0)
    nets = [KINDS["concat"]() for _ in range(2)]
    a, b = [pruned(net, EXAMPLE, seed=3) for net in nets]
    assert {k: v.tolist() for k, v in a[1].items()} == {k: v.tolist() for k, v in b[1].items()}


class Two(nn.Module):
    """Two inputs, a dictionary of outputs, a stem used twice, a tied head."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(12, 5, 1)
        self.head, self.other = nn.Linear(5, 3), nn.Linear(5, 3)
        self.other.weight = self.head.weight

    def forward(self, a, b):
        x = F.relu(self.mix(torch.cat([self.stem(a), self.stem(b)], 1))).mean((2, 3))
        return {"scores": self.head(x), "both": (self.other(x), x.sum(1))}


def test_several_inputs_and_outputs():
    net = Two()
    coupling, kept, small = pruned(net, (EXAMPLE, EXAMPLE))
    assert graph.check(net, small, coupling, kept) < 1e-12
    assert small.stem.out_channels == 3
    assert small.mix.in_channels == 6
    assert small.head.weight is small.other.weight
    assert small.head.weight.shape[1] < 5


class Positions(nn.Module):
    """Channels picked by a buffer of positions; a scale and a shift that are parameters of their own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 1), nn.Conv2d(6, 4, 1)
        self.register_buffer("index", torch.tensor([7, 0, 3, 3, 1, 5]))
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("shift", torch.rand(1, 8, 1, 1), persistent=False)

    def forward(self, x):
        return self.two((self.one(x) * self.scale + self.shift)[:, self.index]).mean((2, 3))


def test_buffers_follow():
    net = Positions()
    coupling = graph.couple(net, EXAMPLE)
    flags = {g.name: np.ones(len(g), np.bool_) for g in coupling.free}
    position = {p: (g.name, k) for g in coupling.free for s in g.slots if s.tensor == "one.weight" and s.axis == 0
                for k, row in enumerate(s.positions) for p in row}  # fmt: skip
    for gone in (0, 2, 5):
        name, k = position[gone]
        flags[name][k] = False
    small = graph.keep(net, coupling, flags)
    assert small.index.tolist() == [4, 1, 1, 0]  # 1 3 4 6 7 stay; 7 3 3 1 are picked
    assert small.scale.shape == (5, 1, 1)
    assert small.shift.shape == (1, 5, 1, 1)
    assert graph.check(net, small, coupling, flags) < 1e-12


class Auxiliary(nn.Module):
    """A second head that runs in training only."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3)
        self.head, self.extra = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        x = self.one(x)
        out = self.head(self.two(x).mean((2, 3)))
        return (out, self.extra(x.mean((2, 3)))) if self.training else out


def test_what_runs_in_training_only_is_pruned_too():
    net = Auxiliary()
    coupling, kept, small = pruned(net, EXAMPLE)
    assert not coupling.untouched
    assert small.extra.in_features == small.one.out_channels == 3
    assert [x.shape for x in small.train()(torch.zeros(2, 1, 8, 8))] == [(2, 3), (2, 3)]
    assert graph.check(net, small, coupling, kept) < 1e-12


def test_masks_of_pytorch_are_followed():
    net = KINDS["plain"]()
    masks.l1_unstructured(net.conv2, "weight", amount=0.5)
    net(EXAMPLE)
    coupling, kept, small = pruned(net, EXAMPLE)
    assert small.conv2.weight_orig.shape == small.conv2.weight_mask.shape == (4, 3, 3, 3)
    assert graph.check(net, small, coupling, kept) < 1e-12
    assert (small(EXAMPLE).isfinite()).all()


class Written(nn.Module):
    """A size written into forward."""

    def __init__(self, forward):
        super().__init__()
        self.one, self.two, self.groups, self.width = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 4, 1), 4, 2
        self.body = forward

    def forward(self, x):
        return self.two(self.body(self, F.relu(self.one(x)))).mean((2, 3))


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (lambda m, x: x.view(1, 4, 2, 8, 8).flip(1).reshape(1, 8, 8, 8), 8),  # 4 x 2, both written
        (lambda m, x: x.view(1, 4, -1, 8, 8).flip(1).flatten(1, 2), 4),  # 4 written, the rest follows
        (lambda m, x: x.view(1, m.groups, m.width, 8, 8).flip(1).flatten(1, 2), 4),  # an attribute follows
        (lambda m, x: torch.cat(x.split([2, 6], 1)[::-1], 1), 8),
        (lambda m, x: torch.cat(x.split(m.groups, 1)[::-1], 1), 4),
    ],
)
def test_sizes_written_into_forward(body, left):
    net = Written(body)
    coupling, kept, small = pruned(net, EXAMPLE)
    assert small.one.out_channels == left
    assert graph.check(net, small, coupling, kept) < 1e-12
    if left == 8:
        assert "written into the code" in coupling.by_name["one"].pinned


# --- refused ---


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        return x if x.sum() > 0 else -x


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_branches_on_values_are_refused():
    with pytest.raises(ModelError, match=r"decides by a value, at test_graph_couple\.py:") as error:
        graph.couple(Branch(), EXAMPLE)
    number = int(one_line(error).partition("test_graph_couple.py:")[2].partition(":")[0])
    with open(__file__) as file:  # noqa: PTH123
        assert "x.sum() > 0" in file.readlines()[number - 1]


def test_a_wrong_example_is_refused():
    with pytest.raises(ModelError, match=r"conv1 does not run on an input of shape \(1, 3, 8, 8\)") as error:
        graph.couple(KINDS["plain"](), torch.zeros(1, 3, 8, 8))
    one_line(error)


def test_lazy_modules_are_refused():
    with pytest.raises(ModelError, match=r"0\.weight is not initialised yet") as error:
        graph.couple(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), EXAMPLE)
    one_line(error)


def test_operations_without_a_rule():
    class Sorts(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.two(self.one(x).sort(1).values).mean((2, 3)))

    net = Sorts()
    coupling, kept, small = pruned(net, EXAMPLE)
    assert coupling.unknown == (("sort", ""),)
    assert coupling.by_name["one"].pinned == "no rule for sort"
    assert (small.one.out_channels, small.two.out_channels) == (4, 3)
    assert graph.check(net, small, coupling, kept) < 1e-12
    with pytest.raises(ModelError, match="no rule for sort in the network"):
        graph.couple(net, EXAMPLE, strict=True)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"nobody": [True]}, "no group of channels is called 'nobody'"),
        ({"stem": [True]}, "expected 6 booleans"),
        ({"stem": [1, 1, 1, 1, 1, 0]}, "expected 6 booleans"),
        ({"head": [True, True, True, False]}, "cannot go: network output"),
        ({"stem": [False] * 6}, "would be left without channels"),
    ],
)
def test_wrong_choices_are_refused(kept, message):
    net = KINDS["residual"]()
    with pytest.raises(ModelError, match=message) as error:
        graph.keep(net, graph.couple(net, EXAMPLE), kept)
    one_line(error)


# --- the check can fail ---


@pytest.mark.parametrize("kind", ["residual", "shuffle", "squeeze_excite", "depthwise"])
def test_a_dropped_equation_is_caught(kind, monkeypatch):
    """Sabotage: leave out each equation in turn; what then goes wrong must be refused."""
    net = KINDS[kind]()
    tracer_equations = []
    equate = Equations.equate
    monkeypatch.setattr("netpress.graph.coupling.trial", lambda *_, **__: None)  # it would find another reading
    monkeypatch.setattr(Equations, "equate", lambda s, a, b: (tracer_equations.append(s), equate(s, a, b))[1])
    graph.couple(net, EXAMPLE)
    count = len([s for s in tracer_equations if s is tracer_equations[0]])
    caught = 0
    for dropped in range(count):
        seen = []

        def saboteur(self, a, b, seen=seen, dropped=dropped):
            seen.append(self)
            if sum(s is self for s in seen) - 1 != dropped:
                equate(self, a, b)

        monkeypatch.setattr(Equations, "equate", saboteur)
        try:
            coupling, kept, small = pruned(net, EXAMPLE, seed=dropped)
            graph.check(net, small, coupling, kept)
        except (ModelError, TypeError):
            caught += 1
    assert count
    assert caught >= 1


def test_the_check_sees_wrong_values():
    net = KINDS["residual"]()
    coupling, kept, small = pruned(net, EXAMPLE)
    with torch.no_grad():
        small.a.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(ModelError, match=r"a\.weight: the pruned network's values are not those"):
        graph.check(net, small, coupling, kept)


def test_the_check_sees_a_branch_hidden_by_a_zero():
    """A scale of zero hides its branch; the check puts other values there."""
    net = KINDS["residual"]()
    nn.init.zeros_(net.norm_b.weight)
    coupling, kept, small = pruned(net, EXAMPLE)
    small.a.stride = (1, 1)
    small.a.padding = (0, 0)
    small.b.padding = (2, 2)
    with pytest.raises(ModelError, match="differs from the zeroed twin"):
        graph.check(net, small, coupling, kept)


def test_silencing_is_not_removing():
    torch.manual_seed(0)
    net = KINDS["residual"]().eval()
    for norm in (net.norm_a, net.norm_b):
        nn.init.normal_(norm.bias)
    coupling, kept, small = pruned(net, EXAMPLE)
    x = torch.randn(2, 1, SIZE, SIZE)
    zeroed, silenced = graph.zeroed_twin(net, coupling, kept), graph.silenced_twin(net, coupling, kept)
    assert torch.allclose(zeroed(x), small(x), atol=1e-5)
    assert not torch.allclose(silenced(x), small(x), atol=1e-2)
    gone = int((~kept["stem"]).sum())
    assert int((silenced.stem.weight.flatten(1) == 0).all(1).sum()) == gone
    assert torch.equal(silenced.norm_b.bias, net.norm_b.bias)


def test_smallest_input():
    assert graph.smallest_input(nn.Conv2d(1, 4, 12), torch.zeros(1, 1, 64, 64)).shape == (1, 1, 16, 16)
    assert graph.smallest_input(KINDS["plain"](), EXAMPLE).shape == EXAMPLE.shape
