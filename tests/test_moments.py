"""Moments of patches and outputs against `F.unfold`, regression against a plain least-squares solver."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.candidate import Inputs
from netpress.data import Split
from netpress.errors import DataError, ModelError
from netpress.train.moments import moments, regress, target

SIZE = 9
INPUTS = Inputs((2, SIZE, SIZE), (0.4, 0.5), (0.3, 0.2))


def images(count, seed=0, side=SIZE):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 2, side, side), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(count) % 3)


def normalised(split):
    return (split.images.float() / 255 - torch.tensor(INPUTS.mean).view(2, 1, 1)) / torch.tensor(INPUTS.std).view(
        2, 1, 1
    )


class Tokens(nn.Module):
    """A linear layer on (N, T, D), called twice; then one on (N, D)."""

    def __init__(self, twice=True):
        super().__init__()
        self.mix, self.head, self.twice = nn.Linear(SIZE, SIZE), nn.Linear(2 * SIZE, 3), twice

    def forward(self, x):
        x = self.mix(x.mean(2))
        x = self.mix(x.relu_()) if self.twice else x
        return self.head(x.flatten(1))


def pair(**numbers):
    """A student whose first layer differs from the teacher's; `2` is the layer in question, in-place acts follow."""
    torch.manual_seed(5)
    made = [
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, **numbers),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )
        for _ in range(2)
    ]
    return made[0], made[1]


def unfolded(layer, x):
    """Patches (n, G, D), by padding and `F.unfold`."""
    if layer.padding == "same":
        ends = [side for k, d in zip((3, 3), layer.dilation, strict=True) for side in (d * (k - 1) // 2,) * 2]
    else:
        ends = [layer.padding[1]] * 2 + [layer.padding[0]] * 2
    x = F.pad(x, ends, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    columns = F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return columns.transpose(1, 2).reshape(-1, layer.groups, columns.shape[1] // layer.groups)


NUMBERS = [
    {},
    {"padding": 1, "stride": 2},
    {"padding": (2, 1), "dilation": (2, 1), "stride": (1, 2), "groups": 2},
    {"padding": "same", "groups": 2, "bias": False},
    {"padding": 1, "padding_mode": "reflect"},
]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_all_places_are_those_of_unfold(numbers):
    student, teacher = pair(**numbers)
    split = images(70)  # more than one chunk
    found = moments(student, "2", teacher, "2", split, INPUTS, places=1000)
    x = normalised(split)
    with torch.no_grad():
        p = unfolded(student[2], student[:2](x)).double()
        y = teacher[:3](x).flatten(2).transpose(1, 2).flatten(0, 1).double()
    n, groups, _ = p.shape
    y = y.view(n, groups, -1)
    assert found.count == n
    for got, expected in [
        (found.patches, torch.einsum("ngd,nge->gde", p, p) / n),
        (found.crossed, torch.einsum("ngo,ngd->god", y, p) / n),
        (found.patch_mean, p.mean(0)),
        (found.output_mean, y.mean(0)),
        (found.output_square, y.square().mean(0)),
    ]:
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    covered = found.centred()
    torch.testing.assert_close(covered.patches[0], torch.cov(p[:, 0].T, correction=0), atol=1e-6, rtol=1e-5)


def test_a_layer_is_its_own_regression():
    """Random places match between the networks: products with a layer's own outputs are its weights."""
    net, _ = pair(padding=1)
    found = moments(net, "2", net, "2", images(40), INPUTS, places=7, samples=33, seed=4)
    assert found.count == 33 * 7
    weight, bias = net[2].weight.double().flatten(1), net[2].bias.double()
    torch.testing.assert_close(
        found.crossed[0], weight @ found.whole + bias[:, None] * found.patch_mean, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(found.bias(weight), bias, atol=1e-6, rtol=1e-5)
    assert found.error(net[2].weight, net[2].bias) < 1e-3
    fitted, shift = regress(net[2].weight, net[2].bias, found)
    assert fitted.shape == net[2].weight.shape
    torch.testing.assert_close(fitted, net[2].weight.double(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shift, bias, atol=1e-5, rtol=1e-4)
    again = moments(net, "2", net, "2", images(40), INPUTS, places=7, samples=33, seed=4)
    assert torch.equal(found.patches, again.patches)
    other = moments(net, "2", net, "2", images(40), INPUTS, places=7, samples=33, seed=5)
    assert not torch.equal(found.patches, other.patches)


def test_linear_layers_tokens_and_calls():
    torch.manual_seed(1)
    net, split = Tokens(), images(12)
    x = normalised(split).mean(2)
    with torch.no_grad():
        first = net.mix(x)
        second = first.relu()
        p = torch.cat([x, second]).reshape(-1, SIZE).double()
        y = torch.cat([first, net.mix(second)]).reshape(-1, SIZE).double()
    found = moments(net, "mix", deepcopy(net), "mix", split, INPUTS)
    assert found.count == 2 * 12 * 2
    torch.testing.assert_close(found.whole, p.T @ p / len(p), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.crossed[0], y.T @ p / len(p), atol=1e-6, rtol=1e-5)
    head = moments(net, "head", net, "head", split, INPUTS)
    assert (head.count, tuple(head.crossed.shape)) == (12, (1, 3, 2 * SIZE))
    assert head.singular()  # 12 images, 18 inputs
    with pytest.raises(ModelError, match=r"mix is called 1 times, the teacher's mix 2 times"):
        moments(Tokens(twice=False), "mix", net, "mix", split, INPUTS)
    with pytest.raises(ModelError, match=r"mix is called 2 times, the teacher's mix 1 times"):
        moments(net, "mix", Tokens(twice=False), "mix", split, INPUTS)


def test_a_network_as_its_own_teacher_is_passed_once():
    net, _ = pair(padding=1)
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    once = moments(net, "2", net, "2", images(100), INPUTS, places=5)
    assert len(calls) == 2
    twice = moments(net, "2", deepcopy(net), "2", images(100), INPUTS, places=5)
    for name in ("patches", "crossed", "patch_mean", "output_mean", "output_square", "count"):
        torch.testing.assert_close(getattr(once, name), getattr(twice, name), rtol=0, atol=0)


def test_outputs_of_another_order_and_a_part_of_them():
    student, teacher = pair(padding=1)
    whole = moments(student, "2", teacher, "2", images(20), INPUTS)
    part = moments(student, "2", teacher, "2", images(20), INPUTS, channels=[4, 1])
    torch.testing.assert_close(part.crossed, whole.crossed[:, [4, 1]])


def test_networks_are_left_as_they_were():
    student, teacher = pair(padding=1)
    student.train()
    student[4].eval()
    before = [t.clone() for t in (*student.state_dict().values(), *teacher.state_dict().values())]
    reached = []
    student[7].register_forward_hook(lambda *_: reached.append(1))
    moments(student, "2", teacher, "2", images(3 * 64), INPUTS)
    assert len(reached) == 1  # the first of three passes counts the calls, the others end at the layer
    assert student.training
    assert not student[4].training
    after = [*student.state_dict().values(), *teacher.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(ModelError):
        moments(student, "2", teacher, "7", images(8), INPUTS)
    assert not student[2]._forward_hooks
    assert not teacher[2]._forward_hooks
    assert not teacher[7]._forward_hooks


def test_what_does_not_fit_is_said_in_one_line():
    student, teacher = pair(padding=1)
    small = images(8, side=8)
    cases = [
        (ModelError, r"^2 gives outputs at \(8, 9, 9\) places, the teacher's 5 at \(8, 1, 1\)", "2", "5", images(8)),
        (ModelError, r"^1: expected a Conv2d or a Linear, got ReLU", "1", "2", images(8)),
        (DataError, r"expected images of shape \(2, 9, 9\) as the network takes, got \(2, 8, 8\)", "2", "2", small),
        (DataError, r"there are no images", "2", "2", images(0)),
    ]
    for kind, words, at, of, split in cases:
        with pytest.raises(kind, match=words) as caught:
            moments(student, at, teacher, of, split, INPUTS)
        assert "\n" not in str(caught.value)
    unsaid = Inputs((), INPUTS.mean, INPUTS.std)
    net = Tokens()
    with pytest.raises(DataError, match=r"does not take images of shape \(2, 8, 8\): "):
        moments(net, "head", net, "head", images(8, side=8), unsaid)


def brute(p, y, start, ridge, *, bias):
    """The regression as one least-squares problem with the ridge as further rows."""
    n, inputs = p.shape
    if bias:
        shift, mean = y.mean(0), p.mean(0)
        p, y = p - mean, y - shift
    amount = math.sqrt(ridge * p.square().mean().item())
    rows = torch.cat([p / math.sqrt(n), amount * torch.eye(inputs).double()])
    wanted = torch.cat([y / math.sqrt(n), amount * start.T])
    found = torch.linalg.lstsq(rows, wanted, driver="gelsd").solution.T
    return found, (shift - found @ mean if bias else None)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), bias=st.booleans(), groups=st.sampled_from([1, 2]), ridge=st.sampled_from([1e-3, 1]))
def test_regression_is_least_squares(seed, bias, groups, ridge):
    torch.manual_seed(seed)
    student, teacher = pair(padding=1, groups=groups, bias=bias)
    split = images(20, seed=seed)
    found = moments(student, "2", teacher, "2", split, INPUTS, places=100)
    fitted, shift = regress(student[2].weight, student[2].bias, found, ridge=ridge)
    x = normalised(split)
    with torch.no_grad():
        p = unfolded(student[2], student[:2](x)).double()
        y = teacher[:3](x).flatten(2).transpose(1, 2).flatten(0, 1).double().view(len(p), groups, -1)
    start = student[2].weight.detach().double().view(groups, 6 // groups, -1)
    for g in range(groups):
        weight, offset = brute(p[:, g], y[:, g], start[g], ridge, bias=bias)
        torch.testing.assert_close(fitted.view_as(start)[g], weight, atol=1e-5, rtol=1e-4)
        if bias:
            torch.testing.assert_close(shift.view(groups, -1)[g], offset, atol=1e-5, rtol=1e-4)
    assert (shift is not None) == bias
    # the error is that of the outputs, and no smaller anywhere near
    made = torch.einsum("god,ngd->ngo", fitted.view_as(start), p) + (shift.view(groups, -1) if bias else 0)
    expected = ((y - made).square().sum() / y.square().sum()).sqrt().item()
    assert math.isclose(found.error(fitted, shift), expected, rel_tol=1e-5)
    least, offset = regress(student[2].weight, student[2].bias, found, ridge=1e-9)
    assert found.error(least, offset) <= expected + 1e-9
    assert expected <= found.error(student[2].weight, student[2].bias) + 1e-9


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_what_is_never_seen_stays(ridge):
    """A dead input channel, and one that repeats another: the moment is singular, the weights on them stay."""
    student, teacher = pair(padding=1)
    with torch.no_grad():
        student[0].weight[2], student[0].bias[2] = 0.0, -1.0
        student[0].weight[3], student[0].bias[3] = student[0].weight[1], student[0].bias[1]
    found = moments(student, "2", teacher, "2", images(64), INPUTS)
    assert found.singular()
    assert found.centred().singular()
    fitted, bias = regress(student[2].weight, student[2].bias, found, ridge=ridge)
    assert fitted.isfinite().all()
    start = student[2].weight.detach().double()
    torch.testing.assert_close(fitted[:, 2], start[:, 2], atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(fitted[:, 1] - fitted[:, 3], start[:, 1] - start[:, 3], atol=1e-6, rtol=1e-5)
    assert found.error(fitted, bias) < found.error(start, student[2].bias)
    whole, _ = pair(padding=1)
    assert not moments(whole, "2", teacher, "2", images(64), INPUTS).singular()


@pytest.mark.parametrize("bias", [True, False])
def test_target_is_the_regression_as_a_matrix(bias):
    student, teacher = pair(padding=1, bias=bias)
    found = moments(student, "2", teacher, "2", images(30), INPUTS)
    matrix = target(student[2].weight, found, bias=bias, ridge=1e-2)
    fitted, shift = regress(student[2].weight, student[2].bias, found, ridge=1e-2)
    torch.testing.assert_close(matrix, fitted.flatten(1))
    if bias:
        torch.testing.assert_close(found.bias(matrix), shift)
    grouped, teacher = pair(padding=1, groups=2)
    with pytest.raises(ValueError, match="2 groups"):
        target(grouped[2].weight, moments(grouped, "2", teacher, "2", images(9), INPUTS), bias=True)
