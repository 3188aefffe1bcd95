"""Single kernels chosen in steps: the reference's integers from converted networks, plain-loop oracles, any layer."""

import json

import pytest
import torch
from contract import forgotten, one_thread  # noqa: F401
from torch import nn

from netpress import store, zoo
from netpress.arch import build
from netpress.candidate import Acting, Candidate, Context, Gradual, Inputs
from netpress.codec import container
from netpress.codec.header import Arch
from netpress.codec.onnx_bytes import RACING
from netpress.errors import RecipeError
from netpress.forms import narrow
from netpress.measure import cost
from netpress.methods import CondenseKernels, WeightPrune
from netpress.onnx_session import open_session
from netpress.runtime import Session, _model
from netpress.train import formed

# Stages, growth, p: parameters and multiply-adds of the literal construction.
LITERAL = {
    ((14, 14, 14), (8, 16, 32), 4): (643_178, 108_314_432),
    ((14, 14, 14), (8, 16, 32), 2): (426_458, 66_768_704),
    ((14, 14, 14), (8, 16, 32), 1): (318_098, 45_995_840),
    ((4, 4, 4), (8, 8, 8), 4): (36_826, 10_728_544),
    ((4, 4, 4), (8, 8, 8), 2): (23_866, 7_134_304),
}
SHAPE = (3, 16, 16)


def paper(stages=(2, 2), growth=(8, 8)):
    torch.manual_seed(0)
    settings = {"variant": "paper", "form": "training", "stages": stages, "growth": growth}
    net = zoo.create("condensenext", **settings).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return Candidate(net, arch=Arch("zoo", "condensenext", settings), inputs=Inputs(SHAPE))


def context(shape=SHAPE):
    return Context(example=torch.zeros(1, *shape))


def condensed(candidate, **settings):
    return CondenseKernels(**settings).apply(candidate, context(candidate.inputs.shape))


def answers(net, images):
    with torch.no_grad():
        return net.eval()(images)


def lowest(weight, groups, drop, gone):
    """The oracle of one step, in plain loops: each group of outputs loses `drop` of the kernels that it has left."""
    weight = weight.detach()
    outputs, inputs = weight.shape[:2]
    for group in range(groups):
        mine = [(o, i) for o in range(group, outputs, groups) for i in range(inputs) if (o, i) not in gone]
        size = {(o, i): sum(abs(float(w)) for w in weight[o, i].flatten()) for o, i in mine}
        gone |= set(sorted(mine, key=lambda kernel: size[kernel])[:drop])
    return gone


def without(weight, gone):
    masked = weight.detach().clone()
    for o, i in gone:
        masked[o, i] = 0
    return masked


def learned(net):
    return [path for path, _ in net.named_modules() if path.startswith("block") and path.endswith("conv1")]


# --- what it promises ---


@pytest.mark.parametrize(("stages", "growth", "p"), LITERAL)
def test_the_reference_s_integers(stages, growth, p):
    small = condensed(paper(stages, growth), p=p)
    found = cost(small.net, (3, 32, 32))
    assert (found.params, found.macs) == LITERAL[stages, growth, p]
    assert small.history[-1].notes[-1] == "conv1 stays: it reads the image"


@pytest.mark.parametrize("settings", [{"p": 4}, {"p": 1}, {"p": 2, "cardinality": 8}], ids=str)
def test_the_same_answers_as_the_masked_dense_network(settings):
    candidate = paper()
    small, masked = condensed(candidate, **settings), build(candidate.arch)
    masked.load_state_dict(candidate.net.state_dict())
    for path in learned(masked):
        layer = masked.get_submodule(path)
        outputs, inputs = layer.weight.shape[:2]
        groups = outputs // settings.get("cardinality", outputs)
        gone = lowest(layer.weight, groups, (outputs - settings["p"]) * inputs // groups, set())
        layer.weight.data = without(layer.weight, gone)
        made = small.net.get_submodule(path)
        assert len(made.index.index) == settings["p"] * inputs
        pairs = list(zip(made.outputs.tolist(), made.index.index.tolist(), strict=True))
        assert pairs == sorted({(o, i) for o in range(outputs) for i in range(inputs)} - gone)
    images = torch.randn(3, *SHAPE)
    torch.testing.assert_close(answers(small.net, images), answers(masked, images), atol=1e-5, rtol=1e-5)
    assert small.forms == {}


def test_a_file_rebuilds_it_and_the_runtime_agrees(tmp_path):
    small = condensed(paper(), p=2)
    assert store.save(small, tmp_path / "a.press").note == ""
    back = store.load(tmp_path / "a.press")
    images = torch.randn(2, *SHAPE)
    assert str(back.net) == str(small.net)
    assert torch.equal(answers(back.net, images), answers(small.net, images))
    found = Session(tmp_path / "a.press").run(images.numpy())
    torch.testing.assert_close(torch.from_numpy(found), answers(small.net, images), atol=1e-4, rtol=1e-4)


def test_sums_by_an_index_run_in_one_thread(tmp_path):
    """With several, ONNX Runtime loses sums now and then."""
    small = condensed(paper(), p=2)
    store.save(small, tmp_path / "a.press")
    assert RACING.encode() in container.read(tmp_path / "a.press").graph
    session = Session(tmp_path / "a.press", threads=2)
    assert session._session.get_session_options().intra_op_num_threads == 1
    model = _model(container.read(tmp_path / "a.press"))
    assert open_session(model, threads=2).get_session_options().intra_op_num_threads == 1
    plain = zoo.create("lenet5")
    store.save(Candidate(plain, arch=Arch("zoo", "lenet5"), inputs=Inputs((1, 28, 28))), tmp_path / "b.press")
    assert Session(tmp_path / "b.press", threads=2)._session.get_session_options().intra_op_num_threads == 2


def test_a_converted_network_is_the_zoo_s_converted_form():
    small = condensed(paper(), p=2)
    theirs = zoo.create("condensenext", variant="paper", stages=(2, 2), growth=(8, 8), p=2)
    theirs.load_state_dict(small.net.state_dict())
    images = torch.randn(2, *SHAPE)
    torch.testing.assert_close(answers(theirs, images), answers(small.net, images))


# --- while it trains ---


def test_the_schedule_is_the_reference_s():
    assert CondenseKernels().moments == tuple(j / 16 for j in range(1, 9))
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3))
    candidate = Candidate(net, inputs=Inputs((3, 8, 8)))
    acting = CondenseKernels(p=4).gradually(candidate, context((3, 8, 8)))
    left = [acting.sites[0].left(stage, 8) for stage in range(8)]
    assert left == [512 - 56 * (stage + 1) for stage in range(8)]  # 448 of 512 go, as in the paper's example
    # 16 x 30 kernels, 16 x 7 stay: int(368 / 7) = 52 go at a time, and the last takes 56, where the code stops at 116
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 30, 3))
    acting = CondenseKernels(p=7, steps=7).gradually(Candidate(net, inputs=Inputs((3, 8, 8))), context((3, 8, 8)))
    left = [acting.sites[0].left(stage, 7) for stage in range(7)]
    assert left == [428, 376, 324, 272, 220, 168, 112]


@pytest.mark.parametrize("cardinality", [None, 8])
def test_each_moment_drops_the_lowest_kernels_of_what_is_left(cardinality):
    candidate, method = paper(), CondenseKernels(p=3, steps=4, cardinality=cardinality)
    acting = method.gradually(candidate, context())
    assert isinstance(method, Gradual)
    assert isinstance(acting, Acting)
    assert acting.moments == method.moments == (1 / 8, 1 / 4, 3 / 8, 1 / 2)
    assert acting.penalty(0, {}) is None
    names = [f"{path}.weight" for path in learned(candidate.net)]
    forms, gone = dict(acting.candidate.forms), {name: set() for name in names}
    weights = {name: candidate.net.get_parameter(name).detach().clone() for name in names}
    rng = torch.Generator().manual_seed(1)
    for stage in range(4):
        for name, weight in weights.items():
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng) * forms[name].support)
        for name, support in acting.act(stage, weights).items():
            outputs, inputs = weights[name].shape[:2]
            groups = 1 if cardinality is None else outputs // cardinality
            total = (outputs - 3) * inputs // groups
            drop = total // 4 if stage < 3 else total - 3 * (total // 4)
            lowest(weights[name], groups, drop, gone[name])
            assert torch.equal(support, without(torch.ones_like(weights[name]), gone[name]).bool())
            forms[name] = narrow(forms[name], support)
            weights[name] = without(weights[name], gone[name])
    trained = acting.candidate.but(forms=forms, net=formed(acting.candidate.net, forms))
    for name, weight in weights.items():
        trained.net.get_parameter(name).data.copy_(weight)
    small = acting.finish(trained, context())
    for row in small.history[-1].facts["condensed_kernels"]:
        outputs = range(row["outputs"])
        kept = {(o, i) for o in outputs for i in range(row["inputs"])} - gone[f"{row['path']}.weight"]
        assert row["kernels"] == [row["inputs"] * row["outputs"], len(kept)]
        assert row["per_output"] == [sum(o == a for a, _ in kept) for o in range(row["outputs"])]
        assert row["per_input"] == [sum(i == b for _, b in kept) for i in range(row["inputs"])]
    images = torch.randn(2, *SHAPE)
    torch.testing.assert_close(answers(small.net, images), answers(trained.net, images), atol=1e-5, rtol=1e-5)
    json.dumps(small.history[-1].facts)


# --- any layer ---


def test_biases_strides_dilation_and_other_filters():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 12, 5, stride=2, padding=2),
        nn.Conv2d(12, 8, (1, 3), padding="same", padding_mode="reflect"),
        nn.Conv2d(8, 6, 3, dilation=2, bias=False),
        nn.Conv2d(6, 6, 3, groups=2),
    )
    small = condensed(Candidate(net, inputs=Inputs((3, 24, 24))), p=2)
    masked = formed(net, {})
    for path in ("2", "3", "4"):
        layer = masked.get_submodule(path)
        outputs, inputs = layer.weight.shape[:2]
        layer.weight.data = without(layer.weight, lowest(layer.weight, 1, (outputs - 2) * inputs, set()))
        assert type(small.net.get_submodule(path)).__name__ == "KernelSums"
    images = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(answers(small.net, images), answers(masked, images), atol=1e-5, rtol=1e-5)


def test_what_was_pruned_before_stays_pruned():
    candidate = WeightPrune(sparsity={"*.conv1": 0.7}).apply(paper(), context())
    small = condensed(candidate, p=2)
    assert forgotten(candidate, small) == []
    for path in learned(candidate.net):
        form, weight = small.forms[f"{path}.conv.weight"], small.net.get_submodule(path).conv.weight
        assert torch.equal(form.support, weight != 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": ("nothing",)}, ["condense_kernels.layers", "'nothing' names no layer"]),
        ({"layers": ("block1.layer1.conv1",), "p": 33}, ["block1.layer1.conv1", "p 33", "32 kernels"]),
        ({"layers": ("block1.layer1.conv1",), "cardinality": 5}, ["cardinality 5", "32 outputs"]),
        ({"layers": ("block2.*.conv2", "block1.layer1.conv2")}, ["block1.layer1.conv2", "4 groups already"]),
    ],
)
def test_refusals_are_one_line(settings, words):
    candidate = paper()
    for act in (lambda m: m.check(candidate.net), lambda m: m.apply(candidate, context())):
        with pytest.raises(RecipeError) as caught:
            act(CondenseKernels(**settings))
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words), caught.value


def test_kernels_that_do_not_make_groups_are_named():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1))
    small = condensed(Candidate(net, inputs=Inputs((1, 8, 8))), p=1, cardinality=4)
    assert "1 stays: its p I = 3 kernels do not make 2 groups" in small.history[-1].notes
    assert not any(note.startswith("2 stays") for note in small.history[-1].notes)  # 1 x 1: not asked for
