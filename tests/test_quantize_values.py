"""Which values of a pass get a grid: sums, joins, moves, clamps, and what computes in floats."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_nets import KINDS, toy_candidate, toy_context

from netpress.methods.fold_batch_norm import FoldBatchNorm
from netpress.methods.values import plan, record
from netpress.rounding import Place

IMAGE = torch.zeros(1, 2, 8, 8)


class Net(nn.Module):
    """Layers by name, and a forward pass given as a function of them."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def conv(ins=2, outs=2, **settings):
    return nn.Conv2d(ins, outs, 3, padding=1, **settings)


def planned(net, kept=(), image=IMAGE):
    found = plan(net, image, kept)
    return [str(place) for place in found.places], {str(place): name for place, name in found.floats.items()}


def folded(kind):
    return FoldBatchNorm().apply(toy_candidate(kind), toy_context()).net


@pytest.mark.parametrize(
    ("kind", "places", "floats"),
    [
        # max pool, dropout and flatten keep the grid of what they move
        ("plain", ["input", "relu", "relu:1", "fc1:linear", "leaky_relu", "fc2:linear"], []),
        # the ReLU behind the sum takes its grid over
        ("residual", ["input", "relu", "relu:1", "b:conv2d", "relu:2", "adaptive_avg_pool2d", "head:linear"], []),
        ("concat", ["input", "left:conv2d", "right:conv2d", "relu", "relu:1", "head:linear"], []),
        ("depthwise", ["input", "relu6", "relu6:1", "project:conv2d", "mean", "head:linear"], ["mean"]),
        # view, transpose, reshape and chunk keep the grid of the group convolution
        ("shuffle", ["input", "relu", "relu:1", "relu:2", "cat", "adaptive_avg_pool2d", "head:linear"], []),
        (
            "squeeze_excite",
            [
                *("input", "conv:conv2d", "silu", "adaptive_avg_pool2d", "relu", "excite:conv2d", "sigmoid", "mul"),
                *("mean", "head:linear"),
            ],
            ["silu", "mean"],
        ),
    ],
)
def test_the_toy_networks(kind, places, floats):
    assert planned(folded(kind), image=toy_context().example) == (places, {name: name for name in floats})


def test_every_toy_network_is_listed():
    listed = test_the_toy_networks.pytestmark[0].args[1]
    assert {row[0] for row in listed} == set(KINDS)


def test_where_the_output_of_each_layer_is_rounded():
    found = plan(folded("residual"), toy_context().example)
    assert found.layers == {
        "stem": Place("", "relu", 0),
        "a": Place("", "relu", 1),
        "b": Place("b", "conv2d", 0),
        "head": Place("head", "linear", 0),
    }


def test_a_pass_is_recorded_in_order_with_its_sources():
    net = Net(lambda self, x: F.relu(self.a(x) + x).flatten(1), a=conv())
    values = record(net.train(), IMAGE)
    assert [(str(v.place), v.layer, v.sources, v.moved) for v in values] == [
        ("input", None, (), False),
        ("a:conv2d", "a", (0,), False),
        ("add", None, (1, 0), False),
        ("relu", None, (2,), True),
        ("flatten", None, (3,), True),
    ]
    assert [v.readers for v in values] == [[1, 2], [2], [3], [4], []]
    assert net.training
    assert net.a.training


def test_a_sum_without_an_activation_has_a_grid():
    net = Net(lambda self, x: self.b(self.a(x) + x), a=conv(), b=conv())
    assert planned(net)[0] == ["input", "a:conv2d", "add", "b:conv2d"]


def test_a_sum_in_place():
    def run(self, x):
        out = self.a(x)
        out += x
        return self.b(F.relu(out, inplace=True))

    assert planned(Net(run, a=conv(), b=conv()))[0] == ["input", "a:conv2d", "relu", "b:conv2d"]


@pytest.mark.parametrize("shift", [lambda x: x + 1, lambda x: x * 2.0], ids=["plus", "times"])
def test_a_number_is_no_second_value(shift):
    net = Net(lambda self, x: self.b(shift(self.a(x))), a=conv(), b=conv())
    name = planned(net)[0][2]
    assert planned(net) == (["input", "a:conv2d", name, "b:conv2d"], {name: name})


def test_a_convolution_with_two_readers_keeps_its_own_grid():
    def run(self, x):
        a = self.a(x)
        return self.b(F.relu(a)) + a

    assert planned(Net(run, a=conv(), b=conv()))[0] == ["input", "a:conv2d", "b:conv2d", "add"]


def test_a_clamp_behind_two_readers_has_another_grid():
    def run(self, x):
        a = self.a(x)
        return self.b(F.relu6(a)) + a

    places, floats = planned(Net(run, a=conv(), b=conv()))
    assert places == ["input", "a:conv2d", "relu6", "b:conv2d", "add"]
    assert floats == {}


def test_pools_between_layers():
    net = Net(lambda self, x: self.b(F.avg_pool2d(F.max_pool2d(self.a(x), 2), 2)), a=conv(), b=conv())
    assert planned(net)[0] == ["input", "a:conv2d", "avg_pool2d", "b:conv2d"]


def test_padding_with_zeros_keeps_the_grid_and_with_others_does_not():
    for value, places, floats in (
        (0.0, ["input", "a:conv2d", "b:conv2d"], {}),
        (1.0, ["input", "a:conv2d", "pad", "b:conv2d"], {"pad": "pad"}),
    ):
        net = Net(lambda self, x, v=value: self.b(F.pad(self.a(x), (1, 1, 1, 1), value=v)), a=conv(), b=conv())
        assert planned(net) == (places, floats)


@pytest.mark.parametrize(
    ("layer", "place"),
    [
        (nn.SiLU(), "mid:silu"),
        (nn.LayerNorm(8), "mid:layer_norm"),
        (nn.Softmax(1), "mid:softmax"),
        (nn.BatchNorm2d(2), "mid:batch_norm"),
        (nn.GELU(), "mid:gelu"),
    ],
)
def test_what_has_no_integer_kernel_computes_in_floats(layer, place):
    net = Net(lambda self, x: self.b(self.mid(self.a(x))), a=conv(), mid=layer, b=conv())
    places, floats = planned(net)
    assert places == ["input", "a:conv2d", place, "b:conv2d"]
    assert floats == {place: place.partition(":")[2]}


def test_kept_layers_compute_in_floats():
    net = Net(lambda self, x: self.c(F.relu(self.b(F.relu(self.a(x))))), a=conv(), b=conv(), c=conv())
    assert planned(net, {"b"}) == (["input", "relu", "relu:1", "c:conv2d"], {"b:conv2d": "conv2d"})
    assert planned(net, {"a"}) == (["relu", "relu:1", "c:conv2d"], {})
    assert planned(net, {"c"}) == (["input", "relu", "relu:1"], {"c:conv2d": "conv2d"})
    assert set(plan(net, IMAGE, {"b"}).layers) == {"a", "c"}


def test_where_all_layers_are_kept_nothing_is_rounded():
    net = Net(lambda self, x: F.avg_pool2d(self.b(F.relu(self.a(x))) + x, 2), a=conv(), b=conv())
    assert planned(net, {"a", "b"}) == ([], {})


def test_a_transposed_convolution_computes_in_floats():
    net = Net(lambda self, x: self.b(F.relu(self.up(self.a(x)))), a=conv(), up=nn.ConvTranspose2d(2, 2, 2, 2), b=conv())
    places, floats = planned(net)
    assert places == ["input", "a:conv2d", "relu", "b:conv2d"]
    assert floats == {"up:conv_transpose2d": "conv_transpose2d"}


def test_a_layer_called_twice_has_two_values():
    net = Net(lambda self, x: self.a(self.a(x)), a=conv())
    assert planned(net)[0] == ["input", "a:conv2d", "a:conv2d:1"]


STEPS = {
    "conv": lambda self, x, y: self.a(x),
    "relu": lambda self, x, y: F.relu(x),
    "relu6": lambda self, x, y: F.relu6(x),
    "silu": lambda self, x, y: F.silu(x),
    "sum": lambda self, x, y: x + y,
    "join": lambda self, x, y: torch.cat([x, y], 1)[:, ::2],
    "turn": lambda self, x, y: x.transpose(2, 3),
    "pool": lambda self, x, y: F.avg_pool2d(x, 3, 1, 1),
    "max": lambda self, x, y: F.max_pool2d(x, 3, 1, 1),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=8), st.booleans())
def test_whatever_integer_kernels_read_is_on_a_grid(names, kept):
    def run(self, x):
        earlier = x
        for name in names:
            x, earlier = STEPS[name](self, x, earlier), x
        return self.b(x)

    net = Net(run, a=conv(), b=conv())
    values, found = record(net, IMAGE), plan(net, IMAGE, {"a"} if kept else ())
    chosen, on_grid = set(found.places), []
    for value in values:
        on_grid.append(value.place in chosen or (value.moved and on_grid[value.sources[0]]))
    layers = {"b"} if kept else {"a", "b"}
    for value in values:
        pair = value.place.name in ("add", "cat") and len(value.sources) > 1
        whole = value.layer in layers or pair or value.place.name == "avg_pool2d"
        if whole:
            assert all(on_grid[source] for source in value.sources), (str(value.place), [str(p) for p in chosen])
    assert len(chosen) == len(found.places)
