"""Learned group convolutions: the published integers from converted networks, the same answers, plain-loop oracles."""

import json

import pytest
import torch
import torchvision
from contract import forgotten, one_thread, trained_our_way  # noqa: F401
from torch import nn

from netpress import methods, recipe, store, zoo
from netpress.arch import build, edit
from netpress.candidate import Acting, Candidate, Context, Gradual, Inputs
from netpress.codec.header import Arch
from netpress.errors import ModelError, RecipeError
from netpress.forms import Form, narrow
from netpress.measure import cost
from netpress.methods import Condense, WeightPrune, regrouping
from netpress.runtime import Session
from netpress.train import formed
from netpress.zoo.dense_blocks import Index

# Parameters and operations after conversion, as published for CIFAR (Huang et al. 2018).
FAMILY = {
    "condensenet-50": (216_506, 28_641_834),
    "condensenet-74": (405_466, 51_897_066),
    "condensenet-86": (520_202, 65_816_394),
    "condensenet-98": (648_442, 81_263_530),
    "condensenet-110": (790_186, 98_238_474),
    "condensenet-122": (945_434, 116_741_226),
    "condensenext": (459_218, 61_013_834),
}
SMALL = {"stages": (2, 2), "growth": (8, 8), "form": "training"}
SHAPE = (3, 32, 32)


def lively(net, seed=0):
    """Weights and statistics with which no channel is like another."""
    rng = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
            nn.init.uniform_(module.weight, 0.5, 2, generator=rng)
            nn.init.normal_(module.bias, generator=rng)
    return net.eval()


def candidate_of(net, shape=SHAPE, arch=None):
    return Candidate(net, arch=arch or Arch("own", "Net"), inputs=Inputs(shape))


def dense(name="condensenet-50", **settings):
    torch.manual_seed(0)
    settings = {**SMALL, **settings}
    return candidate_of(lively(zoo.create(name, **settings)), arch=Arch("zoo", name, settings))


def context(shape=SHAPE):
    return Context(example=torch.zeros(1, *shape))


def condensed(candidate, **settings):
    return Condense(**settings).apply(candidate, context(candidate.inputs.shape))


def answers(net, images):
    with torch.no_grad():
        return net.eval()(images)


def lowest(weight, groups, drop, gone):
    """The oracle of one moment, in plain loops: each group loses `drop` of the inputs that it has left."""
    weight = weight.detach()
    outputs, inputs = weight.shape[:2]
    for group in range(groups):
        left = [i for i in range(inputs) if i not in gone[group]]
        sums = {i: sum(abs(float(weight[o, i, 0, 0])) for o in range(group, outputs, groups)) for i in left}
        gone[group] |= set(sorted(left, key=lambda i: sums[i])[:drop])
    return gone


def without(weight, gone):
    """A weight with the dropped connections at zero."""
    masked = weight.detach().clone()
    for group, inputs in enumerate(gone):
        for i in inputs:
            masked[group :: len(gone), i] = 0
    return masked


def masked_copy(candidate, paths, groups=4, factor=4):
    """The dense network with everything dropped at once by the oracle."""
    net = build(candidate.arch)
    net.load_state_dict(candidate.net.state_dict())
    for path in paths:
        layer = net.get_submodule(path)
        drop = layer.in_channels - layer.in_channels // factor
        gone = lowest(layer.weight, groups, drop, [set() for _ in range(groups)])
        layer.weight.data = without(layer.weight, gone)
    return net


def learned(net):
    return [path for path, m in net.named_modules() if path.startswith("block") and path.endswith("conv1")]


# --- what it promises ---


@pytest.mark.parametrize("name", FAMILY)
def test_the_published_integers(name):
    candidate = candidate_of(zoo.create(name, form="training"))
    found = cost(condensed(candidate).net, SHAPE)
    assert (found.params, found.operations) == FAMILY[name]


def test_half_of_the_classifier():
    candidate = candidate_of(zoo.create("condensenet-86", form="training"))
    small = condensed(candidate, linear_keep=0.5)
    found = cost(small.net, SHAPE)
    assert (found.params, found.operations) == (516_202, 65_812_394)
    fc = candidate.net.fc.weight.detach()
    sums = [sum(abs(float(fc[o, i])) for o in range(10)) for i in range(800)]
    assert small.net.fc.index.index.tolist() == sorted(sorted(range(800), key=lambda i: -sums[i])[:400])
    assert small.history[-1].facts["linear"]["kept"] == small.net.fc.index.index.tolist()


@pytest.mark.parametrize(("name", "before"), [("condensenet-50", "norm1"), ("condensenext", "conv1")])
def test_the_same_answers_as_the_masked_dense_network(name, before):
    candidate = dense(name, growth=(8, 16))
    small, paths = condensed(candidate), learned(candidate.net)
    expected = masked_copy(candidate, paths)
    images = torch.randn(3, *SHAPE)
    torch.testing.assert_close(answers(small.net, images), answers(expected, images), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(answers(small.net, images), answers(candidate.net, images), atol=1e-2)
    for path in paths:
        place = f"{path.removesuffix('conv1')}{before}"
        assert isinstance(small.net.get_submodule(place)[0], Index)
        assert small.net.get_submodule(path).layer.groups == 4
    assert small.forms == {}


def test_a_converted_network_is_the_zoo_s_converted_form():
    found = condensed(dense(), linear_keep=0.5).net
    theirs = zoo.create("condensenet-50", stages=(2, 2), growth=(8, 8), classifier_keep=0.5)
    renamed = {}
    for name, tensor in found.state_dict().items():
        plain = name.replace("norm1.index", "index").replace("fc.index", "index").replace(".layer.", ".")
        renamed[plain] = tensor
    theirs.load_state_dict(renamed)
    images = torch.randn(2, *SHAPE)
    torch.testing.assert_close(answers(theirs, images), answers(found, images), atol=1e-6, rtol=1e-6)


def test_a_file_rebuilds_it_and_the_runtime_agrees(tmp_path):
    small = condensed(dense(), linear_keep=0.5)
    assert store.save(small, tmp_path / "a.press").note == ""
    back = store.load(tmp_path / "a.press")
    images = torch.randn(2, *SHAPE)
    assert str(back.net) == str(small.net)
    assert torch.equal(answers(back.net, images), answers(small.net, images))
    found = Session(tmp_path / "a.press").run(images.numpy())
    torch.testing.assert_close(torch.from_numpy(found), answers(small.net, images), atol=1e-4, rtol=1e-4)


# --- while it trains ---


def test_each_moment_drops_what_weighs_least_of_what_is_left():
    candidate, method = dense(), Condense(factor=8, groups=2)
    acting = method.gradually(candidate, context())
    assert isinstance(method, Gradual)
    assert isinstance(acting, Acting)
    assert acting.moments == method.moments == tuple(s / 14 for s in range(1, 8))
    names = [f"{path}.weight" for path in learned(candidate.net)]
    assert all(acting.candidate.forms[name].support.all() for name in names)
    rng = torch.Generator().manual_seed(1)
    weights = {name: acting.candidate.net.get_parameter(name).detach().clone() for name in names}
    gone = {name: [set(), set()] for name in names}
    forms = dict(acting.candidate.forms)
    for stage in range(7):
        for name, weight in weights.items():  # training moves what is left
            weight.add_(0.1 * torch.randn(weight.shape, generator=rng) * forms[name].support)
        supports = acting.act(stage, weights)
        assert set(supports) == set(names)
        for name, support in supports.items():
            inputs = weights[name].shape[1]
            lowest(weights[name], 2, inputs // 8, gone[name])
            expected = without(torch.ones_like(weights[name]), gone[name]).bool()
            assert torch.equal(support, expected)
            forms[name] = narrow(forms[name], support)
            weights[name] = without(weights[name], gone[name])
    trained = acting.candidate.but(forms=forms, net=formed(acting.candidate.net, forms))
    for name, weight in weights.items():
        trained.net.get_parameter(name).data.copy_(weight)
    small = acting.finish(trained, context())
    for row in small.history[-1].facts["condensed"]:
        inputs = row["inputs"]
        missing = [sorted(set(range(inputs)) - g) for g in gone[f"{row['path']}.weight"]]
        assert row["kept"] == missing
        assert all(len(kept) == inputs // 8 for kept in row["kept"])
    images = torch.randn(2, *SHAPE)
    torch.testing.assert_close(answers(small.net, images), answers(trained.net, images), atol=1e-5, rtol=1e-5)


def test_the_moments_are_a_setting():
    assert Condense().moments == (1 / 6, 1 / 3, 1 / 2)
    assert Condense(factor=3, at=(0.2, 0.9)).gradually(dense(), context()).moments == (0.2, 0.9)


def test_the_group_lasso_is_its_formula_and_ends_with_the_last_moment():
    candidate = dense()
    acting = Condense(group_lasso=0.25).gradually(candidate, context())
    names = [f"{path}.weight" for path in learned(candidate.net)]
    weights = {name: candidate.net.get_parameter(name).detach().clone().requires_grad_() for name in names}
    with torch.no_grad():
        weights[names[0]][1::4, 3] = 0  # a dropped input
    expected = 0.0
    for weight in weights.values():
        for group in range(4):
            for i in range(weight.shape[1]):
                squares = [float(weight[o, i, 0, 0]) ** 2 for o in range(group, weight.shape[0], 4)]
                expected += sum(squares) ** 0.5
    found = acting.penalty(0, weights)
    assert float(found) == pytest.approx(0.25 * expected, rel=1e-5)
    slopes = torch.autograd.grad(found, list(weights.values()))
    assert all(slope.isfinite().all() for slope in slopes)
    assert slopes[0][1::4, 3].abs().max() == 0
    assert slopes[0][0::4, 3].abs().min() > 0
    assert acting.penalty(2, weights) is not None
    assert acting.penalty(3, weights) is None
    assert Condense().gradually(candidate, context()).penalty(0, weights) is None


def test_one_call_is_the_same_as_all_moments_on_the_same_weights():
    candidate, method = dense(), Condense()
    acting = method.gradually(candidate, context())
    forms = dict(acting.candidate.forms)
    for stage in range(3):
        weights = {n: formed(candidate.net, forms).get_parameter(n).detach() for n in forms}
        for name, support in acting.act(stage, weights).items():
            forms[name] = narrow(forms[name], support)
    slowly = acting.finish(acting.candidate.but(forms=forms, net=formed(candidate.net, forms)), context())
    at_once = method.apply(candidate, context())
    assert slowly.history[-1].facts == at_once.history[-1].facts
    for (name, mine), theirs in zip(slowly.net.state_dict().items(), at_once.net.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


# --- any network ---


class Bottleneck(nn.Module):
    """Biases, strides, a norm that can be folded, one that is read twice, and one in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm0, self.down = nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1, stride=2, padding=1)
        self.norm1, self.wide = nn.BatchNorm2d(16), nn.Conv2d(16, 24, 1)
        self.norm2, self.last = nn.BatchNorm2d(40), nn.Conv2d(40, 16, 1, bias=False)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.down(torch.relu(self.norm0(self.stem(x))))
        y = torch.relu(self.norm1(torch.nn.functional.max_pool2d(x, 2)))
        x = torch.cat([self.wide(y), y], 1)
        return self.fc(self.last(self.norm2(x).relu_()).mean((2, 3)))


def test_where_the_index_stands():
    candidate = candidate_of(lively(Bottleneck()))
    small = condensed(candidate)
    rows = {row["path"]: row["before"] for row in small.history[-1].facts["condensed"]}
    # norm0 can be folded into stem, norm1's values are read twice
    assert rows == {"down": "down", "wide": "wide", "last": "norm2"}
    assert small.net.norm2.layer.num_features == 40
    assert condensed(candidate, groups=2).net.norm2.layer.num_features == 20
    many = condensed(candidate, groups=8).history[-1].facts["condensed"]
    assert {row["before"] for row in many} == {"down", "wide", "last"}  # more channels than before: behind the norm
    images = torch.randn(2, *SHAPE)
    masked = formed(candidate.net, {})
    for row in small.history[-1].facts["condensed"]:
        layer = masked.get_submodule(row["path"])
        gone = [set(range(row["inputs"])) - set(kept) for kept in row["kept"]]
        layer.weight.data = without(layer.weight, gone)
    torch.testing.assert_close(answers(small.net, images), answers(masked, images), atol=1e-5, rtol=1e-5)


def test_a_norm_s_values_that_are_the_network_s_answer_stay_as_they_are():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.norm, self.conv = nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            y = self.norm(self.pool(x))
            return self.conv(y), y

    small = condensed(candidate_of(lively(Both()), (8, 4, 4)))
    assert small.history[-1].facts["condensed"][0]["before"] == "conv"


def test_layers_that_stay_are_named_with_the_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.six, self.fine = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
            self.twice, self.frozen = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.frozen(self.twice(self.twice(self.fine(self.six(self.image(x))))))

    small = condensed(candidate_of(Odd(), (4, 4, 4)), frozen=("fro*",))
    notes = "\n".join(small.history[-1].notes)
    assert "condensed 0 of 5 layers" in notes
    assert "image stays: it reads the image" in notes
    assert "six stays: its 6 outputs do not make 4 groups" in notes
    assert "fine stays: factor 4 does not divide its 6 inputs" in notes
    assert "twice stays: it is called 2 times per image" in notes
    assert "frozen stays: frozen by 'fro*'" in notes
    named = condensed(candidate_of(Odd(), (4, 4, 4)), layers=("image",))
    assert [row["path"] for row in named.history[-1].facts["condensed"]] == ["image"]


def densenet(**settings):
    torch.manual_seed(0)
    return lively(torchvision.models.DenseNet(**settings))


def test_torchvision_s_densenet(tmp_path):
    net = densenet(growth_rate=8, block_config=(2, 2), num_init_features=16, bn_size=2, num_classes=7)
    small = condensed(candidate_of(net, (3, 64, 64)), linear_keep=0.5)
    rows = small.history[-1].facts["condensed"]
    assert len(rows) == 5  # four dense layers and a transition
    assert all("norm" in row["before"] for row in rows)
    assert [(s["path"].rpartition(".")[2], s["inputs"]) for s in rows[1]["sources"]] == [("conv0", 16), ("conv2", 8)]
    weight = small.net.features.denseblock1.denselayer2.conv1.layer.weight
    total = sum(s["mean"] * s["inputs"] for s in rows[1]["sources"]) * rows[1]["outputs"]
    assert total == pytest.approx(float(weight.abs().sum()), rel=1e-5)
    json.dumps(small.history[-1].facts)
    assert store.save(small, tmp_path / "a.press").note == ""
    images = torch.randn(2, 3, 64, 64)
    found = Session(tmp_path / "a.press").run(images.numpy())
    torch.testing.assert_close(torch.from_numpy(found), answers(small.net, images), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_densenet_121(tmp_path):
    small = condensed(candidate_of(lively(torchvision.models.densenet121(weights=None)), (3, 64, 64)))
    found = cost(small.net, (3, 64, 64))
    assert len(small.history[-1].facts["condensed"]) == 61
    assert found.params < 4_500_000
    assert store.save(small, tmp_path / "a.press").note == ""
    images = torch.randn(2, 3, 64, 64)
    expected = answers(small.net, images)
    answer = torch.from_numpy(Session(tmp_path / "a.press").run(images.numpy()))
    assert (answer - expected).abs().max() <= 1e-4 * expected.abs().max()


# --- in a chain ---


def test_what_was_pruned_before_stays_pruned():
    candidate = WeightPrune(sparsity={"*.conv1": 0.6, "fc": 0.5}).apply(dense(), context())
    small = condensed(candidate, linear_keep=0.5)
    assert small.history[0].method == "weight_prune"
    assert forgotten(candidate, small) == []
    for path in learned(candidate.net):
        form, weight = small.forms[f"{path}.layer.weight"], small.net.get_submodule(path).layer.weight
        assert not form.support.all()
        assert torch.equal(form.support, weight != 0)
        dense_support = candidate.forms[f"{path}.weight"].support
        row = next(r for r in small.history[-1].facts["condensed"] if r["path"] == path)
        per = weight.shape[0] // 4
        for o in range(weight.shape[0]):
            group, j = o // per, o % per
            assert torch.equal(form.support[o], dense_support[group + 4 * j, row["kept"][group]])
    images = torch.randn(2, *SHAPE)
    expected = masked_copy(candidate, learned(candidate.net))
    half = small.net.fc
    expected.fc.weight.data[:, [i for i in range(expected.fc.in_features) if i not in half.index.index.tolist()]] = 0
    torch.testing.assert_close(answers(small.net, images), answers(expected, images), atol=1e-5, rtol=1e-5)


def test_a_group_that_pruning_left_too_little_is_filled_up():
    candidate = dense()
    support = torch.zeros(32, 16, 1, 1, dtype=torch.bool)
    support[:, :2] = True  # two inputs, where a group reads four
    forms = {"block1.layer1.conv1.weight": Form(support)}
    candidate = candidate.but(forms=forms, net=formed(candidate.net, forms))
    small = condensed(candidate)
    assert all({0, 1} < set(kept) and len(kept) == 4 for kept in small.history[-1].facts["condensed"][0]["kept"])
    assert int(small.forms["block1.layer1.conv1.layer.weight"].support.sum()) == 64


def test_pruning_and_sharing_act_on_converted_layers():
    small = condensed(dense())
    pruned = WeightPrune(sparsity=0.5).apply(small, context())
    shared = methods.WeightShare(bits=3).apply(pruned, context())
    assert "block1.layer1.conv1.layer.weight" in shared.forms
    assert forgotten(pruned, shared) == []


# --- bad input ---


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": ("nothing",)}, ["condense.layers", "'nothing' names no layer"]),
        ({"frozen": ("nothing",)}, ["condense.frozen", "'nothing' names no layer"]),
        ({"layers": ("block1.layer1.conv1",), "groups": 5}, ["block1.layer1.conv1", "32 outputs", "5 groups"]),
        ({"layers": ("block1.layer1.conv1",), "factor": 5}, ["block1.layer1.conv1", "factor 5", "16 inputs"]),
        ({"layers": ("block1.layer1.conv1",), "factor": 32}, ["factor 32 is more than its 16 inputs"]),
        ({"layers": ("block1.layer1.conv2",)}, ["block1.layer1.conv2", "3 x 3, not 1 x 1"]),
    ],
)
def test_refusals_are_one_line(settings, words):
    candidate = dense()
    for act in (lambda m: m.check(candidate.net), lambda m: m.apply(candidate, context())):
        with pytest.raises(RecipeError) as caught:
            act(Condense(**settings))
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("at", "words"),
    [((0.1, 0.2), ["factor 4 has 3 moments", "at has 2"]), ((0.3, 0.2, 0.4), ["must rise", "0.3, 0.2, 0.4"])],
)
def test_moments_that_do_not_fit_are_refused(at, words):
    with pytest.raises(RecipeError) as caught:
        recipe.parse({"step": [{"method": "condense", "at": list(at)}]})
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_network_that_reads_a_layer_s_numbers_is_refused_by_the_check():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.conv(self.first(x)) * self.conv.out_channels

    with pytest.raises(ModelError, match="cannot be checked in float64, nothing was changed"):
        condensed(candidate_of(Strange()))


@pytest.mark.parametrize(
    ("operation", "path", "numbers", "words"),
    [
        ("condensed", "conv", (3, 2), ["8 outputs do not make 3 groups"]),
        ("condensed", "conv", (2, 9), ["1 to 8 inputs per group", "got 9"]),
        ("condensed", "wide", (2, 2), ["1 x 1 filters", "3 x 3"]),
        ("regrouped", "conv", (0, 2), ["1 to 8 groups", "got 0"]),
        ("regrouped", "norm", (2, 2), ["plain convolution", "BatchNorm2d"]),
        ("indexed", "norm", (9,), ["1 to 8 channels", "got 9"]),
        ("indexed", "conv", (4,), ["batch norm or a linear layer", "Conv2d"]),
        ("indexed", "fc", (1.5,), ["1 to 8 channels", "got 1.5"]),
        ("kernel_sums", "wide", (65,), ["1 to 64 kernels", "got 65"]),
        ("kernel_sums", "fc", (4,), ["plain convolution", "Linear"]),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(operation, path, numbers, words):
    net = nn.Module()
    net.conv, net.wide, net.norm, net.fc = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)
    with pytest.raises(ModelError) as caught:
        edit(net, operation, path, *numbers)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("wrong", ["rows", "index"])
def test_a_conversion_that_is_not_the_same_is_refused(wrong, monkeypatch):
    real = regrouping.grouped_kernel
    change = {"rows": lambda w, kept: real(w, kept).roll(1, 0), "index": lambda w, kept: real(w, kept.flip(0))}
    monkeypatch.setattr(regrouping, "grouped_kernel", change[wrong])
    with pytest.raises(ModelError, match="condense: the converted network differs by"):
        condensed(dense())


@pytest.mark.parametrize("settings", [{"groups": 3}, {"groups": 4, "factor": 7, "at": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}])
def test_settings_that_fit_no_layer_are_refused_before_training(settings):
    net = zoo.create("condensenet-50", form="training", stages=(2, 2), growth=(8, 8))
    with pytest.raises(RecipeError, match=r"none of the 4 1 x 1 convolutions fits, for instance block1.layer1.conv1"):
        Condense(**settings).check(net)
