"""What stands in a layer's place: sizes, the formulas of the reference (3.12, 3.15), functions of exact factors."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from netpress.arch import build, edit
from netpress.codec.header import Arch
from netpress.errors import ModelError
from netpress.factor import CHILDREN, Rebuilt, Refused, rebuilt, refusal, structure
from netpress.measure import cost

IN, OUT, K = 6, 8, 3
WIDE = [((1, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1)), ((2, 1), (2, 0), (1, 1)), ((1, 1), (2, 2), (2, 2))]


def conv(kernel=K, **settings):
    torch.manual_seed(0)
    return nn.Conv2d(IN, OUT, kernel, **{"padding": kernel // 2, **settings}).double()


def params(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("operation", "numbers", "weights"),
    [
        ("svd", (3,), IN * K * K * 3 + 3 * OUT),
        ("spatial_svd", (4,), 4 * K * (IN + OUT)),
        ("cp", (5,), 5 * (IN + 2 * K + OUT)),
        ("tucker2", (3, 4), IN * 3 + K * K * 3 * 4 + 4 * OUT),
        ("grouped", (2,), IN * OUT * K * K // 2),
        ("separable", (1,), IN * K * K + IN * OUT),
        ("separable", (2,), 2 * (IN * K * K + IN * OUT)),
        ("fire", (2, 3, 0), IN * 2 + 2 * 3 + 2 * K * K * (OUT - 3)),
    ],
)
def test_parameters_and_macs_follow_the_formulas(operation, numbers, weights):
    layer = nn.Conv2d(IN, OUT, K, padding=1)
    made = structure(layer, operation, *numbers)
    assert params(made) == weights + OUT
    assert cost(made, (IN, 10, 10)).macs == weights * 100  # stride 1, same size: each weight once per place


def test_fire_rectified_has_a_bias_for_the_condensing_filters():
    assert params(structure(conv(), "fire", 2, 3, 1)) == IN * 2 + 2 * 3 + 2 * K * K * (OUT - 3) + OUT + 2


def test_linear_and_stacked():
    made = structure(nn.Linear(30, 20), "svd", 4)
    assert params(made) == 4 * (30 + 20) + 20
    made = structure(conv(5), "stacked", 7)
    assert params(made) == 9 * 7 * (IN + OUT) + OUT
    assert [m.padding for m in made] == [(2, 2), (0, 0)]


@pytest.mark.parametrize(("stride", "padding", "dilation"), WIDE)
@pytest.mark.parametrize("operation", ["svd", "spatial_svd", "cp", "tucker2", "separable"])
def test_exact_factors_compute_what_the_layer_computes(operation, stride, padding, dilation):
    """A kernel that is composed of factors: the chain and the one convolution agree, strides and borders included."""
    draw = torch.Generator().manual_seed(1)

    def w(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    match operation:
        case "svd":
            parts, numbers = {"reduce": w(3, IN, K, K), "expand": w(OUT, 3, 1, 1)}, (3,)
            kernel = torch.einsum("rikl,or->oikl", parts["reduce"], parts["expand"][..., 0, 0])
        case "spatial_svd":
            parts, numbers = {"vertical": w(4, IN, K, 1), "horizontal": w(OUT, 4, 1, K)}, (4,)
            kernel = torch.einsum("rik,orl->oikl", parts["vertical"][..., 0], parts["horizontal"][:, :, 0])
        case "cp":
            parts = {"reduce": w(5, IN, 1, 1), "vertical": w(5, 1, K, 1), "horizontal": w(5, 1, 1, K)}
            parts, numbers = {**parts, "expand": w(OUT, 5, 1, 1)}, (5,)
            kernel = torch.einsum(
                "ri,rk,rl,or->oikl",
                parts["reduce"][..., 0, 0],
                parts["vertical"][:, 0, :, 0],
                parts["horizontal"][:, 0, 0],
                parts["expand"][..., 0, 0],
            )
        case "tucker2":
            parts, numbers = {"reduce": w(3, IN, 1, 1), "core": w(4, 3, K, K), "expand": w(OUT, 4, 1, 1)}, (3, 4)
            kernel = torch.einsum(
                "ri,srkl,os->oikl", parts["reduce"][..., 0, 0], parts["core"], parts["expand"][..., 0, 0]
            )
        case _:
            parts, numbers = {"depthwise": w(2 * IN, 1, K, K), "pointwise": w(OUT, 2 * IN, 1, 1)}, (2,)
            each = parts["pointwise"][..., 0, 0].view(OUT, IN, 2)
            kernel = torch.einsum("oim,imkl->oikl", each, parts["depthwise"].view(IN, 2, K, K))
    layer = conv(stride=stride, padding=padding, dilation=dilation)
    with torch.no_grad():
        layer.weight.copy_(kernel)
    made = rebuilt(layer, Rebuilt(operation, numbers, parts))
    x = w(2, IN, 11, 9)
    torch.testing.assert_close(made(x), layer(x), rtol=1e-10, atol=1e-10)
    assert tuple(name for name, _ in made.named_children()) == CHILDREN[operation]


@pytest.mark.parametrize("stride", [1, 2])
def test_two_stacked_compute_what_one_wide_computes(stride):
    layer = conv(5, stride=stride)
    first, second = torch.randn(7, IN, 3, 3, dtype=torch.float64), torch.randn(OUT, 7, 3, 3, dtype=torch.float64)
    kernel = F.conv2d(first.transpose(0, 1), second.flip(2, 3), padding=2).transpose(0, 1)
    with torch.no_grad():
        layer.weight.copy_(kernel)
    made = rebuilt(layer, Rebuilt("stacked", (7,), {"first": first, "second": second}))
    x = torch.randn(2, IN, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(made(x), layer(x))


def test_grouped_shuffled_and_fire_keep_biases_at_their_channels():
    layer = conv()
    before, after = torch.randperm(IN), torch.randperm(OUT)
    blocks = torch.randn(OUT, IN // 2, K, K, dtype=torch.float64)
    made = rebuilt(layer, Rebuilt("shuffled", (2,), {"before": before, "grouped": blocks, "after": after}))
    zeros = torch.zeros(1, IN, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(made(zeros)[0, :, 2, 2], layer.bias)
    x = torch.randn(1, IN, 5, 5, dtype=torch.float64)
    expected = F.conv2d(x[:, before], blocks, padding=1, groups=2)[:, after] + layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(made(x), expected)
    plain = rebuilt(layer, Rebuilt("grouped", (2,), {"": blocks}))
    assert type(plain) is nn.Conv2d
    torch.testing.assert_close(plain(zeros)[0, :, 2, 2], layer.bias)
    fire = rebuilt(layer, Rebuilt("fire", (2, 3, 1), {}))
    torch.testing.assert_close(fire(zeros)[0, :, 2, 2], layer.bias)


@pytest.mark.parametrize("operation", sorted(CHILDREN))
def test_an_edit_makes_the_same_structure_without_values(operation):
    numbers = {"tucker2": (3, 4), "fire": (2, 3, 0), "grouped": (2,), "shuffled": (2,), "beside": ()}.get(
        operation, (3,)
    )
    net = nn.Sequential(conv(5 if operation == "stacked" else 3, bias=False))
    expected = structure(net[0], operation, *numbers)
    state = torch.get_rng_state()
    edit(net, operation, "0", *numbers)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(net[0]) == str(expected)
    assert not any(p.any() for p in net.parameters())
    assert not any(name.endswith("bias") for name, _ in net.named_parameters())


def test_edits_build_a_zoo_network_again_also_on_shapes():
    edits = (("svd", "fc1", 8), ("tucker2", "conv2", 4, 6), ("svd", "conv2.core", 3))
    net = build(Arch("zoo", "lenet5", edits=edits))
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    with torch.device("meta"):
        assert structure(nn.Linear(4, 4), "svd", 2).reduce.weight.is_meta


def test_mode_gradient_and_dtype_are_the_layers():
    layer = conv().eval().requires_grad_(requires_grad=False)
    made = structure(layer, "cp", 2)
    assert not any(m.training for m in made.modules())
    assert all(not p.requires_grad and p.dtype == torch.float64 for p in made.parameters())


@pytest.mark.parametrize(
    ("layer", "operation", "numbers", "words"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), "svd", (1,), "it has 4 groups"),
        (nn.ConvTranspose2d(4, 4, 3), "svd", (1,), "ConvTranspose2d cannot be decomposed"),
        (nn.Conv1d(4, 4, 3), "cp", (1,), "Conv1d cannot be decomposed"),
        (nn.Linear(4, 4), "tucker2", (1, 1), "no 2-d convolution"),
        (nn.Conv2d(4, 4, 1), "tucker2", (1, 1), "1 x 1"),
        (nn.Conv2d(4, 4, 3), "stacked", (4,), "3 x 3, not 5 x 5"),
        (nn.Conv2d(4, 4, 3), "fire", (1, 1, 0), "other places"),
        (nn.Conv2d(4, 4, 3), "beside", (), "other places"),
        (nn.Conv2d(4, 4, 3, padding="same"), "fire", (1, 1, 0), "padding"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "cp", (1,), "'reflect'"),
        (nn.Conv2d(4, 4, 3), "svd", (5,), "rank 5: expected 1 to 4, the full rank"),
        (nn.Linear(4, 4), "svd", (0,), "rank 0"),
        (nn.Conv2d(4, 4, 3), "spatial_svd", (13,), "rank 13: expected 1 to 12"),
        (nn.Conv2d(4, 4, 3), "tucker2", (2, 5), "rank of the outputs 5"),
        (nn.Conv2d(4, 4, 3), "cp", (0,), "rank 0"),
        (nn.Conv2d(4, 4, 3), "grouped", (3,), "do not make 3 groups"),
        (nn.Conv2d(4, 4, 3), "separable", (10,), "kernels per input 10"),
        (nn.Conv2d(4, 4, 3, padding=1), "fire", (1, 4, 0), "at least one of each kind"),
        (nn.Conv2d(4, 4, 3), "unfold", (1,), "'unfold' is unknown"),
        (nn.Conv2d(4, 4, 3), "svd", (1.5,), "whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused(layer, operation, numbers, words):
    with pytest.raises(Refused, match=words):
        structure(layer, operation, *numbers)


def test_a_subclass_may_compute_something_else():
    class Own(nn.Conv2d):
        pass

    assert refusal(Own(4, 4, 3), "svd") == "a Own cannot be decomposed"


def test_a_file_that_does_not_fit_its_network_is_one_line():
    with pytest.raises(ModelError, match=r"edit 'svd' does not fit 'fc1' of the network: rank 900"):
        build(Arch("zoo", "lenet5", edits=(("svd", "fc1", 900),)))
    with pytest.raises(ModelError, match="edit 'cp'"):
        build(Arch("zoo", "lenet5", edits=(("cp", "fc1", 1, 2, 3),)))
