"""Cross-layer equalisation: the same function, like ranges, the right pairs, forms hold, refusals."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import facts, one_thread, raw  # noqa: F401
from folding import relative, shaken
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_nets import KINDS, toy_candidate

import netpress as nxp
from netpress import arch
from netpress.candidate import Candidate, Context, Inputs
from netpress.errors import ModelError
from netpress.forms import Form, holds
from netpress.methods import WeightPrune, WeightShare
from netpress.methods import equalise as module
from netpress.methods.channels import largest, scaled
from netpress.methods.equalise import equalise
from netpress.methods.folding import fold
from netpress.methods.links import find_links


def uneven(net, seed=0):
    """Channels whose ranges differ by up to a thousand times."""
    torch.manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            with torch.no_grad():
                layer.weight.mul_(torch.exp(1.5 * torch.randn(len(layer.weight), *[1] * (layer.weight.dim() - 1))))
                if layer.bias is not None:
                    nn.init.normal_(layer.bias)
    return net.eval()


@pytest.fixture
def any_bias(monkeypatch):
    """As the paper has it: biases may grow as they like."""
    monkeypatch.setattr(module, "MOST_BIAS", 1e300)


def candidate_of(net, shape):
    return Candidate(uneven(net), inputs=Inputs(shape))


def even(candidate, *frozen):
    return equalise(candidate, Context(example=torch.zeros(1, *candidate.inputs.shape)), frozen=frozen)


def named(done):
    return [(link.first, link.second, link.inputs) for link in done.pairs]


def values(net):
    return {name: raw(tensor) for name, tensor in net.state_dict().items()}


def spread(net, path, side="outputs"):
    """Largest channel range of a layer over its smallest."""
    layer = net.get_submodule(path)
    ranges = largest(layer, layer.weight.detach(), side)
    return (ranges.max() / ranges.min()).item()


# --- the arithmetic ---


def test_a_depthwise_chain_by_hand(any_bias):
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 3, groups=3), nn.ReLU(), nn.Conv2d(3, 4, 1))
    before = candidate_of(net, (2, 8, 8))
    done = even(before)
    assert named(done) == [("0", "2", 1), ("2", "4", 1)]
    assert done.stay == {"4": "the network returns its output"}
    after = done.candidate.net
    # three ranges of each channel become their geometric mean, and what is multiplied along the chain stays
    was = [largest(net[0], net[0].weight), largest(net[2], net[2].weight), largest(net[4], net[4].weight, "inputs")]
    mean = torch.stack(was).prod(0) ** (1 / 3)
    now = [largest(after[0], after[0].weight), largest(after[2], after[2].weight)]
    now.append(largest(after[4], after[4].weight, "inputs"))
    assert all(torch.allclose(ranges, mean, rtol=5e-3) for ranges in now)
    s1, s2 = was[0] / now[0], now[2] / was[2]
    assert torch.allclose(after[0].bias, net[0].bias / s1, rtol=1e-4)
    assert torch.allclose(after[2].bias, net[2].bias / s2, rtol=1e-4)
    assert torch.equal(after[4].bias, net[4].bias)
    assert relative(net, after, (2, 8, 8)) < 1e-5


def test_linear_chains_without_biases(any_bias):
    net = nn.Sequential(nn.Linear(5, 6, bias=False), nn.LeakyReLU(0.1), nn.Linear(6, 7, bias=False), nn.Linear(7, 2))
    done = even(candidate_of(net, (5,)))
    assert named(done) == [("0", "2", 1), ("2", "3", 1)]
    assert relative(net, done.candidate.net, (5,)) < 1e-5
    for a, b in (("0", "2"), ("2", "3")):
        first, second = done.candidate.net.get_submodule(a), done.candidate.net.get_submodule(b)
        ranges = largest(first, first.weight), largest(second, second.weight, "inputs")
        assert torch.allclose(*ranges, rtol=5e-3)


def test_a_channel_owns_its_places_behind_a_flatten(any_bias):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4))
    done = even(candidate_of(net, (1, 8, 8)))
    assert named(done) == [("0", "4", 9)]
    columns = done.candidate.net[4].weight.abs().view(4, 3, 9).amax((0, 2))
    assert torch.allclose(columns, done.candidate.net[0].weight.abs().amax((1, 2, 3)), rtol=5e-3)
    assert relative(net, done.candidate.net, (1, 8, 8)) < 1e-5


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_two_convolutions_compute_the_same(data):
    dims = data.draw(st.integers(1, 3))

    def layer(c_in, c_out, groups):
        kernel, bias = data.draw(st.integers(1, 3)), data.draw(st.booleans())
        if data.draw(st.booleans()):
            return getattr(nn, f"ConvTranspose{dims}d")(c_in, c_out, kernel, groups=groups, bias=bias)
        return getattr(nn, f"Conv{dims}d")(c_in, c_out, kernel, groups=groups, bias=bias, padding=1)

    g, h = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    between = [
        nn.ReLU(),
        nn.LeakyReLU(0.2),
        nn.Identity(),
        nn.Dropout(),
        getattr(nn, f"MaxPool{dims}d")(2, padding=1),
        getattr(nn, f"AvgPool{dims}d")(2, padding=1),
        getattr(nn, f"AdaptiveAvgPool{dims}d")(3),
        getattr(nn, f"AdaptiveAvgPool{dims}d")(1),
        getattr(nn, f"AdaptiveMaxPool{dims}d")(2),
        getattr(nn, f"ConstantPad{dims}d")(1, 0.0),
    ]
    middle = g * h * data.draw(st.integers(1, 2))
    chosen = data.draw(st.sampled_from(between))
    shape = (g, *[5] * dims)
    net = nn.Sequential(layer(g, middle, g), chosen, layer(middle, 2 * h, h)).double()
    done = even(candidate_of(net, shape))
    assert named(done) == [("0", "2", 1)]
    assert relative(net, done.candidate.net, shape) < 1e-12
    sides = [
        largest(layer, layer.weight, s) for layer, s in zip(done.candidate.net[::2], ("outputs", "inputs"), strict=True)
    ]
    if net[0].bias is None:  # where no bias is in the way, the ranges meet
        assert torch.allclose(*sides, rtol=5e-3)


def test_a_channel_without_weights_keeps_its_scale():
    net = uneven(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    with torch.no_grad():
        net[0].weight[1] = 0
        net[2].weight[:, 2] = 0
    done = equalise(Candidate(net, inputs=Inputs((1, 8, 8))), Context(example=torch.zeros(1, 1, 8, 8)))
    after = done.candidate.net
    assert torch.equal(after[2].weight[:, 1], net[2].weight[:, 1])
    assert torch.equal(after[0].weight[2], net[0].weight[2])
    assert torch.equal(after[0].bias[1:3], net[0].bias[1:3])
    assert not torch.equal(after[0].weight[0], net[0].weight[0])


def test_no_bias_grows_above_the_largest_of_its_layer():
    net = uneven(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    )
    with torch.no_grad():
        net[0].weight[1] = 1e-12  # what weight decay leaves of a channel
        net[2].weight[2] = 1e-12
    before = Candidate(net, inputs=Inputs((1, 8, 8)))
    after = even(before).candidate.net
    for path in ("0", "2"):
        now, was = after.get_submodule(path).bias.abs(), net.get_submodule(path).bias.abs()
        assert (now <= was.max() * (1 + 1e-5)).all()
        assert not torch.equal(now, was)
    assert relative(net, after, (1, 8, 8)) < 1e-5


def test_the_argument_stays_and_frozen_layers_too():
    before = candidate_of(KINDS["plain"](), (1, 8, 8))
    earlier = facts(before)
    done = even(before, "fc2")
    assert facts(before) == earlier
    assert named(done) == [("conv2", "fc1", 4)]
    assert done.stay == {
        "conv1": "native_batch_norm comes between it and the next layer",
        "fc1": "frozen by 'fc2'",
        "fc2": "the network returns its output",
    }
    assert done.notes[0].startswith("equalised 1 pairs of layers in ")
    assert "checked in float64" in done.notes[1]
    assert done.notes[2].startswith("conv1 is not equalised: ")
    assert torch.equal(done.candidate.net.fc2.weight, before.net.fc2.weight)


def test_on_shapes_alone_nothing_is_scaled():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)).to("meta")
    done = equalise(Candidate(net, inputs=Inputs((1, 8, 8))), Context(example=torch.zeros(1, 1, 8, 8)))
    assert done.pairs == ()
    assert done.notes[0] == "on meta: nothing was scaled"


# --- which layers ---


def test_toy_networks():
    said = {}
    for kind in KINDS:
        before = toy_candidate(kind)
        context = Context(example=torch.zeros(1, *before.inputs.shape))
        folded = fold(before, context).candidate
        done = equalise(folded, context)
        said[kind] = named(done)
        assert relative(before.net, done.candidate.net, before.inputs.shape) < 1e-4
    assert said == {
        "plain": [("conv1", "conv2", 1), ("conv2", "fc1", 4), ("fc1", "fc2", 1)],
        "residual": [("a", "b", 1)],
        "concat": [("mix", "head", 9)],
        "depthwise": [("project", "head", 1)],
        "shuffle": [("stem", "group", 1)],
        "squeeze_excite": [("squeeze", "excite", 1)],
    }


class Stream(nn.Module):
    """Every layer's output is added to what came before."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x):
        for layer in (self.a, self.b, self.c):
            x = x + layer(F.relu(x))
        return F.relu(x)


class Sums(nn.Module):
    """In place, the other way round, and twice read."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))

    def forward(self, x):
        x = self.a(x)
        x += self.b(x)
        x = F.relu_(self.c(x))
        return self.d(x) * x


class Tokens(nn.Module):
    """A linear layer along the last axis, and one across all of them; then channels become places."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 4)
        self.c, self.d = nn.Linear(12, 8), nn.Conv2d(2, 3, 1)

    def forward(self, x):  # (n, 3, 5)
        x = self.b(F.relu(self.a(x)))
        return self.d(self.c(x.flatten(1)).view(-1, 2, 2, 2))


class Turned(nn.Module):
    """Channels change places."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.c = nn.Linear(4, 4)

    def forward(self, x):
        x = self.b(self.a(x).transpose(1, 2))
        return self.c(x.flip(1))


COMPUTED = "are computed, or shared by several layers"
RETURNED = "the network returns its output"


@pytest.mark.parametrize(
    ("net", "shape", "pairs", "stay"),
    [
        (Stream(), (3, 8, 8), [], dict.fromkeys("abc", "add comes between it and the next layer")),
        (
            Sums(),
            (3, 8, 8),
            [],
            {
                "a": "its output is used more than once",
                "b": "add comes between it and the next layer",
                "c": "its output is used more than once",
                "d": "mul comes between it and the next layer",
            },
        ),
        (
            Tokens(),
            (3, 5),
            [("a", "b", 1)],
            {"b": "its channels are no inputs of c", "c": "its channels are no inputs of d", "d": RETURNED},
        ),
        (
            Turned(),
            (4, 4, 4),
            [],
            {"a": "its channels are rearranged", "b": "flip comes between it and the next layer", "c": RETURNED},
        ),
        (
            nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU6(), nn.Conv2d(3, 3, 1), nn.Sigmoid(), nn.Conv2d(3, 2, 1)),
            (2, 4, 4),
            [],
            {
                "0": "hardtanh comes between it and the next layer",
                "2": "sigmoid comes between it and the next layer",
                "4": RETURNED,
            },
        ),
        (
            nn.Sequential(nn.Conv2d(2, 3, 1), nn.ConstantPad2d(1, 0.5), nn.Conv2d(3, 3, 1)),
            (2, 4, 4),
            [],
            {"0": "constant_pad_nd comes between it and the next layer", "2": RETURNED},
        ),
    ],
    ids=["residual", "sums", "tokens", "turned", "bounded", "padded with a constant"],
)
def test_layers_that_cannot_be_scaled_say_why(net, shape, pairs, stay):
    before = candidate_of(net, shape)
    done = even(before)
    assert named(done) == pairs
    assert done.stay == stay
    assert relative(before.net, done.candidate.net, shape) < 1e-5
    if not pairs:
        assert values(done.candidate.net) == values(before.net)
        assert done.notes[0] == "no two layers can be equalised"


def test_tied_weights_and_layers_that_are_called_twice_are_refused():
    tied = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1))
    tied[2].weight = tied[0].weight
    done = even(candidate_of(tied, (2, 4, 4)))
    assert done.pairs == ()
    assert done.stay == {"0": f"its weights {COMPUTED}", "4": RETURNED}
    layer = nn.Conv2d(2, 2, 1)
    done = even(candidate_of(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(2, 2, 1)), (2, 4, 4)))
    assert done.pairs == ()
    assert done.stay == {"0": "0 is called more than once", "4": RETURNED}


def test_tied_weights_behind_a_layer_are_refused():
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Sigmoid(), nn.Conv2d(2, 2, 1))
    net[4].weight = net[2].weight
    assert find_links(net, (2, 4, 4)).stay["0"] == f"the weights of the layer behind it {COMPUTED}"


def test_a_mean_over_channels_ends_a_pair():
    class Mean(nn.Module):
        def __init__(self, axes):
            super().__init__()
            self.axes, self.a, self.b = axes, nn.Conv2d(2, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(self.a(x).mean(self.axes))

    assert named(even(candidate_of(Mean((2, 3)), (2, 3, 3)))) == [("a", "b", 1)]
    assert named(even(candidate_of(Mean((-1, -2)), (2, 3, 3)))) == [("a", "b", 1)]
    for axes in ((1, 2), (1, 3)):
        assert named(even(candidate_of(Mean(axes), (2, 3, 3)))) == []


def test_a_network_that_looks_at_values_is_run_for_real():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.a(x)), 2)
            x = self.b(x)
            return x if float(x.sum()) > 1e9 else -x

    before = candidate_of(Looks(), (1, 12, 12))
    done = even(before)
    assert named(done) == [("a", "b", 1)]
    assert relative(before.net, done.candidate.net, (1, 12, 12)) < 1e-5


@pytest.mark.parametrize("name", ["mobilenet-v1", "mlperf-tiny-mobilenet"])
def test_a_mobilenet_keeps_its_outputs_and_its_ranges_come_together(name, tmp_path):
    named_net = arch.open_network(name)
    shape = (3, 32, 32)
    before = Candidate(shaken(named_net.net), arch=named_net.arch, inputs=Inputs(shape))
    context = Context(example=torch.zeros(1, *shape))
    folded = fold(before, context).candidate
    done = equalise(folded, context)
    assert len(done.pairs) == 27
    assert set(done.stay) == {"fc"}
    assert relative(before.net, done.candidate.net, shape) < 1e-4
    depthwise = [link.first for link in done.pairs if ".depthwise" in link.first]
    assert len(depthwise) == 13
    for path in depthwise:
        assert spread(done.candidate.net, path) < spread(folded.net, path)
    nxp.save(done.candidate, tmp_path / "a.press")
    x = torch.randn(1, *shape)
    assert torch.equal(nxp.load(tmp_path / "a.press").net(x), done.candidate.net(x))


# --- forms ---


def test_pruned_zeros_stay_plus_zero():
    net = uneven(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3)))
    before = nxp.apply(WeightPrune(sparsity=0.6), net, example=torch.zeros(1, 2, 8, 8))
    done = even(before)
    assert named(done) == [("0", "2", 1)]
    after = done.candidate
    assert set(after.forms) == {"0.weight", "2.weight"}
    for name, form in after.forms.items():
        w = after.net.get_parameter(name)
        assert holds(form, w)
        outside = w[~form.support]
        assert raw(outside) == bytes(4 * outside.numel())
        assert not torch.equal(w, before.net.get_parameter(name))


def test_weights_with_other_forms_take_no_part():
    net = uneven(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)))
    shared = nxp.apply(WeightShare(bits=2), net, example=torch.zeros(1, 2, 8, 8))
    only = shared.but(forms={"0.weight": shared.forms["0.weight"]})
    done = even(only)
    assert named(done) == [("2", "4", 1)]
    assert done.stay["0"] == "0.weight is shared, and scaling would break that"
    assert holds(only.forms["0.weight"], done.candidate.net[0].weight)
    assert even(shared).pairs == ()
    bias = {"0.bias": Form(support=torch.tensor([True, False, True, True]))}
    with torch.no_grad():
        net[0].bias[1] = 0
    done = even(Candidate(net, bias, inputs=Inputs((2, 8, 8))))
    assert len(done.pairs) == 2
    assert holds(bias["0.bias"], done.candidate.net[0].bias)


# --- the check ---


def one_side_only(side):
    return lambda layer, w, s, of="outputs": w if of == side else scaled(layer, w, s, of)


@pytest.mark.parametrize("side", ["outputs", "inputs"])
def test_scaling_one_side_only_is_found_and_the_argument_stays(side, monkeypatch):
    before = candidate_of(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), (2, 8, 8))
    earlier = facts(before)
    even(before)
    monkeypatch.setattr(module, "scaled", one_side_only(side))
    with pytest.raises(ModelError, match=r"^equalise: the equalised network differs by .* \(relative, float64\)"):
        even(before)
    assert facts(before) == earlier


class Sly(nn.Module):
    """Looks at a layer's output in a way that no operation shows: a closed range, found only on large values."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, x):
        y = self.a(x)
        return self.b(F.relu(y) if x.is_meta else F.relu6(y))


def test_what_one_run_does_not_show_is_an_error():
    before = candidate_of(Sly(), (1, 8, 8))
    with torch.no_grad():
        before.net.a.bias.fill_(5)
    with pytest.raises(ModelError, match="in a way that one run does not show; freeze those that it does"):
        even(before)


def test_broken_networks_are_refused():
    before = candidate_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)), (1, 8, 8))
    with pytest.raises(ModelError, match=r"quantize: an image of shape \(3, 8, 8\) does not pass Sequential"):
        equalise(before.but(inputs=Inputs((3, 8, 8))), Context(example=torch.zeros(1)), method="quantize")
    with torch.no_grad():
        before.net[0].weight[0] = torch.nan
    with pytest.raises(ModelError, match=r"0.weight holds NaN or an infinity: its channels have no ranges"):
        even(before)
