"""Low rank on networks: exact where it can be, within budgets, honest about what stays; bad input in one line."""

import math
from dataclasses import replace

import pytest
import torch
import toy_nets
from contract import one_thread  # noqa: F401
from torch import nn

import netpress as nxp
from netpress.arch import open_network
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.errors import BudgetError, DataError, ModelError, RecipeError
from netpress.measure import cost
from netpress.methods import FilterPrune, LowRank, Substitute, WeightPrune, WeightShare, apply
from netpress.methods.rank_sites import _largest, _least
from netpress.recipe import parse
from netpress.runtime import Session

KINDS = ("svd", "spatial_svd", "cp", "tucker2")


def lenet(seed=0):
    torch.manual_seed(seed)
    return nxp.zoo.create("lenet5").eval()


def images(seed=0):
    return torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def facts(candidate):
    return {row["path"]: row for row in candidate.history[-1].facts["layers"]}


# --- exact where it can be ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("toy", toy_nets.KINDS)
def test_full_rank_computes_the_same_and_the_modules_really_change(kind, toy):
    before = toy_nets.toy_candidate(toy)
    method = LowRank(kind=kind, energy=1.0, when="always", recalibrate=0)
    small = method.apply(before, toy_nets.toy_context())
    x = torch.rand(8, *before.inputs.shape, generator=torch.Generator().manual_seed(1))
    expected, got = before.net.eval()(x), small.net.eval()(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    changed = [path for path, row in facts(small).items() if row["operation"]]
    assert changed
    for path in changed:
        assert type(small.net.get_submodule(path)) is nn.Sequential
        assert facts(small)[path]["error"] < 1e-6


def test_at_full_rank_nothing_is_saved_and_by_default_all_is_left_alone():
    small = apply(LowRank(energy=1.0), lenet(), example=images())
    assert str(small.net) == str(lenet())
    assert all("no saving" in row["reason"] for row in facts(small).values())
    assert small.arch.edits == ()


def test_the_error_is_that_of_eckart_and_young():
    net = lenet()
    small = apply(LowRank(rank={"fc1": 20}), net, example=images())
    values = torch.linalg.svdvals(net.fc1.weight.double())
    expected = (values[20:].square().sum() / values.square().sum()).sqrt().item()
    assert facts(small)["fc1"]["error"] == pytest.approx(expected, rel=1e-5)
    assert facts(small)["conv1"]["reason"] == "low_rank.rank has no value for it"


def test_energy_keeps_what_it_says_with_the_least_rank():
    net = lenet()
    small = apply(LowRank(energy=0.7, when="always"), net, example=images())
    for path, row in facts(small).items():
        values = torch.linalg.svdvals(net.get_submodule(path).weight.flatten(1).double()).square()
        kept = values.cumsum(0) / values.sum()
        (rank,) = row["numbers"]
        assert kept[rank - 1] >= 0.7
        assert rank == 1 or kept[rank - 2] < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_keep_bounds_each_layers_multiply_adds(kind):
    small = apply(LowRank(kind=kind, keep=0.4), lenet(), example=images())
    assert len(facts(small)) == 4
    for path, row in facts(small).items():
        if row["operation"] and row["numbers"][0] > 1:
            assert row["macs"][1] <= 0.4 * row["macs"][0], path
    measured = {layer.path: layer.macs for layer in cost(small.net, (1, 28, 28)).layers}
    for path, row in facts(small).items():
        inside = sum(macs for name, macs in measured.items() if name == path or name.startswith(f"{path}."))
        assert inside == row["macs"][1]


def test_ranks_are_multiples_where_they_can_be():
    small = apply(LowRank(kind="tucker2", max_macs="50%", round_to=8), lenet(), example=images())
    numbers = [n for row in facts(small).values() for n in row["numbers"]]
    assert numbers
    full = {1, 10, 20}  # one input, ten classes, conv1's twenty filters: there are no eights below or at the end
    assert all(n % 8 == 0 or n in full for n in numbers)


def test_variational_bayes_finds_planted_ranks():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.Flatten(), nn.Linear(48 * 16, 10))
    with torch.no_grad():
        core = torch.randn(6, 4, 3, 3)
        kernel = torch.einsum("srkl,ri,os->oikl", core, torch.randn(4, 32), torch.randn(48, 6))
        net[0].weight.copy_(kernel + 0.01 * kernel.std() * torch.randn_like(kernel))
    small = apply(LowRank(kind="tucker2", rank="vbmf", layers=("0",)), net, example=torch.zeros(1, 32, 4, 4))
    assert facts(small)["0"]["numbers"] == [4, 6]


def test_bayes_that_sees_only_noise_leaves_the_layer_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(200, 100))
    with torch.no_grad():
        net[1].weight.normal_()
    small = apply(LowRank(rank="vbmf"), net, example=torch.zeros(1, 200))
    assert facts(small)["1"]["reason"] == "variational Bayes takes all of it for noise"


# --- budgets ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("limit", "unit"), [("max_macs", "macs"), ("max_params", "params")])
def test_budgets_are_met_from_below(kind, limit, unit):
    net = lenet()
    whole, spent = (
        getattr(cost(n, (1, 28, 28)), unit)
        for n in (net, apply(LowRank(kind=kind, **{limit: "50%"}), net, example=images()).net)
    )
    assert 0.4 * whole <= spent <= 0.5 * whole


def test_a_size_is_the_size_of_the_file(tmp_path):
    net = lenet()
    small = apply(LowRank(max_size="700kB", layers=("fc1",)), net, example=images())
    nxp.save(small, tmp_path / "small.press")
    assert 0.9 * 700_000 <= (tmp_path / "small.press").stat().st_size <= 700_000


def test_a_budget_out_of_reach_says_the_nearest():
    with pytest.raises(BudgetError, match=r"low_rank: max_macs = 1%: .* the nearest that can be reached is [\d,]+ of"):
        apply(LowRank(max_macs="1%"), lenet(), example=images())
    with pytest.raises(BudgetError, match=r"max_size = 1kB"):
        apply(LowRank(max_size="1kB"), lenet(), example=images())


def test_a_scan_decides_and_is_remembered(tmp_path):
    before, context = toy_nets.toy_candidate("plain"), replace(toy_nets.toy_context(), scratch=tmp_path)
    method = LowRank(max_macs="60%", allocation="scan", scan_samples=32)
    first = method.apply(before, context)
    rows = first.history[-1].facts["sensitivity"]
    assert {row["path"] for row in rows} == {"conv1", "conv2", "fc1", "fc2"}
    assert all(0 <= row["top1"] <= 1 for row in rows)
    written = (tmp_path / "sensitivity.jsonl").read_bytes()
    second = method.apply(before, context)
    assert (tmp_path / "sensitivity.jsonl").read_bytes() == written
    assert second.history[-1].facts == first.history[-1].facts


# --- fitted to outputs ---


def seen():
    """The calibration images as the toy networks see them."""
    data = toy_nets.toy_data()
    return (data.train.images[:64].float() / 255 - data.mean[0]) / data.std[0]


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_to_outputs_the_outputs_are_nearer(kind):
    """On inputs that lie near a few directions, the same ranks keep much more of the outputs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.Flatten(), nn.Linear(24 * 4, 4))
    data, x = toy_nets.toy_data(), seen()
    inputs = Inputs(data.shape, data.mean, data.std)
    with torch.no_grad():
        hidden = torch.relu(net[0](x))
        wanted = net[2](hidden)
    errors = {}
    for objective in ("weights", "outputs", "asymmetric"):
        method = LowRank(kind=kind, keep=0.3, layers=("2",), objective=objective, samples=64)
        small = apply(method, net, example=x[:1], inputs=inputs, train=data.train)
        with torch.no_grad():
            errors[objective] = ((small.net[2](hidden) - wanted).norm() / wanted.norm()).item()
        if objective != "weights":
            assert facts(small)["2"]["output_error"] == pytest.approx(errors[objective], rel=0.2)
    assert errors["outputs"] < 0.9 * errors["weights"]
    assert errors["asymmetric"] == pytest.approx(errors["outputs"], rel=0.05)  # nothing before it was replaced


def test_asymmetric_reconstruction_takes_back_what_earlier_layers_lost():
    before, context = toy_nets.toy_candidate("plain"), toy_nets.toy_context()
    lost = {}
    for objective in ("outputs", "asymmetric"):
        method = LowRank(kind="tucker2", keep=0.5, layers=("conv*",), objective=objective, samples=96, recalibrate=0)
        small = method.apply(before, context)
        with torch.no_grad():
            lost[objective] = (small.net.eval()(seen()) - before.net.eval()(seen())).norm().item()
    assert lost["asymmetric"] < lost["outputs"]


def test_singular_moments_are_regularised_and_said():
    before = toy_nets.toy_candidate("plain")
    small = LowRank(keep=0.5, objective="outputs", samples=2).apply(before, toy_nets.toy_context())
    assert any("fc1: its inputs' second moment is singular" in note for note in small.history[-1].notes)
    assert all(torch.isfinite(p).all() for p in small.net.parameters())


# --- degeneracy ---


def bordering():
    """A kernel of border rank two and rank three: the best rank two does not exist."""
    a, b = torch.eye(2)
    terms = [(b, a, a), (a, b, a), (a, a, b)]
    return sum(torch.einsum("o,i,h->oih", *t) for t in terms)[..., None].expand(2, 2, 2, 1).contiguous()


@pytest.mark.parametrize(("fallback", "operation"), [("none", "cp"), ("svd", "svd"), ("spatial_svd", "spatial_svd")])
def test_degenerate_terms_are_named_and_replaced_as_told(fallback, operation):
    net = nn.Sequential(nn.Conv2d(2, 2, (2, 1)))
    with torch.no_grad():
        net[0].weight.copy_(bordering())
    method = LowRank(kind="cp", rank=2, when="always", fallback=fallback)
    small = apply(method, net, example=torch.zeros(1, 2, 6, 6))
    assert any("degenerate" in note for note in small.history[-1].notes)
    assert facts(small)["0"]["operation"] == operation
    assert max(p.abs().max().item() for p in small.net.parameters()) < 20


# --- files, chains ---


def test_the_file_loads_without_the_network_and_runs_without_torch(tmp_path):
    small = LowRank(kind="tucker2", max_macs="40%").apply(zoo_candidate(), lenet_context())
    nxp.save(small, path := tmp_path / "small.press")
    x = images()
    expected = small.net.eval()(x)
    torch.testing.assert_close(nxp.load(path).net.eval()(x), expected, rtol=0, atol=0)
    answers = Session(path).run(x.numpy())
    assert abs(answers - expected.detach().numpy()).max() < 1e-4


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet10t"])
def test_libraries_networks_load_again_by_name_alone(spec, tmp_path):
    named = open_network(spec, shape=(3, 32, 32), classes=5)
    candidate = Candidate(named.net.eval(), arch=named.arch, inputs=Inputs((3, 32, 32)))
    context = Context(example=torch.zeros(1, 3, 32, 32))
    small = Substitute("separable", layers=("layer4.*",)).apply(candidate, context)
    small = LowRank(kind="spatial_svd", keep=0.5, layers=("layer2.*",)).apply(small, context)
    assert {edit[0] for edit in small.arch.edits} == {"separable", "spatial_svd", "svd"}
    nxp.save(small, path := tmp_path / "small.press")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(nxp.load(path).net.eval()(x), small.net.eval()(x), rtol=0, atol=0)


def test_a_network_of_ones_own_is_edited_when_it_is_loaded(tmp_path):
    net = toy_nets.Residual().eval()
    small = apply(LowRank(kind="tucker2", rank=(3, 4)), net, example=torch.zeros(1, 1, 8, 8))
    nxp.save(small, path := tmp_path / "small.press")
    with pytest.raises(ModelError, match="network of your own"):
        nxp.load(path)
    x = torch.rand(2, 1, 8, 8)
    back = nxp.load(path, into=toy_nets.Residual())
    torch.testing.assert_close(back.net.eval()(x), small.net.eval()(x), rtol=0, atol=0)


def zoo_candidate():
    return Candidate(lenet(), arch=Arch("zoo", "lenet5"), inputs=Inputs((1, 28, 28), (0.5,), (0.5,)))


def lenet_context():
    return Context(example=images()[:1])


def test_prune_then_low_rank_then_share_then_pack(tmp_path):
    candidate = zoo_candidate()
    context = lenet_context()
    steps = [FilterPrune(keep=0.6), LowRank(kind="svd", keep=0.5), WeightPrune(sparsity=0.5), WeightShare(bits=4)]
    sizes = []
    for step in steps:
        candidate = step.apply(candidate, context)
        nxp.save(candidate, path := tmp_path / f"{step.name}.press")
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert candidate.net.fc1.reduce.weight.unique().numel() <= 17
    x = images()
    back = nxp.load(path)
    torch.testing.assert_close(back.net.eval()(x), candidate.net.eval()(x), rtol=0, atol=0)
    assert abs(Session(path).run(x.numpy()) - back.net(x).detach().numpy()).max() < 1e-4


def test_low_rank_twice_divides_the_parts_again():
    candidate = zoo_candidate()
    context = lenet_context()
    once = LowRank(kind="tucker2", keep=0.6).apply(candidate, context)
    twice = LowRank(kind="spatial_svd", keep=0.6).apply(once, context)
    assert isinstance(twice.net.conv2.core, nn.Sequential)
    assert cost(twice.net, (1, 28, 28)).macs < cost(once.net, (1, 28, 28)).macs


# --- bad input ---


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give one of rank, energy, keep"),
        ({"keep": 0.5, "energy": 0.5}, "got energy, keep"),
        ({"keep": 0.5, "allocation": "scan"}, "divides a budget"),
        ({"kind": "cp", "rank": "vbmf"}, "singular values of a matrix"),
        ({"kind": "svd", "rank": (3, 4)}, "two ranks are those of tucker2"),
        ({"energy": 1.5}, "energy"),
        ({"energy": 0.0}, "energy"),
        ({"rank": 0}, "rank"),
        ({"kind": "svdd", "rank": 3}, "kind"),
    ],
)
def test_settings_that_cannot_be_meant(settings, words):
    with pytest.raises(RecipeError, match=words) as error:
        parse({"step": [{"method": "low_rank", **settings}]})
    assert "\n" not in str(error.value) or len(settings) > 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": {"fc1": 900}}, "low_rank.rank: fc1: rank 900: expected 1 to 500, the full rank"),
        ({"rank": 900, "layers": ("fc1",)}, "low_rank.rank: fc1: rank 900: expected 1 to 500"),
        ({"rank": {"fc9": 3}}, "'fc9' names no layer"),
        ({"keep": 0.5, "layers": ("conv9",)}, r"low_rank.layers: 'conv9' names no layer; expected one of conv1"),
        ({"keep": 0.5, "frozen": ("conv9",)}, r"low_rank.frozen: 'conv9' names no layer"),
        ({"keep": 0.5, "objective": "outputs"}, "low_rank.objective = 'outputs' needs images"),
        ({"max_macs": "50%", "allocation": "scan"}, "it needs data"),
    ],
)
def test_what_the_network_does_not_have(settings, words):
    with pytest.raises(RecipeError, match=words):
        apply(LowRank(**settings), lenet(), example=images())


def test_a_layer_that_cannot_be_divided_is_named():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4 * 36, 10))
    with pytest.raises(RecipeError, match=r"low_rank\.layers: 0 cannot be replaced: it has 4 groups"):
        apply(LowRank(keep=0.5, layers=("0",)), net, example=torch.zeros(1, 4, 8, 8))
    small = apply(LowRank(keep=0.5), net, example=torch.zeros(1, 4, 8, 8))
    assert facts(small)["0"]["reason"] == "it has 4 groups"


def test_ranks_above_the_full_one_leave_a_layer_alone_where_it_was_not_named():
    small = apply(LowRank(rank=15), lenet(), example=images())
    assert "rank 15: expected 1 to 10" in facts(small)["fc2"]["reason"]
    assert facts(small)["fc1"]["numbers"] == [15]


def test_calibration_images_of_another_shape():
    before = toy_nets.toy_candidate("plain")
    other = nxp.data.Split(torch.zeros(8, 3, 9, 9, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(DataError, match=r"expected images of shape \(1, 8, 8\)"):
        LowRank(keep=0.5, objective="outputs").apply(before, replace(toy_nets.toy_context(), train=other))


def test_weights_that_are_not_finite():
    net = lenet()
    net.fc1.weight.data[3, 4] = math.nan
    with pytest.raises(ModelError, match=r"fc1\.weight holds NaN"):
        apply(LowRank(keep=0.5), net, example=images())


def test_searches_in_whole_numbers():
    for top in (1, 2, 7, 8):
        for edge in range(1, top + 1):
            assert _largest(lambda r, e=edge: r <= e, top) == edge
            assert _least(lambda r, e=edge: r >= e, top) == edge
    assert _least(lambda r: False, 5) == 5
    assert _largest(lambda r: False, 5) == 1
