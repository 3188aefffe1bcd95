"""Pattern binarization: the slide's example, what is binarized and what is not, the 1 x 1 branch, files, bad input."""

import pytest
import torch
import toy_nets
from contract import one_thread  # noqa: F401
from torch import nn

import netpress as nxp
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.errors import ModelError, RecipeError
from netpress.forms import Signs, holds
from netpress.methods import WeightPrune, WeightShare, apply
from netpress.methods.pattern_binarize import PatternBinarize
from netpress.recipe import parse
from netpress.runtime import Session

# reference 3.13: the filter on the slide, its signs and its mean magnitude
SLIDE = [[-0.0219, 0.0408, -0.0547], [-0.0855, 0.0478, -0.0510], [-0.0105, 0.0924, -0.0126]]
SIGNS = [[-1, 1, -1], [-1, 1, -1], [-1, 1, -1]]


def one_filter(values=SLIDE):
    net = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(values)[None, None])
    return net


def binarized(net, **settings):
    return apply(PatternBinarize(**settings), net, example=torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"scale": "kernel"}, 0.0463556),
        ({"scale": "channel"}, 0.0463556),
        ({"scale": "layer"}, 0.0463556),
        ({"scale": "none"}, 1.0),
        ({"scale": "constant"}, 0.06),
        ({"scale": "constant", "offset": 0.05}, 0.05),
    ],
)
def test_the_slides_example(settings, scale):
    small = binarized(one_filter(), **settings)
    torch.testing.assert_close(small.net[0].weight[0, 0], torch.tensor(SIGNS) * scale, rtol=1e-5, atol=0)
    assert holds(small.forms["0.weight"], small.net[0].weight)


def test_zero_counts_as_negative():
    small = binarized(one_filter([[0.0, 1.0, -1.0]] * 3), scale="none")
    assert small.net[0].weight[0, 0].tolist() == [[-1.0, 1.0, -1.0]] * 3


def test_only_filters_larger_than_one_place_are_binarized():
    before = toy_nets.toy_candidate("depthwise")
    small = PatternBinarize().apply(before, toy_nets.toy_context())
    assert set(small.forms) == {"depthwise.weight"}
    for name, tensor in before.net.named_parameters():
        assert torch.equal(small.net.get_parameter(name), tensor) == (name != "depthwise.weight")
    (row,) = small.history[-1].facts["patterns"]
    assert (row["weights"], row["kernels"], row["scales"]) == (72, 8, 8)


def test_layers_are_chosen_by_pattern():
    before = toy_nets.toy_candidate("residual")
    small = PatternBinarize(layers=("a", "b"), frozen=("b",)).apply(before, toy_nets.toy_context())
    assert set(small.forms) == {"a.weight"}
    assert "stem stays: pattern_binarize.layers does not name it" in small.history[-1].notes
    assert "b stays: frozen by 'b'" in small.history[-1].notes


@pytest.mark.parametrize("scales", ["trained", "frozen"])
def test_patterns_stay_while_the_rest_is_trained(scales):
    from netpress.train import Training, fit

    before, context = toy_nets.toy_candidate("residual"), toy_nets.toy_context()
    small = PatternBinarize(scale="channel", scales=scales).apply(before, context)
    after = fit(small, Training(epochs=2, lr=1e-2), context).candidate
    for name, form in small.forms.items():
        old, new = small.net.get_parameter(name), after.net.get_parameter(name)
        assert torch.equal(old > 0, new > 0)
        assert torch.equal(old, new) == (scales == "frozen")
        assert holds(form, new)
    assert not torch.equal(small.net.head.weight, after.net.head.weight)


def test_the_branch_takes_back_part_of_the_change():
    before, context = toy_nets.toy_candidate("plain"), toy_nets.toy_context()
    x = (context.train.images[:64].float() / 255 - before.inputs.mean[0]) / before.inputs.std[0]
    lost = {}
    for name, settings in {
        "none": {},
        "centre": {"branch": "point", "samples": 0},
        "fitted": {"branch": "point", "samples": 64},
    }.items():
        small = PatternBinarize(layers=("conv1",), recalibrate=0, **settings).apply(before, context)
        with torch.no_grad():
            wanted = before.net.conv1(x)
            lost[name] = ((small.net.conv1(x) - wanted).norm() / wanted.norm()).item()
    assert lost["fitted"] < 0.75 * lost["none"]
    assert lost["fitted"] < lost["centre"]


def test_the_branch_stays_away_where_a_1x1_filter_would_see_other_places():
    before = toy_nets.toy_candidate("concat")  # its second convolution has no padding
    small = PatternBinarize(branch="point").apply(before, toy_nets.toy_context())
    assert {row["path"]: row["branch"] for row in small.history[-1].facts["patterns"]} == {"left": True, "mix": False}


def test_the_file_holds_bits_and_runs_without_torch(tmp_path):
    torch.manual_seed(0)
    net = nxp.zoo.create("cifar-resnet20").eval()
    before = Candidate(net, arch=Arch("zoo", "cifar-resnet20"), inputs=Inputs((3, 32, 32)))
    small = PatternBinarize(scale="channel", branch="point").apply(before, Context(torch.zeros(1, 3, 32, 32)))
    saved = nxp.save(small, path := tmp_path / "small.press")
    for row in small.history[-1].facts["patterns"]:
        name = f"{row['path']}.pattern.weight" if row["branch"] else f"{row['path']}.weight"
        theory = row["weights"] / 8 + 4 * row["scales"]
        assert sum(saved.parts[name].values()) <= 1.02 * theory + 8
    x = torch.rand(2, 3, 32, 32)
    back = nxp.load(path)
    torch.testing.assert_close(back.net.eval()(x), small.net.eval()(x), rtol=0, atol=0)
    assert isinstance(next(iter(back.forms.values())).values, Signs)
    assert abs(Session(path).run(x.numpy()) - back.net(x).detach().numpy()).max() < 1e-3


def test_pruned_zeros_stay_zeros():
    before, context = toy_nets.toy_candidate("residual"), toy_nets.toy_context()
    pruned = WeightPrune(sparsity=0.5).apply(before, context)
    small = PatternBinarize(scale="kernel").apply(pruned, context)
    for name in ("a.weight", "b.weight"):
        zeros = pruned.net.get_parameter(name) == 0
        assert torch.equal(small.net.get_parameter(name) == 0, zeros)
        assert zeros.any()


def test_both_rules_count_what_the_network_amounts_to():
    before, context = toy_nets.toy_candidate("residual"), toy_nets.toy_context()
    one = PatternBinarize(layers=("a",)).apply(before, context)
    small = PatternBinarize(layers=("b",)).apply(one, context)
    params = sum(p.numel() for p in before.net.parameters())
    record = small.history[-1]
    rows = [row for record in small.history for row in record.facts["patterns"]]
    weights, kernels = (sum(row[key] for row in rows) for key in ("weights", "kernels"))
    bare = params - weights + -(-weights // 32)
    assert len(rows) == 2, "filters of an earlier step count too"
    assert record.facts["effective"] == {
        "params": params,
        "binary": weights,
        "kernels": kernels,
        "rule_n": bare,
        "rule_s": bare + kernels,
    }
    assert (
        f"{params:,} parameters amount to {bare:,} of 32 bits (n/32 for n signs), {bare + kernels:,} with a scale for "
        "each filter" in record.notes
    )


def test_the_rules_count_the_branch_and_zeros_as_they_are_counted_by_others():
    before, context = toy_nets.toy_candidate("plain"), toy_nets.toy_context()
    params = sum(p.numel() for p in before.net.parameters())
    pruned = WeightPrune(sparsity=0.5).apply(before, context)
    dense, sparse = (PatternBinarize(layers=("conv1",)).apply(c, context).history[-1].facts for c in (before, pruned))
    assert dense["effective"] == sparse["effective"]
    beside = PatternBinarize(layers=("conv1",), branch="point").apply(before, context)
    assert beside.history[-1].facts["patterns"][0]["branch"]
    assert beside.history[-1].facts["effective"]["params"] == params + beside.net.conv1.point.weight.numel()


def test_shared_layers_are_left_alone_and_an_order_that_would_share_signs_is_refused():
    before, context = toy_nets.toy_candidate("residual"), toy_nets.toy_context()
    shared = WeightShare(bits=3).apply(before, context)
    small = PatternBinarize().apply(shared, context)
    assert small.forms.keys() == shared.forms.keys()
    assert "a stays: its weights are shared already" in small.history[-1].notes
    with pytest.raises(RecipeError, match="would break the 'signs' form"):
        parse({"step": [{"method": "pattern_binarize"}, {"method": "weight_share", "bits": 3}]})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": ("conv9",)}, r"pattern_binarize.layers: 'conv9' names no k x k convolution; expected one of conv1"),
        ({"frozen": ("fc1",)}, r"pattern_binarize.frozen: 'fc1' names no k x k convolution"),
    ],
)
def test_patterns_that_match_nothing(settings, words):
    with pytest.raises(RecipeError, match=words):
        PatternBinarize(**settings).apply(toy_nets.toy_candidate("plain"), toy_nets.toy_context())


def test_a_network_of_1x1_convolutions_has_nothing_to_binarize():
    with pytest.raises(RecipeError, match="names no k x k convolution; expected one of none at all"):
        binarized(nn.Sequential(nn.Conv2d(1, 4, 1)))


def test_weights_that_are_not_finite_have_no_signs():
    with pytest.raises(ModelError, match=r"0\.weight holds NaN"):
        binarized(one_filter([[float("nan")] * 3] * 3))
