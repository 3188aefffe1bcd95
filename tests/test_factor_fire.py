"""Condense and fire: the best plain fit, the fit on patches, and a rectifier that cuts hardly anything."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.factor import Refused, rebuilt
from netpress.factor.compose import composed, relative_error
from netpress.factor.fire import Patches, fire


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(channels: int = 6, mean: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Smooth images of few directions with a mean, as maps in a network are."""
    few = F.avg_pool2d(draw(64, 3, 12, 12, seed=seed), 3, 1) * 3
    mix = draw(channels, 3, seed=seed + 1)
    return torch.einsum("cf,nfhw->nchw", mix, few) + 0.1 * draw(64, channels, 10, 10, seed=seed + 2) + mean


def patches(x: torch.Tensor) -> Patches:
    p = F.unfold(x, 3).transpose(1, 2).flatten(0, 1)
    return Patches(p.T @ p / len(p), p.mean(0))


def layer_and(outputs: int = 8, channels: int = 6, *, bias: bool = True) -> nn.Conv2d:
    layer = nn.Conv2d(channels, outputs, 3, padding=1, bias=bias).double()
    with torch.no_grad():
        layer.weight.copy_(draw(*layer.weight.shape, seed=9))
        if bias:
            layer.bias.copy_(draw(outputs, seed=8))
    return layer


def off(layer: nn.Module, made: nn.Module, x: torch.Tensor) -> float:
    """Relative error of the outputs away from the border, about the mean."""
    y, z = (net(x).detach()[:, :, 1:-1, 1:-1] for net in (layer, made))
    return float((y - z).norm() / (y - y.mean((0, 2, 3), keepdim=True)).norm())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(2, 8), st.integers(0, 99))
def test_the_plain_fit_is_the_best_there_is(condensed, outputs, seed):
    w, ones = draw(outputs, 6, 3, 3, seed=seed), outputs // 2
    kept = torch.cat([w[:ones, :, 1, 1], w[ones:].permute(0, 2, 3, 1).flatten(0, 2)])
    lost = float(torch.linalg.svdvals(kept)[condensed:].square().sum())
    lost += float(w[:ones].square().sum() - w[:ones, :, 1, 1].square().sum())  # a 1 x 1 filter sees the middle only
    found = fire(w, condensed, ones, rectified="identity")
    assert relative_error(w, found) == pytest.approx((lost / float(w.square().sum())) ** 0.5, abs=1e-9)


def test_what_is_a_fire_module_is_found_again():
    c, e1, e3 = draw(3, 6), draw(4, 3, seed=1), draw(5, 3, 3, 3, seed=2)
    w = torch.zeros(9, 6, 3, 3, dtype=torch.float64)
    w[:4, :, 1, 1] = e1 @ c
    w[4:] = torch.einsum("oskl,si->oikl", e3, c)
    for seen in (None, patches(images())):
        found = fire(w, 3, 4, rectified="identity", seen=seen)
        assert relative_error(w, found) < 1e-4, seen


@pytest.mark.parametrize("bias", [True, False])
def test_patches_make_the_outputs_nearer(bias):
    layer, x = layer_and(bias=bias), images(mean=0.0 if not bias else 1.0)
    plain = rebuilt(layer, fire(layer.weight, 3, 4, rectified="identity"))
    found = fire(layer.weight, 3, 4, rectified="identity", bias=layer.bias, seen=patches(x))
    assert set(found.biases) == ({"ones", "wide"} if bias else set())
    made = rebuilt(layer, found)
    assert off(layer, made, x) < 0.7 * off(layer, plain, x)
    assert off(layer, made, images(mean=0.0 if not bias else 1.0, seed=3)) < 3  # other directions: still finite


def test_patches_give_the_least_squares_filters():
    layer, x = layer_and(), images()
    found = fire(layer.weight, 3, 4, rectified="identity", bias=layer.bias, seen=patches(x))
    made = rebuilt(layer, found)
    best = (layer(x) - made(x))[:, :, 1:-1, 1:-1].square().mean()
    for name in ("ones", "wide"):
        for seed in range(10):
            other = rebuilt(layer, found)
            child = other.get_submodule(name)
            with torch.no_grad():
                child.weight.add_(0.01 * draw(*child.weight.shape, seed=seed))
            assert (layer(x) - other(x))[:, :, 1:-1, 1:-1].square().mean() > best * (1 - 1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_the_rectifier_cuts_hardly_anything_where_patches_are_known(bias):
    layer, x = layer_and(bias=bias), images()
    seen = patches(x)
    linear = rebuilt(layer, fire(layer.weight, 3, 4, rectified="identity", bias=layer.bias, seen=seen))
    found = fire(layer.weight, 3, 4, rectified="relu", bias=layer.bias, seen=seen)
    made = rebuilt(layer, found)
    before = made.condense(x)
    assert float((before < 0).double().mean()) < 0.02
    assert float(found.biases["condense"].min()) >= 0
    assert off(layer, made, x) < off(layer, linear, x) + 0.15
    assert [type(m).__name__ for m in made.children()] == ["Conv2d", "Conv2d", "Conv2d", "ReLU"]
    # without the bias that lifts, much is cut
    plain = rebuilt(layer, fire(layer.weight, 3, 4, rectified="relu"))
    assert off(layer, made, x) < 0.7 * off(layer, plain, x)


def test_directions_point_to_where_the_mean_is():
    x = images(mean=2.0)
    found = fire(layer_and().weight, 4, 4, rectified="relu", seen=patches(x))
    condensed = torch.einsum("si,nihw->s", found.weights["condense"][:, :, 0, 0], x)
    assert bool((condensed >= 0).all())
    assert composed(found, torch.Size((8, 6, 3, 3))) is None  # a ReLU stands between


def test_dead_and_repeated_inputs_and_zeros_are_fine():
    x = images()
    x[:, 2] = 0
    x[:, 3] = x[:, 4]
    layer = layer_and()
    for rectified in ("relu", "identity"):
        found = fire(layer.weight, 5, 4, rectified=rectified, bias=layer.bias, seen=patches(x))
        parts = [*found.weights.values(), *found.biases.values()]
        assert all(torch.isfinite(part).all() for part in parts)
        assert max(float(part.abs().max()) for part in parts) < 1e4
        assert off(layer, rebuilt(layer, found), x) < 0.9
    nothing = fire(torch.zeros(4, 6, 3, 3), 2, 2, rectified="identity")
    assert relative_error(torch.zeros(4, 6, 3, 3), nothing) == 0
    blank = Patches(torch.zeros(54, 54), torch.zeros(54))
    assert torch.isfinite(fire(layer.weight, 2, 4, rectified="relu", seen=blank).weights["wide"]).all()


def test_sizes_that_do_not_fit_are_refused():
    layer = layer_and()
    with pytest.raises(Refused, match="8 of 8 outputs by 1 x 1"):
        rebuilt(layer, fire(layer.weight, 2, 8, rectified="relu"))
