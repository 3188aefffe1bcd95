"""Folding batch norm: the same function, the right pairs, the file rebuilds it, forms hold, refusals."""

import pytest
import torch
from contract import facts, one_thread, raw  # noqa: F401
from folding import candidate_of, fold, norms_of, notes, relative, shaken
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import netpress as nxp
from netpress import arch, recipe
from netpress.candidate import Candidate, Context, Inputs
from netpress.errors import ModelError, RecipeError
from netpress.forms import Form, holds
from netpress.methods import FoldBatchNorm, WeightPrune, WeightShare
from netpress.methods import folding as module
from netpress.runtime import Session

# --- the arithmetic ---


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_convolution_and_norm_compute_the_same_folded(data):
    dims, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    transposed, bias, affine = (data.draw(st.booleans()) for _ in range(3))
    c_in, c_out = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 3))
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    layer = kind(
        c_in, c_out, data.draw(st.integers(1, 3)), groups=groups, bias=bias, stride=data.draw(st.integers(1, 2))
    )
    norm = getattr(nn, f"BatchNorm{dims}d")(c_out, affine=affine, eps=data.draw(st.sampled_from([1e-5, 0.1])))
    shape = (c_in, *[5] * dims)
    before = candidate_of(nn.Sequential(layer, norm).double(), shape)
    after = fold(before)
    assert norms_of(after.net) == []
    assert after.net[0].bias is not None
    assert relative(before.net, after.net, shape) < 1e-12


def test_linear_layers_and_the_formula():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    before = candidate_of(net.double(), (6,))
    after = fold(before)
    norm, old, new = before.net[2], before.net[1], after.net[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(new.weight, old.weight * scale[:, None], rtol=1e-12)
    assert torch.allclose(new.bias, norm.bias - norm.running_mean * scale, rtol=1e-12)
    assert torch.equal(after.net[4].weight, before.net[4].weight)
    assert after.arch.edits == (("bias", "1"), ("identity", "2"))


def test_the_result_is_rounded_once_from_float64():
    layer, norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
    after = fold(candidate_of(nn.Sequential(layer, norm), (2, 8, 8)))
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    exact = layer.weight.double() * scale[:, None, None, None]
    assert after.net[0].weight.dtype == torch.float32
    assert ((after.net[0].weight.double() - exact).abs() <= exact.abs() * 2.0**-24 * (1 + 1e-6)).all()


def test_half_precision_and_memory_layout_are_kept():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    before = candidate_of(net.bfloat16(), (3, 6, 6))
    before.net[0].weight.requires_grad_(False)
    after = fold(before)
    assert {p.dtype for p in after.net.parameters()} == {torch.bfloat16}
    assert after.net[0].weight.stride() == before.net[0].weight.stride()
    assert not after.net[0].bias.requires_grad


def test_frozen_layers_stay():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    before = candidate_of(net, (1, 8, 8))
    assert norms_of(fold(before, "0").net) == ["1"]
    assert norms_of(fold(before, "3").net) == ["3"]
    after = fold(before, "*")
    assert norms_of(after.net) == ["1", "3"]
    assert notes(after)[1:] == ("1 stays: frozen by '*'", "3 stays: frozen by '*'")
    with pytest.raises(RecipeError, match=r"frozen: 'conv9' names no layer; expected one of 0, 1, 2, 3"):
        fold(before, "conv9")


# --- real networks, files ---

NETWORKS = [
    ("cifar-resnet20", 19, 0),
    ("cifar-densenet-bc-100", 48, 51),  # norm before convolution
    ("torchvision:resnet18", 20, 0),
    ("torchvision:shufflenet_v2_x0_5", 56, 0),
    ("timm:resnet50", 53, 0),
    ("timm:efficientnet_b0", 49, 0),  # BatchNormAct2d: norm and activation in one module
    ("timm:tf_mobilenetv3_small_minimal_100", 34, 0),  # convolutions of timm's own class
]


@pytest.mark.parametrize(("name", "gone", "left"), NETWORKS, ids=[n[0] for n in NETWORKS])
def test_networks_of_libraries_compute_the_same(name, gone, left):
    shape = (3, 32, 32)
    named = arch.open_network(name)
    before = candidate_of(named.net, shape, arch=named.arch)
    after = fold(before)
    assert notes(after)[0] == f"folded {gone} of {gone + left} batch norms"
    assert len(norms_of(after.net)) == left
    assert relative(before.net, after.net, shape) < 1e-4
    again = arch.build(after.arch)
    assert str(again) == str(after.net)
    assert list(again.state_dict()) == list(after.net.state_dict())


@pytest.mark.parametrize("name", ["mlperf-tiny-resnet8", "timm:test_efficientnet"])
def test_folded_networks_are_saved_loaded_and_run(name, tmp_path):
    named = arch.open_network(name)
    before = candidate_of(named.net, (3, 32, 32), arch=named.arch)
    after = fold(before)
    nxp.save(before, tmp_path / "before.press")
    saved = nxp.save(after, tmp_path / "after.press")
    assert saved.note == ""
    assert saved.file_bytes < (tmp_path / "before.press").stat().st_size
    back = nxp.load(tmp_path / "after.press")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(back.net(x), after.net.eval()(x))
    answers = torch.from_numpy(Session(tmp_path / "after.press", threads=1).run(x.numpy()))
    assert torch.allclose(answers, before.net(x), rtol=1e-3, atol=1e-4)


def test_the_users_own_network_is_edited_and_only_once(tmp_path):
    def make():
        return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten())

    after = nxp.apply(FoldBatchNorm(), shaken(make()), example=torch.zeros(1, 1, 8, 8))
    nxp.save(after, tmp_path / "a.press")
    back = nxp.load(tmp_path / "a.press", into=make())
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(back.net(x), after.net(x))
    with pytest.raises(ModelError, match=r"'bias' does not fit '0'.*has a bias already; give the network as it was"):
        nxp.load(tmp_path / "a.press", into=back.net)
    with pytest.raises(ModelError, match="expected a batch norm, got ReLU"):
        arch.edit(make(), "identity", "2")
    with pytest.raises(ModelError, match="expected a convolution or a linear layer, got ReLU"):
        arch.edit(make(), "bias", "2")


def test_what_a_norm_holds_behind_it_stays():
    class Act(nn.BatchNorm2d):
        def __init__(self, *behind):
            super().__init__(2)
            self.drop, self.act = behind

    kept = []
    for behind in ((nn.Identity(), nn.Identity()), (nn.Identity(), nn.SiLU()), (nn.Dropout(), nn.SiLU())):
        net = nn.Sequential(Act(*behind))
        arch.edit(net, "identity", "0")
        kept.append([type(m).__name__ for m in net[0].modules()])
    assert kept == [["Identity"], ["SiLU"], ["Sequential", "Dropout", "SiLU"]]


def test_on_shapes_alone():
    with torch.device("meta"):
        named = arch.open_network("resnet18")
    after = FoldBatchNorm().apply(
        Candidate(named.net, arch=named.arch, inputs=Inputs((3, 64, 64))), Context(example=torch.zeros(1, 3, 64, 64))
    )
    assert norms_of(after.net) == []
    assert notes(after)[1] == "on meta: not checked"
    assert all(p.is_meta for p in after.net.parameters())


# --- forms ---


def test_zeros_stay_plus_zero():
    before = nxp.apply(
        WeightPrune(sparsity=0.5),
        shaken(nn.Sequential(nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6))),
        example=torch.zeros(1, 2, 8, 8),
    )
    assert (before.net[1].weight < 0).any()  # a negative scale makes -0.0 of a zero
    after = fold(before)
    assert set(after.forms) == {"0.weight"}
    assert holds(after.forms["0.weight"], after.net[0].weight)
    outside = after.net[0].weight[~after.forms["0.weight"].support]
    assert raw(outside) == bytes(4 * outside.numel())


@pytest.mark.parametrize("name", ["0.bias", "1.weight", "1.bias"])
def test_a_form_that_folding_would_not_keep_keeps_its_norm(name):
    net = shaken(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)))
    support = torch.tensor([True, False, True])
    with torch.no_grad():
        net.get_parameter(name)[1] = 0
    after = fold(Candidate(net, {name: Form(support=support)}, inputs=Inputs((2, 8, 8))))
    assert norms_of(after.net) == ["1"]
    assert name in notes(after)[1]
    assert holds(after.forms[name], after.net.get_parameter(name))


def test_sharing_before_folding_is_refused():
    steps = [{"method": "weight_share", "bits": 4}, {"method": "fold_batch_norm"}]
    with pytest.raises(RecipeError, match=r"step\[1\] \(fold_batch_norm\) would break the 'shared' form"):
        recipe.parse({"step": steps})
    assert len(recipe.parse({"step": steps[::-1]}).step) == 2
    net = shaken(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)))
    shared = nxp.apply(WeightShare(bits=2), net, example=torch.zeros(1, 2, 8, 8))
    with pytest.raises(ModelError, match=r"0 shares its weights' values.*fold before sharing"):
        fold(shared)
    assert norms_of(fold(shared, "1").net) == ["1"]


# --- the check ---


def test_a_wrong_fold_is_found_and_the_argument_stays(monkeypatch):
    before = candidate_of(nn.Sequential(nn.ConvTranspose2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)), (2, 5, 5))
    earlier = facts(before)
    fold(before)
    # a transposed convolution's groups lie along the input axis: whoever forgets that is found out
    monkeypatch.setattr(module, "scaled", lambda _layer, w, s: w * s[: w.shape[1]].view(1, -1, 1, 1))
    with pytest.raises(ModelError, match=r"the folded network differs by .* \(relative, float64\)"):
        fold(before)
    assert facts(before) == earlier


class Sly(nn.Module):
    """Calls a module that the network does not know of."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.hidden = [self.norm]

    def forward(self, x):
        return self.hidden[0](self.conv(x))


def test_a_norm_that_cannot_be_taken_out_is_an_error():
    with pytest.raises(ModelError, match="in a way that one run does not show; freeze those that it does"):
        fold(candidate_of(Sly(), (1, 8, 8)))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda net: net[1].running_var.fill_(-1.0), "differs by nan"),
        (lambda net: net[1].running_mean.fill_(torch.nan), "1.running_mean holds NaN"),
        (lambda net: weight_norm(net[0]), "0.weight is computed by a parametrization"),
    ],
)
def test_broken_networks_are_refused(break_it, said):
    before = candidate_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), (1, 8, 8))
    break_it(before.net)
    with pytest.raises(ModelError, match=said):
        fold(before)


def test_an_image_that_does_not_pass_is_one_line():
    before = candidate_of(nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)), (1, 8, 8))
    with pytest.raises(ModelError, match=r"an image of shape \(1, 8, 8\) does not pass Sequential: .*"):
        fold(before)
