"""Rounded activations: the grid's arithmetic and gradients, which call of which module is meant, what refuses."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from netpress.arch import edit
from netpress.errors import ModelError
from netpress.forms import Affine, Form
from netpress.rounding import HIGH, Grid, Place, add_rounding, grids, moves, settle_biases


def grid(scale, zero):
    return Grid(torch.tensor(scale), torch.tensor(zero, dtype=torch.uint8))


def rounded(net, *places, scale=0.25, zero=128, trained=0):
    """`net` with these values (path, name, number) on one and the same grid."""
    for path, name, number in places:
        edit(net, "round", path, name, number, trained)
        made = grids(net)[Place(path, name, number)]
        with torch.no_grad():
            made.scale.fill_(scale)
            made.zero.fill_(zero)
    return net


def on_levels(x, scale=0.25):
    return torch.equal(x, torch.round(x / scale) * scale)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the arithmetic ---


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.25, 1.0, 0.1, 1 / 3, 7e-3]),
    st.integers(0, HIGH),
)
def test_values_are_integer_arithmetic(numbers, scale, zero):
    x, step = np.array(numbers, np.float32), np.float32(scale)
    codes = np.clip(np.rint(x / step) + zero, 0, HIGH).astype(np.uint8)  # rint: half to even
    expected = (codes.astype(np.int32) - zero).astype(np.float32) * step
    np.testing.assert_array_equal(grid(float(step), zero).of(torch.from_numpy(x)).numpy(), expected)


def test_halves_go_to_the_even_level_and_the_rest_is_clamped():
    x = torch.tensor([0.25, 0.75, -0.25, -0.75, 1000.0, -1000.0])
    assert grid(0.5, 10).of(x).tolist() == [0.0, 1.0, 0.0, -1.0, 245 * 0.5, -10 * 0.5]


def test_the_gradient_passes_what_was_not_clamped():
    x = torch.tensor([[0.3, -0.9, 200.0, -7.0]], requires_grad=True)
    grid(0.5, 4).of(x).backward(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert x.grad.tolist() == [[1.0, 2.0, 0.0, 0.0]]


def test_the_scale_learns_as_in_lsq():
    scale = torch.tensor(0.5, requires_grad=True)
    x = torch.tensor([[0.3, -0.9, 200.0, -7.0]] * 3)  # one image has 4 numbers: how many images does not count
    Grid(scale, torch.tensor(4, dtype=torch.uint8)).of(x).sum().backward()
    one = (1 - 0.6) + (-2 - -1.8) + (HIGH - 4) + -4
    assert scale.grad.item() == pytest.approx(3 * one / (4 * HIGH) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "named", "expected"),
    [
        ("pad", (None, (1, 1)), {}, True),
        ("pad", (None, (1, 1), "constant", 0), {}, True),
        ("pad", (None, (1, 1), "constant", -1.0), {}, False),
        ("pad", (None, (1, 1)), {"value": 2.0}, False),
        ("pad", (None, (1, 1), "reflect"), {}, True),
        ("flatten", (None,), {}, True),
        ("silu", (None,), {}, False),
    ],
)
def test_what_only_moves_values(name, args, named, expected):
    assert moves(Place("", name, 0), (args, named)) is expected


# --- which value of the network ---


class Block(nn.Module):
    """In-place activation and sum, and one module that is called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.calls = 2

    def forward(self, x):
        out = self.act(self.a(x))
        out += x
        for _ in range(self.calls):
            out = self.b(out)
        return self.act(out)


def block():
    torch.manual_seed(0)
    return Block().eval()


def test_in_place_relu_and_sum_are_rounded():
    x = noise(3, 2, 5, 5)
    net = rounded(block(), ("act", "relu", 0), ("", "add_", 0))
    plain, of = block(), grid(0.25, 128).of
    with torch.no_grad():
        out = of(of(F.relu(plain.a(x))) + x)
        expected = F.relu(plain.b(plain.b(out)))
        torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
        assert not torch.allclose(block()(x), expected, atol=1e-3)


def test_calls_of_one_module_have_numbers():
    x, of, plain = noise(3, 2, 5, 5), grid(0.25, 128).of, block()
    with torch.no_grad():
        before = F.relu(plain.a(x)) + x
        for number, expected in ((0, plain.b(of(plain.b(before)))), (1, of(plain.b(plain.b(before))))):
            net = rounded(block(), ("b", "conv2d", number))
            torch.testing.assert_close(net(x), F.relu(expected), rtol=0, atol=0)
    assert [str(Place("b", "conv2d", n)) for n in (0, 1)] == ["b:conv2d", "b:conv2d:1"]


def test_a_root_that_is_a_sequence_and_the_input_itself():
    net = rounded(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), ("", "input", 0), ("1", "relu", 0))
    x, of = noise(4, 3), grid(0.25, 128).of
    assert isinstance(net, nn.Sequential)
    assert len(net) == 2
    torch.testing.assert_close(net(x), of(F.relu(net[0](of(x)))), rtol=0, atol=0)
    assert on_levels(net(x))


def test_a_layer_that_is_the_network():
    net = rounded(nn.Linear(3, 2), ("", "linear", 0))
    assert on_levels(net(noise(4, 3)))


def test_a_deep_copy_rounds_on_its_own():
    net = rounded(block(), ("", "add_", 0))
    x = noise(1, 2, 5, 5)
    copy = deepcopy(net)
    torch.testing.assert_close(copy(x), net(x), rtol=0, atol=0)
    rounded(copy, ("b", "conv2d", 1))
    copy.round0_scale.fill_(4.0)
    assert len(grids(net)) == 1
    assert net.round0_scale == 0.25
    assert not torch.equal(copy(x), net(x))


def test_names_in_the_state_and_what_is_trained():
    net = rounded(block(), ("act", "relu", 0), trained=1)
    edit(net, "round", "", "add_", 0, 0)
    own = set(net.state_dict()) - set(block().state_dict())
    assert own == {f"round{i}_{part}" for i in (0, 1) for part in ("scale", "zero")}
    assert {name for name, _ in net.named_parameters()} - set(dict(block().named_parameters())) == {"round0_scale"}
    assert net.state_dict()["round1_zero"].dtype == torch.uint8
    net(noise(1, 2, 5, 5)).sum().backward()
    assert net.round0_scale.grad is not None


def test_half_precision_is_rounded_in_float32():
    net = rounded(nn.Sequential(nn.Linear(64, 8)), ("", "input", 0), ("0", "linear", 0), scale=0.03, zero=100)
    x = noise(4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = net[0](x)
        out = net(x)
    assert seen.dtype == torch.bfloat16
    assert out.dtype == torch.float32
    codes = out / net.round1_scale
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    # bfloat16 has 8 digits: the levels above 128 would be even ones only
    of = grid(1.0, 0).of(torch.arange(0.0, 256.0).bfloat16())
    assert of.dtype == torch.float32


# --- what refuses ---


@pytest.mark.parametrize(
    ("first", "place", "words"),
    [
        (True, ("act", "relu", 0), "act:relu is rounded already"),
        (False, ("act.missing", "relu", 0), "missing"),
        (False, ("act", "relu", "many"), "invalid literal"),
    ],
)
def test_places_that_do_not_fit(first, place, words):
    net = rounded(block(), *([place] if first else []))
    before = list(net.state_dict())
    with pytest.raises(ModelError, match=words) as caught:
        edit(net, "round", *place, 0)
    assert "\n" not in str(caught.value)
    assert list(net.state_dict()) == before


def test_a_name_that_the_network_has_is_not_taken_over():
    net = block()
    net.round0_zero = nn.Identity()
    with pytest.raises(ModelError, match="the network has a 'round0_zero' of its own: rename it"):
        edit(net, "round", "act", "relu", 0, 0)
    assert type(net) is Block
    with pytest.raises(ValueError, match="round0_zero"):
        add_rounding(net, "act", "relu", 0, 0)


def test_a_pass_that_skips_a_rounded_call_is_refused():
    net = rounded(block(), ("b", "conv2d", 1))
    net(noise(1, 2, 5, 5))
    net.calls = 1
    with pytest.raises(ModelError, match=r"^b:conv2d:1 is rounded, but this pass did not make it: the network was"):
        net(noise(1, 2, 5, 5))


# --- biases ---


def test_biases_become_multiples_of_what_kernels_add():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)).eval()
    before = deepcopy(net)
    rounded(net, ("", "input", 0), ("1", "relu", 0), ("2", "linear", 0), scale=0.3, zero=0)
    steps = torch.tensor([[0.01], [0.02], [0.05]])
    forms = {f"{i}.weight": Form(values=Affine.symmetric(steps, 8)) for i in (0, 2)}
    forms["4.weight"] = Form(values=Affine.symmetric(torch.tensor([[0.01]]), 8))  # its input is on no grid
    assert settle_biases(net, forms, torch.zeros(1, 4)) == 2
    for i in (0, 2):
        unit = (net.round0_scale * steps).flatten()
        assert torch.equal(net[i].bias, torch.round(before[i].bias / unit) * unit)
        assert not torch.equal(net[i].bias, before[i].bias)
        assert bool(((net[i].bias - before[i].bias).abs() <= unit / 2 + 1e-7).all())
    for i in (3, 4):  # floats, and a layer whose input is on no grid
        assert torch.equal(net[i].bias, before[i].bias)
    for i in (0, 2, 3, 4):
        assert torch.equal(net[i].weight, before[i].weight)


def test_a_bias_with_a_form_of_its_own_stays():
    net = rounded(nn.Sequential(nn.Linear(4, 3)).eval(), ("", "input", 0))
    forms = {"0.weight": Form(values=Affine.symmetric(torch.tensor([[0.1]]), 8)), "0.bias": Form()}
    before = net[0].bias.clone()
    assert settle_biases(net, forms, torch.zeros(1, 4)) == 0
    assert torch.equal(net[0].bias, before)


def test_without_rounded_activations_no_bias_is_settled():
    net = nn.Sequential(nn.Linear(4, 3)).eval()
    forms = {"0.weight": Form(values=Affine.symmetric(torch.tensor([[0.1]]), 8))}
    before = net[0].bias.clone()
    assert settle_biases(net, forms, torch.zeros(1, 4)) == 0
    assert torch.equal(net[0].bias, before)


def test_values_changed_in_place_lie_on_no_grid():
    class Shifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            x = F.relu(x)
            x.add_(0.1)
            return self.layer(x.flatten(1))

    net = rounded(Shifting().eval(), ("", "relu", 0))
    forms = {"layer.weight": Form(values=Affine.symmetric(torch.tensor([[0.1]]), 8))}
    assert settle_biases(net, forms, torch.zeros(1, 4)) == 0


def test_scales_that_training_pushed_below_zero_become_what_is_computed_with():
    net = rounded(nn.Sequential(nn.Linear(4, 3)).eval(), ("", "input", 0), ("0", "linear", 0))
    net.round0_scale.fill_(-0.1)
    x = noise(3, 4)
    with torch.no_grad():
        before = net(x)
        settle_biases(net, {}, x[:1])
        assert net.round0_scale > 0
        assert net.round1_scale == 0.25
        torch.testing.assert_close(net(x), before, rtol=0, atol=0)
