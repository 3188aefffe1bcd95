"""Criteria of filter pruning against computations by hand: what is summed, over which layers, scaled by what."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from torch import nn
from toy_nets import toy_candidate, toy_context, toy_data

from netpress import graph
from netpress.candidate import Candidate, Context, Inputs
from netpress.data import Split
from netpress.data.batches import batches
from netpress.errors import ModelError, RecipeError
from netpress.methods.filter_prune import FilterPrune
from netpress.methods.filter_scores import SCORES, score
from netpress.train.schedule import draw


def filled(layer, *filters):
    """Give a layer's filters these numbers, the rest of each filter zero."""
    with torch.no_grad():
        layer.weight.zero_()
        for row, numbers in zip(layer.weight, filters, strict=True):
            row.flatten()[: len(numbers)] = torch.tensor(numbers)


def scored(kind, net, shape, *, context=None, samples=512):
    """Scores of all groups that can be pruned."""
    candidate = net if isinstance(net, Candidate) else Candidate(net, inputs=Inputs(shape))
    context = context or Context(example=torch.zeros(1, *shape))
    coupling = graph.couple(candidate.net, context.example)
    return score(kind, candidate, coupling.free, context, samples=samples)


def chain():
    """Filters 3-4 (5, 7 and 5), 0-0 (0), 1-1-1-1 (4, 2) ...; a bias that must not count."""
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2))
    filled(net[0], [3.0, -4.0], [0.0], [1.0, -1.0, 1.0, -1.0])
    nn.init.constant_(net[0].bias, 100.0)
    return net


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("l1", [7, 0, 4]),
        ("l2", [5, 0, 2]),
        # distances: 0-1: 5; 0-2: sqrt(4+9+1+1); 1-2: 2
        ("geometric_median", [5 + math.sqrt(15), 5 + 2, math.sqrt(15) + 2]),
    ],
)
def test_norms_and_distances_by_hand(kind, expected):
    found = scored(kind, chain(), (1, 6, 6))
    assert list(found.raw) == ["0"]
    np.testing.assert_allclose(found.raw["0"], expected, rtol=1e-6, atol=1e-5)  # cdist goes through squares
    np.testing.assert_allclose(found.rank["0"], np.array(expected) / np.mean(expected), rtol=1e-6, atol=1e-5)


def test_linear_and_transposed_layers_count_their_own_filters():
    linear = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    filled(linear[0], [1.0, -2.0], [0.5, 0.0], [0.0, 4.0])
    assert scored("l1", linear, (2,)).raw["0"].tolist() == [3, 0.5, 4]
    up = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        up[0].weight.copy_(torch.arange(24.0).view(2, 3, 2, 2))  # the filters lie on axis 1
    expected = [up[0].weight[:, j].sum().item() for j in range(3)]
    assert scored("l1", up, (2, 3, 3)).raw["0"].tolist() == expected


def test_a_residual_stream_takes_the_mean_of_each_filter_over_its_layers_mean():
    candidate = toy_candidate("residual")
    net = candidate.net
    stem, b = (layer.weight.detach().double().abs().flatten(1).sum(1) for layer in (net.stem, net.b))
    found = scored("l1", candidate, (1, 8, 8))
    assert set(found.rank) == {"stem", "a"}
    np.testing.assert_allclose(found.rank["stem"], (stem / stem.mean() + b / b.mean()) / 2, rtol=1e-12)
    np.testing.assert_allclose(found.raw["stem"], (stem + b) / 2, rtol=1e-12)


def test_the_loudest_layer_of_a_stream_does_not_decide_alone():
    candidate = toy_candidate("residual")
    ranks = [scored("l1", candidate, (1, 8, 8)).rank["stem"]]
    with torch.no_grad():
        candidate.net.stem.weight.mul_(1000)  # norm behind b undoes nothing of this: only scaling by layer does
    ranks.append(scored("l1", candidate, (1, 8, 8)).rank["stem"])
    np.testing.assert_allclose(*ranks, rtol=1e-5)


def test_depthwise_filters_count_beside_their_producers():
    candidate = toy_candidate("depthwise")
    made, deep = (
        layer.weight.detach().double().abs().flatten(1).sum(1)
        for layer in (candidate.net.expand, candidate.net.depthwise)
    )
    found = scored("l1", candidate, (1, 8, 8))
    np.testing.assert_allclose(found.rank["expand"], (made / made.mean() + deep / deep.mean()) / 2, rtol=1e-12)


def test_members_that_own_several_filters_sum_them():
    # a multiplier of 2: channel i of the first layer owns filters 2i and 2i + 1 of the second
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 1, groups=2), nn.Conv2d(4, 1, 1))
    filled(net[0], [1.0], [3.0])
    filled(net[1], [1.0], [2.0], [4.0], [9.0])
    found = scored("l1", net, (1, 3, 3))
    assert found.raw["0"].tolist() == [(1 + 3) / 2, (3 + 13) / 2]
    np.testing.assert_allclose(found.rank["0"], [(1 / 2 + 3 / 8) / 2, (3 / 2 + 13 / 8) / 2])
    # two groups: equal offsets go together
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 1, 1))
    filled(net[2], [1.0], [2.0], [4.0], [8.0])
    found = scored("l2", net, (1, 3, 3))
    np.testing.assert_allclose(found.raw["2"], [math.hypot(1, 4), math.hypot(2, 8)], rtol=1e-6)


def normed(norm):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.ReLU(), nn.Conv2d(3, 2, 3))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-2.0, 0.5, 1.0]))
        norm.bias.copy_(torch.tensor([9.0, 9.0, -9.0]))
    return net


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3, affine=True)])
def test_bn_scale_is_the_size_of_gamma(norm):
    found = scored("bn_scale", normed(norm), (1, 8, 8))
    assert found.raw["0"].tolist() == [2, 0.5, 1]
    assert found.rank["0"].tolist() == [2, 0.5, 1]  # gammas of two layers are compared as they are


def test_bn_scale_of_a_stream_is_the_mean_over_its_norms():
    candidate = toy_candidate("residual")
    with pytest.raises(RecipeError, match=r"no normalisation follows .*; freeze"):
        scored("bn_scale", toy_candidate("plain"), (1, 8, 8))
    found = scored("bn_scale", candidate, (1, 8, 8))
    np.testing.assert_allclose(found.raw["a"], candidate.net.norm_a.weight.detach().abs(), rtol=1e-7)
    np.testing.assert_allclose(found.raw["stem"], candidate.net.norm_b.weight.detach().abs(), rtol=1e-7)


def each_batch(split, inputs, context, samples):
    """The batches that the criterion says it takes."""
    seen = 0
    for x, y in batches(split, size=32, mean=inputs.mean, std=inputs.std, seed=draw(context.seed, context.step)):
        yield x, y
        seen += len(y)
        if seen >= samples:
            break


@pytest.mark.parametrize("samples", [64, 96])
def test_taylor_is_the_squared_sum_of_weight_times_slope(samples):
    candidate, context = toy_candidate("plain"), toy_context()
    net = candidate.net.eval()
    total = {"conv1": 0.0, "conv2": 0.0, "fc1": 0.0}
    steps = 0
    for x, y in each_batch(context.train, candidate.inputs, context, samples):
        steps += 1
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        gate = net.norm.weight * net.norm.weight.grad + net.norm.bias * net.norm.bias.grad  # the norm behind conv1
        total["conv1"] += gate.double() ** 2
        for name, layer in (("conv2", net.conv2), ("fc1", net.fc1)):
            total[name] += (layer.weight * layer.weight.grad).double().flatten(1).sum(1) ** 2
    net.zero_grad()
    assert steps == samples // 32
    found = scored("taylor", toy_candidate("plain"), (1, 8, 8), context=context, samples=samples)
    for name, sums in total.items():
        np.testing.assert_allclose(found.raw[name], (sums / steps).detach(), rtol=1e-3, atol=1e-12)
        assert found.rank[name] is found.raw[name]


def test_activation_is_the_mean_size_of_what_the_layer_returns():
    candidate, context = toy_candidate("plain"), toy_context()
    net, data = candidate.net.eval(), toy_data()
    outputs = {}
    for name in ("conv1", "conv2", "fc1"):
        net.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
    x = data.train.images.float() / 255
    mean, std = torch.tensor(data.mean).view(1, -1, 1, 1), torch.tensor(data.std).view(1, -1, 1, 1)
    net((x - mean) / std)
    found = scored("activation", toy_candidate("plain"), (1, 8, 8), context=context, samples=96)
    for name in ("conv1", "conv2"):
        np.testing.assert_allclose(found.raw[name], outputs[name].abs().mean((0, 2, 3)).detach(), rtol=1e-4)
    np.testing.assert_allclose(found.raw["fc1"], outputs["fc1"].abs().mean(0).detach(), rtol=1e-4)
    np.testing.assert_allclose(found.rank["fc1"], found.raw["fc1"] / found.raw["fc1"].mean())


class Rows(nn.Module):
    """A linear layer whose channels lie on the last axis, as in ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.conv, self.wide, self.back = nn.Conv2d(1, 4, 3), nn.Linear(4, 9), nn.Linear(9, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = self.back(F.relu(self.wide(self.conv(x).permute(0, 2, 3, 1))))
        return self.head(x.mean((1, 2)))


class Functional(nn.Module):
    """A layer that returns something else than the channels that it makes."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(5, 1, 3, 3))
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(F.conv2d(x, self.kernel).mean((2, 3)))


def test_activation_finds_the_channels_axis_or_refuses():
    torch.manual_seed(0)
    net, context = Rows().eval(), toy_context()
    data = toy_data()
    candidate = Candidate(net, inputs=Inputs(data.shape, data.mean, data.std))
    found = scored("activation", candidate, data.shape, context=context, samples=96)
    seen = []
    net.wide.register_forward_hook(lambda _m, _i, out: seen.append(out))
    x = data.train.images.float() / 255
    net((x - torch.tensor(data.mean).view(1, -1, 1, 1)) / torch.tensor(data.std).view(1, -1, 1, 1))
    np.testing.assert_allclose(found.raw["wide"], seen[0].abs().mean((0, 1, 2)).detach(), rtol=1e-4)
    other = Candidate(Functional(), inputs=candidate.inputs)
    with pytest.raises(RecipeError, match="no module returns the channels"):
        scored("activation", other, data.shape, context=context)


def test_random_is_drawn_from_the_seed_alone():
    def drawn(**place):
        return scored("random", toy_candidate("plain"), (1, 8, 8), context=toy_context(**place)).raw

    once = drawn(seed=1)
    assert all(np.array_equal(once[name], again) for name, again in drawn(seed=1).items())
    for other in (drawn(seed=2), drawn(seed=1, step=2)):
        assert all(not np.array_equal(once[name], scores) for name, scores in other.items())
    flat = np.concatenate([*once.values()])
    assert len(set(flat)) == len(flat) == 6 + 8 + 12


@pytest.mark.parametrize("kind", SCORES)
def test_scoring_leaves_the_network_as_it_was(kind):
    candidate = toy_candidate("residual")
    for p in list(candidate.net.parameters())[::2]:
        p.requires_grad_(requires_grad=False)
    before = [(p.clone(), p.requires_grad) for p in candidate.net.parameters()]
    flags = [m.training for m in candidate.net.modules()]
    scored(kind, candidate, (1, 8, 8), context=toy_context())
    assert flags == [m.training for m in candidate.net.modules()]
    for (old, wanted), new in zip(before, candidate.net.parameters(), strict=True):
        assert torch.equal(old, new)
        assert (new.requires_grad, new.grad) == (wanted, None)


@pytest.mark.parametrize("kind", ["taylor", "activation"])
def test_without_data_one_line(kind):
    with pytest.raises(RecipeError, match=f"score = '{kind}' needs data"):
        FilterPrune(keep=0.5, score=kind).apply(toy_candidate("plain"), Context(example=torch.zeros(1, 1, 8, 8)))


def test_answers_that_are_not_finite_are_refused():
    candidate = toy_candidate("plain")
    with torch.no_grad():
        candidate.net.fc1.bias.fill_(1e3)
        candidate.net.fc2.weight.fill_(3e38)  # finite, but what comes out is not
    with pytest.raises(ModelError, match=r"score = 'taylor' of \w+ is not finite"):
        FilterPrune(keep=0.5, score="taylor").apply(candidate, toy_context())


def test_every_criterion_prunes_the_lowest():
    # one criterion, one net: the filters that stay are those of highest rank, in their order
    context = toy_context()
    for kind in SCORES:
        layers = "residual" if kind == "bn_scale" else "plain"
        candidate = toy_candidate(layers)
        found = scored(kind, candidate, (1, 8, 8), context=context)
        small = FilterPrune(keep=0.5, score=kind, recalibrate=0).apply(candidate, context)
        for name, rank in found.rank.items():
            stay = np.sort(np.argsort(rank, kind="stable")[len(rank) // 2 :])
            old, new = candidate.net.get_submodule(name), small.net.get_submodule(name)
            if old.bias is not None:
                assert torch.equal(new.bias, old.bias[torch.from_numpy(stay)]), (kind, name)
            assert new.weight.shape[0] == len(stay)


def test_data_of_the_train_split_only():
    # the criterion sees what the context calls train: other images, other scores
    context = toy_context()
    dark = Split(torch.zeros_like(context.train.images), context.train.labels)
    one = scored("activation", toy_candidate("plain"), (1, 8, 8), context=context).raw["conv1"]
    two = scored("activation", toy_candidate("plain"), (1, 8, 8), context=Context(context.example, train=dark)).raw
    assert not np.allclose(one, two["conv1"])
