"""The static cost: the papers' integers, an independent counter, and a network that is left as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from netpress import zoo
from netpress.errors import ModelError
from netpress.measure import cost

# Gulati 2017: params, MACs, activation floats; and the memory the report prints, MB per image.
GULATI = {
    "mnist-initial": (3_423_498, 44_611_584, 95_386, 0.38),
    "mnist-modification-1": (3_291_402, 18_118_656, 95_386, 0.38),
    "mnist-modification-2": (3_225_354, 4_872_192, 95_386, 0.38),
    "condensenet-mnist-vanilla": (535_066, 2_383_360, 94_042, 0.375),
    "condensenet-mnist-1": (141_850, 1_990_144, 92_506, 0.37),
    "condensenet-mnist-2": (74_906, 1_923_328, 92_378, 0.368),
    "condensenet-mnist-3": (139_738, 1_988_224, 93_850, 0.374),
}


class Calls(nn.Module):
    """A network made of one function."""

    def __init__(self, function, **tensors):
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize("name", GULATI)
def test_the_condense_reports_table_to_the_integer(name):
    params, macs, floats, megabytes = GULATI[name]
    found = cost(zoo.create(name), (1, 28, 28))
    assert (found.params, found.macs, found.activation_floats) == (params, macs, floats)
    assert abs(4 * found.activation_floats / 1e6 - megabytes) <= 0.0016


def test_lenets_to_the_integer():
    five, three = cost(zoo.create("lenet5"), (1, 28, 28)), cost(zoo.create("lenet-300-100"), (1, 28, 28))
    assert (five.params, five.macs, five.activation_floats) == (431_080, 2_293_000, 19_694)
    assert [layer.macs for layer in five.layers if layer.params] == [288_000, 1_600_000, 400_000, 5_000]
    assert (three.params, three.macs, three.activation_floats) == (266_610, 266_200, 1_194)


@pytest.mark.parametrize("name", zoo.names())
def test_every_entry_of_the_zoo_states_its_cost(name):
    variant = zoo.describe(name)
    found = cost(zoo.create(name, device="meta"), variant.shape)
    assert (found.params, found.macs) == (variant.params, variant.macs)
    assert variant.activation_floats in {None, found.activation_floats}
    assert variant.operations in {None, found.operations}


def test_group_convolution_of_the_slides():
    dense, grouped = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.Conv2d(16, 32, 3, padding=1, groups=4, bias=False)
    assert (cost(dense, (16, 48, 48)).params, cost(dense, (16, 48, 48)).macs) == (4_608, 10_616_832)
    assert (cost(grouped, (16, 48, 48)).params, cost(grouped, (16, 48, 48)).macs) == (1_152, 10_616_832 // 4)


@given(
    groups=st.integers(1, 3),
    ins=st.integers(1, 3),
    outs=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    size=st.integers(5, 9),
)
@settings(max_examples=25, deadline=None)
def test_convolution_formula(groups, ins, outs, kernel, stride, size):
    net = nn.Conv2d(ins * groups, outs * groups, kernel, stride=stride, groups=groups)
    side = (size - kernel) // stride + 1
    found = cost(net, (ins * groups, size, size))
    assert found.macs == ins * kernel**2 * outs * groups * side**2
    assert found.activation_floats == ins * groups * size**2 + outs * groups * side**2
    assert found.layers[0].out_shape == (outs * groups, side, side)


W, V = torch.randn(6, 4, 3, 3), torch.randn(5, 8)
OTHERS = {
    "conv1d": (nn.Conv1d(4, 6, 3), (4, 9)),
    "conv3d": (nn.Conv3d(2, 4, 2, groups=2), (2, 4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (4, 5, 7)),
    "transposed grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 7)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 8, 8)),
    "dilated": (nn.Conv2d(4, 8, 3, dilation=2, padding="same"), (4, 8, 8)),
    "functional conv": (Calls(lambda m, x: F.conv2d(x, m.w), w=W), (4, 8, 8)),
    "functional linear": (Calls(lambda m, x: F.linear(x, m.v), v=V), (3, 8)),
    "linear on 4-d": (nn.Linear(8, 3), (2, 5, 8)),
    "linear without bias": (nn.Linear(8, 3, bias=False), (8,)),
    "matmul": (Calls(lambda m, x: x @ x.transpose(-1, -2)), (3, 5, 8)),
    "bmm": (Calls(lambda m, x: torch.bmm(x, x.mT)), (5, 8)),
    "einsum": (Calls(lambda m, x: torch.einsum("bchw,co->bohw", x, m.v), v=torch.randn(4, 7)), (4, 5, 5)),
    "transformer layer": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_macs_agree_with_an_independent_counter(case):
    net, shape = OTHERS[case]
    x = torch.zeros(1, *shape)
    # Gradients on and training mode keep the attention layers from fusing into operations the counter does not know.
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(net).train()(x.requires_grad_())
    assert cost(net, shape).macs == counter.get_total_flops() // 2 > 0


def test_attention_counts_both_products():
    found = cost(Calls(lambda m, x: F.scaled_dot_product_attention(x, x, x)), (2, 5, 8))
    assert found.macs == 2 * (2 * 5 * 5 * 8)


def test_work_on_weights_alone_is_free():
    net = Calls(lambda m, x: F.linear(x, m.u @ m.v), u=torch.randn(5, 2), v=torch.randn(2, 8))
    assert cost(net, (8,)).macs == 40


class LowRank(nn.Module):
    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def forward(self, u, v):
        return u @ v

    def right_inverse(self, w):
        u, s, v = torch.linalg.svd(w, full_matrices=False)
        return u[:, : self.rank] * s[: self.rank], v[: self.rank]


class Sparse(nn.Module):
    def __init__(self, support):
        super().__init__()
        self.register_buffer("support", support)

    def forward(self, w):
        return torch.where(self.support, w, 0)


def test_a_parametrized_network_costs_what_it_decodes_to():
    bound = zoo.create("lenet5")
    plain = copy.deepcopy(bound)
    support = torch.rand(bound.conv2.weight.shape) < 0.3
    parametrize.register_parametrization(bound.fc1, "weight", LowRank(4))
    parametrize.register_parametrization(bound.conv2, "weight", Sparse(support))
    plain.fc1.weight.data, plain.conv2.weight.data = bound.fc1.weight.data, bound.conv2.weight.data
    found = cost(bound, (1, 28, 28))
    assert found == cost(plain, (1, 28, 28))
    assert found.nonzero == found.params - int((~support).sum())
    assert [layer.kind for layer in found.layers if layer.params] == ["Conv2d", "Conv2d", "Linear", "Linear"]


class LooksAtValues(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        if x.sum().item() > 1:
            raise AssertionError
        return self.net(x)


@pytest.mark.parametrize("name", ["lenet5", "condensenet-mnist-vanilla"])
def test_a_network_that_looks_at_values_is_run_for_real_and_counts_the_same(name):
    net = zoo.create(name)
    real, meta = cost(LooksAtValues(net), (1, 28, 28)), cost(net, (1, 28, 28))
    for field in ("params", "nonzero", "macs", "activation_floats", "peak_activation_floats"):
        assert getattr(real, field) == getattr(meta, field)
    assert [layer.path for layer in real.layers] == [f"net.{layer.path}" for layer in meta.layers]


class Shuffled(nn.Module):
    """Index layer, channel shuffle, split, join, residual: integer buffers and views."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.register_buffer("index", torch.tensor([5, 4, 3, 2, 1, 0]))
        self.register_buffer("flag", torch.tensor([True, False] * 3))

    def forward(self, x):
        y = self.norm(self.conv(x.index_select(1, self.index)))
        y = y.view(-1, 2, 3, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        a, b = y.chunk(2, dim=1)
        return (torch.cat([b, a], dim=1) + x)[:, self.flag].mean((2, 3))


def test_indices_and_masks_keep_their_values():
    found = cost(Shuffled(), (6, 8, 8))
    assert (found.params, found.macs) == (162 + 12, 162 * 64)
    assert found.activation_floats == 2 * 6 * 64 + 3


def test_a_network_on_meta_has_everything_but_values():
    real, meta = (cost(zoo.create("lenet5", device=device), (1, 28, 28)) for device in ("cpu", "meta"))
    assert meta.nonzero is None
    assert real.params - 10 < real.nonzero <= real.params  # a draw may be 0
    assert {layer.nonzero for layer in meta.layers if layer.params} == {None}
    for field in ("params", "macs", "operations", "activation_floats", "peak_activation_floats"):
        assert getattr(real, field) == getattr(meta, field)


@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=True), 64 * 6 * 9 * 2),  # no bias
        (nn.ReLU(), 256),
        (nn.ReLU6(inplace=True), 256),
        (nn.AvgPool2d(2), 16 * 4 * 4),
        (nn.AvgPool2d((4, 2)), 8 * 4 * 8),
        (nn.AvgPool2d(3, 2), 9 * 4 * 9),  # overlapping windows
        (nn.AdaptiveAvgPool2d(1), 256),
        (nn.AdaptiveAvgPool2d(4), 256),
        (nn.MaxPool2d(2), 0),
        (nn.BatchNorm2d(4), 0),
        (nn.Sequential(nn.Flatten(1), nn.Linear(256, 10)), 2570),
        (nn.Sequential(nn.Flatten(1), nn.Linear(256, 10, bias=False)), 2560),
    ],
)
def test_operations_by_condensenets_convention(layer, operations):
    assert cost(layer, (4, 8, 8)).operations == operations


def test_peak_counts_what_must_be_held_together():
    conv = {"kernel_size": 1, "bias": False}
    chain = nn.Sequential(nn.Conv2d(2, 8, **conv), nn.Conv2d(8, 4, **conv), nn.Conv2d(4, 1, **conv))
    assert cost(chain, (2, 3, 3)).peak_activation_floats == 9 * (8 + 4)
    held = Calls(lambda m, x: x + F.conv2d(F.conv2d(x, m.a), m.b), a=torch.ones(8, 2, 1, 1), b=torch.ones(2, 8, 1, 1))
    assert cost(held, (2, 3, 3)).peak_activation_floats == 9 * (2 + 8 + 2)
    fresh, inplace = (nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(inplace=flag), nn.Flatten(1)) for flag in (False, True))
    assert cost(fresh, (2, 3, 3)).peak_activation_floats == 9 * (8 + 8)
    assert cost(inplace, (2, 3, 3)).peak_activation_floats == 9 * (2 + 8)


def test_unused_pool_indices_are_not_held_and_used_ones_are():
    pool = nn.MaxPool2d(2)
    assert cost(pool, (2, 4, 4)).peak_activation_floats == 32 + 8
    unpooled = Calls(lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2))
    assert cost(unpooled, (2, 4, 4)).peak_activation_floats == 32 + 8 + 8  # pooling, or unpooling: the same
    assert cost(unpooled, (2, 4, 4)).activation_floats == 32 + 8


@pytest.mark.parametrize(
    "pool",
    [
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveMaxPool2d(1),
        nn.AvgPool2d(6),
        nn.MaxPool2d(6),
        Calls(lambda m, x: x.mean((2, 3))),
        Calls(lambda m, x: x.mean((-1, -2), keepdim=True)),
        Calls(lambda m, x: x.amax((2, 3))),
    ],
    ids=str,
)
def test_every_way_to_pool_globally_counts_the_same(pool):
    assert cost(pool, (5, 6, 6)).activation_floats == 5 * 36 + 5


def test_a_mean_over_channels_is_no_pool():
    assert cost(Calls(lambda m, x: x.mean(1)), (5, 6, 6)).activation_floats == 5 * 36


def test_tied_weights_count_once_and_repeated_calls_every_time():
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    assert (cost(tied, (6,)).params, cost(tied, (6,)).macs) == (36 + 6 + 6, 72)
    layer = nn.Linear(6, 6)
    twice = nn.Sequential(layer, layer)
    for _ in range(2):  # the second time shows whether the first gave the weights back
        found = cost(twice, (6,))
        assert (found.params, found.macs, len(found.layers)) == (42, 72, 1)
    assert layer.weight.device.type == tied[2].weight.device.type == "cpu"
    assert tied[2].weight is tied[0].weight


def test_tied_parametrized_weights_count_once():
    tied = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    for layer in tied:
        parametrize.register_parametrization(layer, "weight", Sparse(torch.eye(6) > 0))
    tied[1].parametrizations["weight"] = tied[0].parametrizations["weight"]
    cost(tied, (6,))
    assert (cost(tied, (6,)).params, cost(tied, (6,)).nonzero) == (36, 6)


def test_torchs_own_pruning_masks_are_applied():
    torch.manual_seed(0)  # of 431,080 draws one may be exactly 0
    net = zoo.create("lenet5")
    prune.l1_unstructured(net.fc1, "weight", amount=0.9)
    found = cost(net, (1, 28, 28))
    assert (found.params, found.nonzero) == (431_080, 431_080 - 360_000)


def test_layers_add_up_and_uncalled_parameters_are_listed():
    net = zoo.create("condensenet-mnist-vanilla")
    net.fc2.weight.data[0] = 0
    spared = Calls(lambda m, x: m.net(x))
    spared.spare, spared.net = nn.Linear(3, 3), net
    found = cost(spared, (1, 28, 28))
    for field in ("params", "nonzero", "macs"):
        assert getattr(found, field) == sum(getattr(layer, field) for layer in found.layers)
    assert (found.params, found.nonzero) == (535_066 + 12, 535_066 + 12 - 256)
    assert (found.layers[-1].path, found.layers[-1].macs, found.layers[-1].out_shape) == ("spare", 0, ())
    assert [layer.path for layer in found.layers[:3]] == ["net.conv1", "net.pool1", "net.condense"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_and_frozen_networks(dtype):
    net = zoo.create("lenet5").to(dtype).requires_grad_(False)
    assert cost(net, (1, 28, 28)).macs == 2_293_000


def hooks(net):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 30, 30)])
@pytest.mark.parametrize("wrap", [nn.Sequential, LooksAtValues])
def test_the_network_is_left_as_it_was(wrap, shape):
    inner = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1), nn.Linear(4 * 26 * 26, 10))
    net = wrap(inner)
    inner[1].eval()
    inner[0].register_forward_hook(lambda *_: None)
    flags, before = [m.training for m in net.modules()], copy.deepcopy(net.state_dict())
    tensors, rng = [id(p) for p in net.parameters()], torch.get_rng_state()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    if shape == (1, 28, 28):
        cost(net, shape)
    else:
        with pytest.raises(ModelError):
            cost(net, shape)
    assert [m.training for m in net.modules()] == flags
    assert [id(p) for p in net.parameters()] == tensors
    assert hooks(net) == 1
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    assert torch.equal(torch.get_rng_state(), rng)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (zoo.create("lenet5"), (1, 32, 32), ["(1, 32, 32)", "fc1", "800", "1250"]),
        (zoo.create("lenet5"), (3, 28, 28), ["(3, 28, 28)", "conv1", "3 channels"]),
        (zoo.create("lenet5"), (), ["positive integers", "()"]),
        (zoo.create("lenet5"), (1, 0, 28), ["positive integers", "(1, 0, 28)"]),
        (nn.Sequential(nn.Conv2d(3, 4, 7), nn.MaxPool2d(4)), (3, 9, 9), ["(3, 9, 9)", "takes is 3x10x10"]),
        (nn.LazyLinear(3), (4,), ["LazyLinear", "call the network once"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_errors_are_one_line_with_the_values(net, shape, words):
    with pytest.raises(ModelError) as caught:
        cost(net, shape)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_an_exception_the_network_catches_itself_keeps_the_paths():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrong, self.right = nn.Sequential(nn.Linear(9, 9)), nn.Linear(4, 2)

        def forward(self, x):
            try:
                return self.wrong(x)
            except RuntimeError:
                return self.right(x) @ torch.ones(2, 3, device=x.device)

    net = nn.Sequential(Tries())
    assert {layer.path: layer.macs for layer in cost(net, (4,)).layers} == {"0.wrong.0": 0, "0.right": 8, "0": 6}
