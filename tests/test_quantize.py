"""Quantizing networks: what stays zero, shared or signs, files, kernels, training on the grid, the gate, bad input."""

from copy import deepcopy
from dataclasses import replace

import contract
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from toy_nets import toy_candidate, toy_context, toy_data

from netpress import processor, store
from netpress.codec import container
from netpress.errors import ModelError, RecipeError
from netpress.forms import Affine, Shared, Signs, holds
from netpress.methods import FoldBatchNorm, PatternBinarize, Quantize, WeightPrune, WeightShare
from netpress.methods.quantize import REDUCED
from netpress.methods.targets import targets
from netpress.recipe import parse
from netpress.rounding import grids
from netpress.train import Training, fit
from netpress.train.evaluate import evaluate

VNNI = "model name\t: Fast\nflags\t\t: fpu avx2 avx512_vnni\n"
OLD = "model name\t: Slow\nflags\t\t: fpu avx2\n"
TRAINED = {"lr": 0.02, "batch": 32}


def quantize(before, context=None, **settings):
    settings = {"samples": 64, "kernels": "full", **settings}
    return Quantize(**settings).apply(before, context or toy_context())


def score(candidate, split=None):
    return evaluate(candidate.net, split or toy_data().validation, candidate.inputs)


@pytest.fixture(scope="module")
def able():
    """A plain network that names the bright quarter."""
    before = fit(toy_candidate("plain"), Training(epochs=12, **TRAINED), toy_context()).candidate
    assert score(before).top1 == 1
    return before


# --- what stays ---


@pytest.mark.parametrize("fitted", [False, True])
def test_zeros_stay_zero_also_after_training(fitted):
    extra = {"zero_point": "fitted", "grain": "tensor", "activations": "float"} if fitted else {}
    pruned = WeightPrune(sparsity=0.6).apply(toy_candidate("residual"), toy_context())
    small = quantize(pruned, bits=4, **extra)
    after = fit(small, Training(epochs=2, **TRAINED), toy_context()).candidate
    for target in targets(pruned.net):
        zeros = pruned.net.get_parameter(target.name) == 0
        assert zeros.sum() > 0.5 * zeros.numel()
        for made in (small, after):
            assert not made.net.get_parameter(target.name)[zeros].any()
            assert made.forms[target.name].traits == {"support", "affine"}
        assert not torch.equal(small.net.get_parameter(target.name), after.net.get_parameter(target.name))


def test_shared_values_stay_shared_and_their_table_lies_on_a_grid():
    shared = WeightShare(bits=3).apply(toy_candidate("plain"), toy_context())
    small = quantize(shared)
    after = fit(small, Training(epochs=2, **TRAINED), toy_context()).candidate
    for made in (small, after):
        for name, form in shared.forms.items():
            now, w = made.forms[name], made.net.get_parameter(name)
            assert isinstance(now.values, Shared)
            assert torch.equal(now.values.index, form.values.index)
            assert w.unique().numel() <= 8
            codes = w.detach() / now.values.grid.step
            torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
            assert holds(now, w)


def test_signs_stay_signs_in_floats():
    signs = PatternBinarize(layers=("conv2",)).apply(toy_candidate("plain"), toy_context())
    small = quantize(signs)
    assert isinstance(small.forms["conv2.weight"].values, Signs)
    assert torch.equal(small.net.conv2.weight, signs.net.conv2.weight)
    assert "conv2 stays float: its weights are signs times a scale: no integer kernel for those" in _notes(small)
    assert isinstance(small.forms["conv1.weight"].values, Affine)
    assert _facts(small)["floats"] == {"conv2:conv2d": "conv2d"}


def _notes(candidate):
    return candidate.history[-1].notes


def _facts(candidate):
    return candidate.history[-1].facts["integers"]


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bits": 3, "grain": "tensor", "biases": "affine", "activations": "float", "zero_point": "fitted"},
        {"bits": {"conv": 4, "default": 8}, "range": "mse", "equalise": "layers", "biases": "affine"},
    ],
    ids=["integers", "size", "mixed"],
)
def test_every_tensor_is_on_its_grid_to_the_bit_after_a_file(tmp_path, settings, trained):
    small = quantize(toy_candidate("plain"), **settings)
    if trained:
        small = fit(small, Training(epochs=1, **TRAINED), toy_context()).candidate
    (path := tmp_path / "a.press").write_bytes(contract.file_bytes(small, graph=False))
    back = store.load(path, into=toy_candidate("plain", seed=5).net)
    wanted = {"conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"}
    if "biases" in settings:
        wanted |= {name.replace("weight", "bias") for name in wanted}
    assert set(back.forms) == wanted
    for name, form in back.forms.items():
        w = back.net.get_parameter(name)
        assert isinstance(form.values, Affine)
        assert holds(form, w)
        levels = w.detach().double() / form.values.step.double()
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        low, high = form.values.levels
        assert low <= levels.round().min()
        assert levels.round().max() <= high
    assert [str(p) for p in grids(back.net)] == [str(p) for p in grids(small.net)]
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(back.net(x), small.net.eval()(x), rtol=0, atol=0)
    stored = {t.name: t.form for t in container.read(path).tensors}
    assert {stored[name] for name in wanted} == {"affine"}


def test_bits_by_layer_and_layers_that_the_table_leaves_out():
    small = quantize(toy_candidate("plain"), bits={"conv": 5, "fc2": 3})
    assert {row["path"]: row["bits"] for row in _facts(small)["layers"]} == {"conv1": 5, "conv2": 5, "fc2": 3}
    assert "fc1 stays float: quantize.bits does not name it" in _notes(small)
    assert "3 layers with 3 to 5-bit weights; activations UINT8 in 6 places" in _notes(small)
    frozen = quantize(toy_candidate("plain"), frozen=("fc*",))
    assert set(frozen.forms) == {"conv1.weight", "conv2.weight"}
    assert torch.equal(frozen.net.fc1.weight, toy_candidate("plain").net.fc1.weight)
    assert "fc2 stays float: frozen by 'fc*'" in _notes(frozen)


def test_the_function_is_kept_within_a_few_levels(able):
    x = (toy_data().test.images.float() / 255 - able.inputs.mean[0]) / able.inputs.std[0]
    small = quantize(able)
    with torch.no_grad():
        change = (small.net.eval()(x) - able.net.eval()(x)).abs().max() / able.net(x).abs().max()
    assert 0 < change < 0.05
    assert score(small).top1 == 1


def test_operators_without_an_integer_kernel_are_named():
    notes = _notes(quantize(toy_candidate("squeeze_excite")))
    assert "silu computes in floats: no integer kernel" in notes
    assert not [note for note in notes if note.startswith(("conv", "sigmoid"))]
    assert not [note for note in _notes(quantize(toy_candidate("residual"))) if "computes in floats" in note]


# --- the processor ---


@pytest.mark.parametrize(
    ("info", "kernels", "bits", "words"),
    [
        (VNNI, "auto", 8, "weights take up to 8 bits (avx512_vnni): products are added in 32 bits"),
        (OLD, "auto", 7, "weights take at most 7 bits (Slow has no VNNI or dot product): pairs of products are added"),
        (VNNI, "reduced", 7, "weights take at most 7 bits (as asked for): pairs of products are added in 16 bits"),
        (OLD, "full", 8, "weights take up to 8 bits (as asked for): products are added in 32 bits"),
    ],
)
def test_bits_for_this_processor(monkeypatch, info, kernels, bits, words):
    monkeypatch.setattr(processor, "_info", lambda: info)
    small = quantize(toy_candidate("plain"), kernels=kernels)
    assert {row["bits"] for row in _facts(small)["layers"]} == {bits}
    assert {form.values.bits for form in small.forms.values()} == {bits}
    assert _notes(small)[0].startswith(words)
    fewer = quantize(toy_candidate("plain"), kernels=kernels, bits=4)
    assert {form.values.bits for form in fewer.forms.values()} == {4}


def test_pairs_of_products_fit_16_bits_with_reduced_weights():
    assert 2 * 255 * 2 ** (REDUCED - 1) < 2**15 <= 2 * 255 * 2**REDUCED


def test_float_activations_need_no_kernel(monkeypatch):
    monkeypatch.setattr(processor, "_info", lambda: OLD)
    small = quantize(toy_candidate("plain"), kernels="auto", activations="float")
    assert {form.values.bits for form in small.forms.values()} == {8}
    assert not grids(small.net)
    assert small.traits == {"affine"}
    assert not [note for note in _notes(small) if "products" in note]


# --- training ---


@pytest.fixture(scope="module")
def half_trained():
    """A residual network whose loss still has room."""
    return fit(toy_candidate("residual"), Training(epochs=14, **TRAINED), toy_context()).candidate


@pytest.mark.parametrize(("bits", "lr", "share"), [(2, 0.01, 0.9), (3, 0.03, 0.6)])
def test_training_on_the_grid_takes_back_what_few_bits_cost(half_trained, bits, lr, share):
    small, train = quantize(half_trained, bits=bits), toy_data().train
    training = Training(epochs=8, lr=lr, batch=32)
    after = fit(small, training, toy_context()).candidate
    assert score(half_trained, train).loss < 0.8 * score(small, train).loss
    assert score(after, train).loss < share * score(small, train).loss
    for name, form in small.forms.items():
        now = after.forms[name]
        assert not torch.equal(form.values.step, now.values.step)
        assert holds(now, after.net.get_parameter(name))
    for place, made in grids(small.net).items():
        now = grids(after.net)[place]
        assert not torch.equal(made.scale, now.scale), place
        assert torch.equal(made.zero, now.zero)


def test_frozen_steps_stay():
    small = quantize(toy_candidate("residual"), bits=4, steps="frozen")
    after = fit(small, Training(epochs=1, **TRAINED), toy_context()).candidate
    for name, form in small.forms.items():
        assert torch.equal(form.values.step, after.forms[name].values.step)
        assert not torch.equal(small.net.get_parameter(name), after.net.get_parameter(name))
    for place, made in grids(small.net).items():
        assert torch.equal(made.scale, grids(after.net)[place].scale)


def test_biases_lie_between_no_two_sums_of_products_after_training():
    small = quantize(toy_candidate("plain"))
    after = fit(small, Training(epochs=1, lr=1e-3, batch=32, optimizer="sgd"), toy_context()).candidate
    for made in (small, after):
        first = next(iter(grids(made.net).values()))
        unit = (first.scale * made.forms["conv1.weight"].values.step.flatten()).detach()
        levels = made.net.conv1.bias.detach() / unit
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-2)
    assert not torch.equal(small.net.conv1.bias, after.net.conv1.bias)


# --- the gate ---


@pytest.fixture(scope="module")
def touchy(able):
    """The same with a weight that nothing reaches, but that spoils the one step of its layer."""
    net = deepcopy(able.net)
    with torch.no_grad():
        net.conv2.weight[0], net.conv2.bias[0] = 0, -1  # the channel is zero behind its ReLU
        net.fc1.weight[0, 0] = 1e5
    return able.but(net=net)


def test_the_gate_keeps_the_layer_that_costs_most(touchy):
    first = score(touchy).top1
    lost = quantize(touchy, grain="tensor")
    assert first - score(lost).top1 > 0.2
    small = quantize(touchy, grain="tensor", max_drop=1.0)
    assert first - score(small).top1 <= 0.01
    assert set(small.forms) == {"conv1.weight", "conv2.weight", "fc2.weight"}
    assert torch.equal(small.net.fc1.weight, touchy.net.fc1.weight)
    (reason,) = [note for note in _notes(small) if note.startswith("fc1 stays float: alone it adds +")]
    points = 100 * (first - score(lost).top1)
    assert reason.endswith(f"all layers in integers lost {points:.2f} points, the gate allows 1")
    assert set(_facts(small)["kept"]) == {"fc1"}


def test_a_gate_that_holds_keeps_nothing(able):
    small, free = quantize(able, max_drop=1.0), quantize(able)
    assert _facts(small)["kept"] == {}
    assert contract.state(small.net) == contract.state(free.net)


def test_a_gate_that_no_layer_passes_gives_floats_back(touchy):
    class Rounds(torch.nn.Module):
        """Its only layer spoils all, and an average pool without it would be rounded for nothing."""

        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(16, 4, bias=False)

        def forward(self, x):
            return self.head(F.avg_pool2d(x, 2).flatten(1))

    net = Rounds()
    with torch.no_grad():
        net.head.weight.zero_()
        for quarter in range(4):
            row, column = divmod(quarter, 2)
            net.head.weight[quarter].view(4, 4)[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1e-3
        net.head.weight[:, 0] += 100.0  # the same for all classes
    before = touchy.but(net=net)
    assert score(before).top1 == 1
    small = quantize(before, grain="tensor", max_drop=0.0)
    assert (small.forms, grids(small.net), small.traits) == ({}, {}, set())
    assert torch.equal(small.net.head.weight, net.head.weight)
    assert "0 layers with no-bit weights; activations UINT8 in 0 places" in _notes(small)


# --- what does not fit ---


def _bad_weight(net):
    with torch.no_grad():
        net.conv1.weight[0, 0, 0, 0] = float("nan")


def _weight_norm(net):
    torch.nn.utils.parametrizations.weight_norm(net.conv2)


@pytest.mark.parametrize(
    ("spoil", "settings", "without", "error", "words"),
    [
        (None, {}, {"train": None}, RecipeError, "quantize.samples needs images: give train = ..."),
        (None, {"max_drop": 1}, {"validation": None}, RecipeError, "quantize.max_drop is decided on validation images"),
        (_bad_weight, {}, {}, ModelError, "conv1.weight holds NaN or an infinity: it has no grid"),
        (_weight_norm, {}, {}, ModelError, "conv2.weight is computed by a parametrization: remove that before"),
        (None, {"frozen": ("conv9",)}, {}, RecipeError, "quantize.frozen: 'conv9' names no layer; expected one of con"),
        (None, {"bits": {"conv9": 4}}, {}, RecipeError, "quantize.bits: 'conv9' names no layer; expected conv, linear"),
    ],
)
def test_what_cannot_be_quantized(spoil, settings, without, error, words):
    before = toy_candidate("plain")
    if spoil is not None:
        spoil(before.net)
    with pytest.raises(error) as caught:
        quantize(before, replace(toy_context(), **without), **settings)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_quantizing_twice():
    small = quantize(toy_candidate("plain"))
    with pytest.raises(ModelError, match=r"^the network's activations are integers already: quantize the network as"):
        quantize(small)
    sizes = quantize(toy_candidate("plain"), bits=4, activations="float")
    again = quantize(sizes)  # weights keep their grid, activations get theirs
    assert {form.values.bits for form in again.forms.values()} == {4}
    assert again.traits == {"affine", "rounded"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 1}, "bits"),
        ({"bits": 9}, "bits"),
        ({"bits": {"conv": 9}}, "bits"),
        ({"range": "widest"}, "range"),
        ({"zero_point": "fitted"}, '"fitted" is for size only: with grain = "tensor" and activations = "float"'),
        ({"zero_point": "fitted", "grain": "tensor"}, '"fitted" is for size only'),
        ({"max_drop": -1}, "max_drop"),
        ({"percentile": 40}, "percentile"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_settings_that_recipes_refuse(settings, words):
    with pytest.raises(RecipeError) as caught:
        parse({"step": [{"method": "quantize", **settings}]})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("kind", ["minmax", "percentile", "mse"])
def test_activations_that_are_always_the_same(kind):
    before = toy_candidate("plain")
    with torch.no_grad():
        before.net.norm.weight.zero_()
        before.net.norm.bias.zero_()
        before.net.conv2.bias.fill_(0.5)
    small = quantize(before, activation_range=kind)
    assert "relu is always 0 on the calibration images: its grid is of steps of 1" in _notes(small)
    wanted = score(before).loss
    assert score(small).loss == pytest.approx(wanted, rel=0.02)
    after = fit(small, Training(epochs=1, **TRAINED), toy_context()).candidate
    assert torch.isfinite(torch.tensor(score(after).loss))


def test_batch_norms_are_folded_first():
    before = toy_candidate("residual")
    small = quantize(before)
    folded = FoldBatchNorm().apply(before, toy_context())
    assert "folded 2 of 2 batch norms" in _notes(small)
    own = {n: t.shape for n, t in small.net.state_dict().items() if not n.startswith("round")}
    assert own == {n: t.shape for n, t in folded.net.state_dict().items()}
    for target in targets(folded.net):
        form, w = small.forms[target.name], folded.net.get_parameter(target.name)
        off = (small.net.get_parameter(target.name) - w).abs()
        assert bool((off <= form.values.step * 0.5001).all())
