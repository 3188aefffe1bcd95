"""Batch norms that no layer can take: scale and shift, exact or in half precision; files, runtime, later steps."""

import contract
import pytest
import torch
import toy_nets
from contract import one_thread, raw  # noqa: F401
from folding import candidate_of, norms_of, notes, relative, shaken
from torch import nn

import netpress as nxp
from netpress import arch, recipe
from netpress.candidate import Candidate, Context, Inputs
from netpress.errors import ModelError, RecipeError
from netpress.factor.scaling import ScaleShift
from netpress.forms import Form
from netpress.measure import cost
from netpress.methods import FilterPrune, FoldBatchNorm, Quantize, RateTrain
from netpress.methods import merging as module
from netpress.runtime import Session

SHAPE = (2, 8, 8)


def pre_activation():
    """A norm that can be folded, one before an activation that cannot."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten()
    )


def fold(candidate, rest, *frozen):
    context = Context(example=torch.zeros(1, *candidate.inputs.shape))
    return FoldBatchNorm(frozen=frozen, rest=rest).apply(candidate, context)


def merged_of(net):
    return [path for path, m in net.named_modules() if isinstance(m, ScaleShift)]


@pytest.mark.parametrize(("rest", "least", "most"), [("merge", 0, 1e-5), ("half", 1e-6, 2e-3)])
def test_what_is_merged_computes_the_same(rest, least, most):
    before = candidate_of(pre_activation(), SHAPE)
    after = fold(before, rest)
    assert norms_of(after.net) == []
    assert merged_of(after.net) == ["3"]
    assert least <= relative(before.net, after.net, SHAPE) < most
    assert after.arch.edits == (("identity", "1"), ("scaled", "3", int(rest == "merge")))
    assert notes(after)[0] == "folded 1 of 2 batch norms"
    assert notes(after)[2].startswith(f"merged 1 batch norms to scale and shift in {'half' if least else 'single'}")
    assert norms_of(before.net) == ["1", "3"]


def test_the_formula_and_the_rounding():
    before = candidate_of(pre_activation(), SHAPE)
    norm = before.net[3]
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    whole, half = fold(before, "merge").net[3], fold(before, "half").net[3]
    assert torch.equal(whole.scale, scale.float())
    assert torch.equal(whole.shift, shift.float())
    assert torch.equal(half.scale, scale.half().float())
    assert torch.equal(half.shift, shift.half().float())
    assert isinstance(whole.scale, nn.Parameter)
    assert not list(half.parameters())


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_norms_of_any_kind(dims, affine):
    shape = (3, *[5] * dims)
    net = nn.Sequential(
        nn.ReLU(), getattr(nn, f"BatchNorm{dims}d")(3, affine=affine), getattr(nn, f"Conv{dims}d")(3, 2, 3)
    )
    before = candidate_of(net.double(), shape)
    after = fold(before, "merge")
    assert merged_of(after.net) == ["1"]
    assert relative(before.net, after.net, shape) < 1e-12


def test_low_precision_is_kept():
    before = candidate_of(pre_activation().bfloat16(), SHAPE)
    after = fold(before, "half")
    assert after.net[3].scale.dtype == torch.bfloat16
    assert relative(before.net, after.net, SHAPE) < 0.1
    with torch.autocast("cpu", torch.bfloat16):
        fold(candidate_of(pre_activation(), SHAPE), "half").net(torch.randn(2, *SHAPE))


def test_what_half_precision_does_not_hold_stays():
    net = pre_activation()
    before = candidate_of(net, SHAPE)
    for change, reason in [
        (lambda norm: norm.bias.fill_(7e4), "3 stays: its shift reaches 7.0e+04: half precision ends at 65,504"),
        (lambda norm: norm.weight.fill_(2e5), "3 stays: its scale reaches"),
        (lambda norm: norm.running_var.fill_(1e16), "3 stays: its scale of "),
    ]:
        case = before.but(net=contract.deepcopy(before.net))
        with torch.no_grad():
            change(case.net[3])
        after = fold(case, "half")
        assert norms_of(after.net) == ["3"]
        assert notes(after)[-1].startswith(reason)
        assert merged_of(fold(case, "merge").net) == ["3"]


def test_a_channel_that_is_nearly_off_may_vanish():
    before = candidate_of(pre_activation(), SHAPE)
    with torch.no_grad():
        before.net[3].weight[2] = 1e-9
    after = fold(before, "half")
    assert after.net[3].scale[2] == 0
    assert relative(before.net, after.net, SHAPE) < 2e-3


def test_those_that_stay_and_why():
    class Other(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    norm = nn.BatchNorm2d(6)
    bare, relu = nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()
    start = (nn.Conv2d(2, 6, 1), relu, norm, relu, Other(6), bare, relu)
    net = nn.Sequential(*start, norm, relu, nn.BatchNorm2d(6), relu, nn.BatchNorm2d(6))
    formed = Form(support=torch.ones(6, dtype=torch.bool))
    before = Candidate(shaken(net), {"9.weight": formed}, inputs=Inputs(SHAPE))
    assert [note.split(": ", 1) for note in notes(fold(before, "half", "11"))[1:]] == [
        ["2 stays", "the network holds it under several names"],
        ["4 stays", "Other may do more than normalise"],
        ["5 stays", "it has no running statistics"],
        ["9 stays", "its weight has a form, which merging would not keep"],
        ["11 stays", "frozen by '11'"],
    ]


def test_a_wrong_merge_is_found(monkeypatch):
    before = candidate_of(pre_activation(), SHAPE)
    right = module.scale_and_shift
    monkeypatch.setattr(module, "scale_and_shift", lambda norm: (right(norm)[0], -right(norm)[1]))
    with pytest.raises(ModelError, match=r"the merged network differs by .* \(relative, float64\)"):
        fold(before, "half")


def test_what_a_norm_holds_behind_it_stays():
    class Act(nn.BatchNorm2d):
        def __init__(self):
            super().__init__(2)
            self.drop, self.act = nn.Identity(), nn.SiLU()

    net = nn.Sequential(Act(), nn.BatchNorm2d(2, affine=False))
    arch.edit(net, "scaled", "0", 0)
    arch.edit(net, "scaled", "1", 1)
    assert [type(m).__name__ for m in net[0]] == ["ScaleShift", "SiLU"]
    assert all(p.requires_grad for p in net[1].parameters())
    for path, numbers, said in [("0.1", (1,), "expected a batch norm"), ("1", (2,), "expected"), ("1", (), "missing")]:
        with pytest.raises(ModelError, match=said):
            arch.edit(net, "scaled", path, *numbers)


# --- files, the runtime, later steps ---


@pytest.fixture(scope="module")
def dense():
    named = arch.open_network("condensenet-86", {"stages": (2, 2, 2)})
    return Candidate(shaken(named.net), arch=named.arch, inputs=Inputs((3, 32, 32)))


def test_files_are_small_and_run(dense, tmp_path):
    after = fold(dense, "half")
    assert norms_of(after.net) == []
    saved = nxp.save(after, tmp_path / "a.press")
    assert saved.note == ""
    bytes_each = {sum(saved.parts[f"{p}.{n}"].values()) for p in merged_of(after.net) for n in ("scale", "shift")}
    assert bytes_each == {2 * after.net.get_submodule(p).scale.numel() for p in merged_of(after.net)}
    assert saved.file_bytes < nxp.save(dense, tmp_path / "b.press").file_bytes
    back = nxp.load(tmp_path / "a.press")
    assert str(back.net) == str(after.net)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(back.net(x), after.net.eval()(x))
    session = Session(tmp_path / "a.press", threads=1)
    assert torch.allclose(torch.from_numpy(session.run(x.numpy())), after.net(x), rtol=1e-3, atol=1e-4)
    assert cost(after.net, (3, 32, 32)).macs == cost(dense.net, (3, 32, 32)).macs


def test_filters_are_pruned_behind_it():
    before = candidate_of(pre_activation(), SHAPE)
    half = fold(before, "half")
    pruned = FilterPrune(keep=0.5).apply(half, Context(example=torch.zeros(1, *SHAPE)))
    assert pruned.net[3].scale.shape == (3,)
    assert str(arch.build(pruned.arch, into=pre_activation())) == str(pruned.net)


class PreActivation(nn.Module):
    """A toy network with a norm that no layer can take."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, toy_nets.CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm(torch.relu(self.conv1(x))))
        return self.head(torch.relu(self.conv2(x)).mean((2, 3)))


METHODS = (
    FoldBatchNorm(rest="merge"),
    FoldBatchNorm(rest="half"),
    Quantize(kernels="reduced", samples=64, norms="half"),
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check, method, monkeypatch):
    monkeypatch.setitem(toy_nets.KINDS, "pre_activation", PreActivation)
    check(method, "pre_activation")


def test_a_recipe_folds_then_quantizes(monkeypatch):
    monkeypatch.setitem(toy_nets.KINDS, "pre_activation", PreActivation)
    steps = [{"method": "fold_batch_norm", "rest": "half"}, {"method": "quantize", "kernels": "reduced"}]
    end = toy_nets.toy_candidate("pre_activation")
    for step in recipe.parse({"step": steps}).steps():
        made = step.method.apply(end, toy_nets.toy_context(step=step.number))
        end = contract.trained_our_way(made, "sgd", epochs=1)
        assert raw(end.net.norm.scale) == raw(end.net.norm.scale.half().float())
    at_once = Quantize(kernels="reduced", norms="half").apply(
        toy_nets.toy_candidate("pre_activation"), toy_nets.toy_context(step=2)
    )
    assert raw(at_once.net.norm.scale) == raw(end.net.norm.scale)
    with pytest.raises(RecipeError, match="would break the 'rounded' form"):
        recipe.parse({"step": steps[::-1]})


def test_a_norm_behind_integers_is_merged_with_rest_and_refused_without():
    fresh = RateTrain(norms="float", biases="float").apply(toy_nets.toy_candidate("plain"), toy_nets.toy_context())
    assert "affine" in fresh.traits
    made = FoldBatchNorm(rest="half").apply(fresh, toy_nets.toy_context())
    assert raw(made.net.norm.scale) == raw(made.net.norm.scale.half().float())
    assert raw(made.net.conv1.weight) == raw(fresh.net.conv1.weight)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(made.net.eval()(x), fresh.net.eval()(x), atol=5e-3, rtol=5e-3)
    with pytest.raises(ModelError, match="has weights on an integer grid"):
        FoldBatchNorm().apply(fresh, toy_nets.toy_context())
