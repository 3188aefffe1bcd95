"""Grids from numbers: linear quantization's worked properties, weights' ranges, activations on calibration images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netpress.candidate import Inputs
from netpress.codec.stored import pack
from netpress.data import Split
from netpress.errors import ModelError
from netpress.forms import Form, holds, project, symbols
from netpress.methods.ranges import SHRINK, activation_grids, fitted_grid, symmetric_grid
from netpress.methods.refitting import Calibration
from netpress.rounding import HIGH, INPUT, Grid, Place

NUMBERS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60)
BITS = st.integers(2, 8)
ONE = Inputs((1, 1, 1), (0.0,), (1.0,))


def on(grid, w):
    return project(Form(values=grid), w)


# --- linear quantization (reference, section 3.14) ---


def test_the_scale_is_the_range_over_255():
    grid = fitted_grid(torch.tensor([-0.5, 0.25, 2.05]), 8)
    assert grid.step.item() == pytest.approx((2.05 + 0.5) / 255)
    assert grid.zero_point == 50
    assert grid.levels == (-50, 205)


@given(NUMBERS, BITS)
def test_the_error_is_at_most_half_a_scale(numbers, bits):
    w = torch.tensor(numbers)
    grid = fitted_grid(w, bits)
    near, slack = on(grid, w), 1e-6 * w.abs().max()
    assert bool(((near - w).abs() <= grid.step / 2 + slack).all())
    assert torch.equal(near[w == 0], torch.zeros(int((w == 0).sum())))


@given(st.floats(-100, 100, width=32, allow_subnormal=False), BITS)
def test_a_constant_tensor_is_exact(number, bits):
    w = torch.full((3, 4), number) + 0.0
    grid = fitted_grid(w, bits)
    assert torch.equal(on(grid, w), w)
    assert grid.step.shape == (1, 1)


def test_it_takes_n_bytes_and_at_most_8():
    w = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    form = Form(values=fitted_grid(w, 8))
    packed = pack(symbols(form, project(form, w)), "bits")
    assert packed.parts["codes"] == w.numel()
    assert 5 <= packed.parts["table"] <= 8  # a step of four bytes, and a zero point
    assert len(packed.data) <= w.numel() + 8


# --- weights, zero in the middle ---


def test_largest_weight_over_the_largest_level():
    w = torch.tensor([[1.0, -2.0], [0.5, 0.1], [0.0, 0.0]])
    for bits, top in ((8, 127), (4, 7), (2, 1)):
        step = symmetric_grid(w, bits, axis=0, kind="minmax", percentile=100).step
        torch.testing.assert_close(step, torch.tensor([[2 / top], [0.5 / top], [1.0]]))
        step = symmetric_grid(w, bits, axis=None, kind="minmax", percentile=100).step
        torch.testing.assert_close(step, torch.tensor([[2 / top]]))


def test_channels_along_the_second_axis():
    w = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.1, 0.0]])[:, :, None]
    grid = symmetric_grid(w, 8, axis=1, kind="minmax", percentile=100)
    torch.testing.assert_close(grid.step, torch.tensor([[[4.0], [2.0], [3.0]]]) / 127)


@given(NUMBERS, BITS)
def test_minmax_holds_all_within_half_a_step(numbers, bits):
    w = torch.tensor(numbers)
    grid = symmetric_grid(w, bits, axis=None, kind="minmax", percentile=100)
    near = on(grid, w)
    assert bool(((near - w).abs() <= grid.step * 0.500001).all())
    assert holds(Form(values=grid), near)


def test_percentile_leaves_the_rarest_out_and_does_not_count_zeros():
    many = torch.linspace(0.01, 1, 1000)
    w = torch.cat([many, torch.tensor([50.0]), torch.zeros(100_000)])
    grid = symmetric_grid(w, 8, axis=None, kind="percentile", percentile=99)
    assert grid.step.item() * 127 == pytest.approx(0.99, abs=0.01)
    assert symmetric_grid(w, 8, axis=None, kind="percentile", percentile=100).step.item() * 127 == pytest.approx(50)
    few = torch.zeros(2, 5000)
    few[0, :2] = torch.tensor([1.0, -2.0])
    step = symmetric_grid(few, 8, axis=0, kind="percentile", percentile=99.9).step
    assert step.flatten().tolist() == pytest.approx([2 / 127, 1.0], rel=1e-2)


def squared(grid, w):
    return float((on(grid, w).double() - w.double()).square().sum())


@settings(deadline=None)
@given(NUMBERS, BITS)
def test_mse_has_no_more_error_than_minmax(numbers, bits):
    w = torch.tensor(numbers)
    errors = [squared(symmetric_grid(w, bits, axis=None, kind=k, percentile=100), w) for k in ("mse", "minmax")]
    assert errors[0] <= errors[1] * 1.001 + 1e-9


def test_mse_is_the_best_of_the_shares():
    w = torch.randn(4, 200, generator=torch.Generator().manual_seed(0)).abs()  # there is one more level below zero
    w[:, 0] = 8
    best = symmetric_grid(w, 4, axis=0, kind="mse", percentile=100)
    full = symmetric_grid(w, 4, axis=0, kind="minmax", percentile=100)
    assert squared(best, w) < 0.8 * squared(full, w)
    for share in SHRINK:
        assert squared(best, w) <= squared(full.stepped(full.step * share), w) * 1.0001


# --- activations ---


class Fixed(nn.Module):
    """Makes the given numbers of any image, as its second product."""

    def __init__(self, numbers: Tensor):
        super().__init__()
        self.register_buffer("numbers", numbers)

    def forward(self, x):
        return F.relu((x * 0 + 1) * self.numbers)


def seen(numbers, kind="minmax", percentile=100.0, samples=4):
    net = Fixed(torch.as_tensor(numbers, dtype=torch.float32).view(1, 1, 1, -1)).train()
    split = Split(torch.full((4, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    place = Place("", "mul", 1)
    images = Calibration(split, ONE, samples, seed=0)
    levels = activation_grids(net, [INPUT, place], images, kind=kind, percentile=percentile)
    assert net.training
    assert (levels[INPUT].scale * 255, levels[INPUT].zero) == (pytest.approx(1), 0)
    return levels[place]


RANGES = ("minmax", "percentile", "mse")
KINDS = pytest.mark.parametrize("kind", RANGES)


def near(levels, x):
    return Grid(torch.tensor(levels.scale), torch.tensor(levels.zero, dtype=torch.uint8)).of(
        torch.as_tensor(x).view(-1)
    )


@KINDS
def test_always_zero(kind):
    levels = seen([0.0] * 5, kind)
    assert (levels.scale, levels.zero, levels.low, levels.high) == (1.0, 0, 0.0, 0.0)


@KINDS
@pytest.mark.parametrize("number", [3.0, -2.0, 1e-3])
def test_always_the_same_number(kind, number):
    levels = seen([number] * 5, kind)
    assert levels.scale <= abs(number) / HIGH * 1.0001
    assert near(levels, number).item() == pytest.approx(number, rel=1 / HIGH)
    assert near(levels, 0.0).item() == 0


@KINDS
def test_both_signs_reach_the_ends(kind):
    levels = seen(np.linspace(-1, 3, 4001), kind, percentile=100.0)
    share = levels.scale * HIGH / 4
    assert 0.9 <= share <= 1.0001
    assert levels.zero == 64
    if kind == "minmax":
        assert (levels.low, levels.high, levels.scale) == (-1, 3, pytest.approx(4 / 255))


def test_one_outlier():
    numbers = [*np.linspace(-1, 1, 5000), 40.0]
    assert seen(numbers).scale * HIGH == pytest.approx(41)
    few = seen(numbers, "percentile", percentile=99.9)
    assert few.scale * HIGH == pytest.approx(2, abs=3 * 41 / 2048)
    assert abs(few.zero - 127.5) < 4


def test_a_percentile_cuts_both_ends():
    levels = seen(np.linspace(-4, 4, 20_001), "percentile", percentile=90.0)
    assert (levels.low, levels.high) == (pytest.approx(-3.2, abs=0.02), pytest.approx(3.2, abs=0.02))


def test_mse_has_less_error_than_the_whole_range_where_tails_are_long():
    numbers = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    errors = [float((near(seen(numbers, kind), numbers) - torch.tensor(numbers)).square().sum()) for kind in RANGES]
    assert errors[2] < 0.95 * errors[0]
    assert min(errors) > 0


@KINDS
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(kind, number):
    with pytest.raises(ModelError, match=r"^mul:1 is NaN or infinite on a calibration image: it has no range$"):
        seen([1.0, number], kind)


def test_a_value_that_calibration_images_do_not_make():
    net = Fixed(torch.ones(1, 1, 1, 2))
    images = Calibration(
        Split(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)), ONE, 2, 0
    )
    with pytest.raises(ModelError, match="conv2d was made for the example, but for no calibration image"):
        activation_grids(net, [Place("", "conv2d", 0)], images, kind="minmax", percentile=100)


def test_only_so_many_images_are_looked_at():
    split = Split(torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1), torch.zeros(200, dtype=torch.int64))
    tops = {}
    for samples in (1, 64, 200, 1000):
        images = Calibration(split, ONE, samples, seed=1)
        net = nn.Sequential(nn.Flatten())
        tops[samples] = activation_grids(net, [INPUT], images, kind="minmax", percentile=100)[INPUT].high * 255
    assert tops[1] < tops[64] <= tops[200] == tops[1000] == pytest.approx(199)
