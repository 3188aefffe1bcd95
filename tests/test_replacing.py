"""Which layers can be replaced and why not, prices that equal the measured cost, and networks that break by it."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread, state  # noqa: F401
from torch import nn
from toy_nets import KINDS, toy_candidate, toy_context

from netpress import arch
from netpress.candidate import Candidate, Context, Inputs
from netpress.data import Split
from netpress.errors import ModelError, RecipeError
from netpress.factor import Rebuilt, Refused, structure
from netpress.forms import Form
from netpress.measure.cost import cost
from netpress.methods.refitting import calibration, refit
from netpress.methods.replaceable import Chosen, find
from netpress.methods.replacing import Done, notes, price, put, rows, settle, unspared

X = torch.zeros(1, 1, 12, 12)


def svd(_layer: nn.Module) -> str:
    return "svd"


class Strange(nn.Module):
    """One layer for every reason to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.plain, self.twice = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
        self.here = nn.Conv2d(4, 4, 1)
        self.there = self.here
        self.tied, self.other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.other.weight = self.tied.weight
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.idle, self.single, self.watched = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.watched.register_forward_hook(lambda *_: None)

    def forward(self, x):
        x = self.here(self.plain(self.read(x) + self.read.weight.mean()))
        x = self.other(self.tied(self.watched(self.twice(self.twice(x)).mean((2, 3)))))
        x = x + self.single(x[0])
        return self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]


REASONS = {
    "read": "its weights are read elsewhere than in its own call",
    "twice": "it is called 2 times per image",
    "here": "the same module is also there",
    "tied": "tied.weight is one tensor with other.weight: tied weights",
    "other": "other.weight is one tensor with tied.weight: tied weights",
    "attention.out_proj": "a NonDynamicallyQuantizableLinear cannot be decomposed",
    "idle": "the network never calls it",
    "single": "what it is called with has no batch axis",
    "watched": "it has hooks, which other layers would not have",
    "plain": None,
}


def test_every_reason_to_stay_is_found():
    net = Strange()
    before = state(net)
    found = find(Candidate(net), X, svd, chosen=Chosen("low_rank"))
    assert {layer.path: layer.reason for layer in found} == REASONS
    called = [layer.path for layer in found if layer.inputs]
    assert called == ["read", "plain", "here", "watched", "tied", "other", "single"]
    assert found[-1].path in ("attention.out_proj", "idle")
    assert state(net) == before
    assert not net.plain._forward_hooks
    assert not net.plain._forward_pre_hooks


@pytest.mark.parametrize("path", [path for path, reason in REASONS.items() if reason])
def test_a_layer_named_by_its_path_must_be_able_to(path):
    with pytest.raises(RecipeError) as caught:
        find(Candidate(Strange()), X, svd, chosen=Chosen("low_rank", layers=(path,)))
    assert str(caught.value) == f"low_rank.layers: {path} cannot be replaced: {REASONS[path]}"
    assert find(Candidate(Strange()), X, svd, chosen=Chosen("low_rank", (path,), (path,)))[0].reason.startswith("froz")


def test_patterns_choose_and_frozen_wins():
    candidate = toy_candidate("plain")
    chosen = Chosen("substitute", layers=("conv*", "fc1"), frozen=("conv2",))
    found = find(candidate, toy_context().example, svd, chosen=chosen)
    assert [layer.path for layer in found] == ["conv1", "conv2", "fc1"]
    assert [layer.reason for layer in found] == [None, "frozen by 'conv2'", None]
    for settings in ({"layers": ("conv9",)}, {"frozen": ("norm",)}):
        with pytest.raises(RecipeError, match=r"names no layer; expected one of conv1, conv2, fc1, fc2"):
            Chosen("substitute", **settings).check(candidate.net, svd)
    with pytest.raises(RecipeError, match="none at all"):
        find(Candidate(nn.ReLU()), X, svd, chosen=Chosen("substitute"))


def test_forms_and_the_network_itself_stay():
    candidate = toy_candidate("plain")
    formed = candidate.but(forms={"conv1.weight": Form(), "fc1.bias": Form()})
    found = {layer.path: layer.reason for layer in find(formed, toy_context().example, svd, chosen=Chosen("a"))}
    assert "conv1.weight has a form" in found["conv1"]
    assert "fc1.bias has a form" in found["fc1"]
    assert found["conv2"] is found["fc2"] is None
    (alone,) = find(Candidate(nn.Conv2d(1, 2, 3)), X, svd, chosen=Chosen("a"))
    assert alone.reason == "it is the network itself"


@pytest.mark.parametrize(("net", "said"), [
    (nn.Sequential(nn.Conv2d(1, 2, 3, device="meta")), "0.weight has no values yet"),
    (nn.Sequential(nn.LazyConv2d(2, 3)), "has no values yet"),
    (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))), "parametrization"),
    (nn.Sequential(nn.Conv2d(3, 2, 3)), r"do not pass Sequential|does not take"),
])  # fmt: skip
def test_networks_that_cannot_be_looked_at(net, said):
    with pytest.raises(ModelError, match=said) as caught:
        find(Candidate(net), X, svd, chosen=Chosen("a"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_prices_are_those_that_are_measured(kind):
    candidate, shape = toy_candidate(kind), (1, 8, 8)
    for layer in find(candidate, toy_context().example, svd, chosen=Chosen("a")):
        if layer.reason is not None:
            continue
        macs, params = price(candidate.net.get_submodule(layer.path), "svd", (2 - (layer.params < 20),), layer.inputs)
        net = toy_candidate(kind).net
        before = cost(net, shape)
        arch.edit(net, "svd", layer.path, 2 - (layer.params < 20))
        after = cost(net, shape)
        assert (after.macs - before.macs, after.params - before.params) == (macs - layer.macs, params - layer.params)
        assert (unspared(layer, macs, params) is None) == (macs < layer.macs or params < layer.params)


def test_prices_refuse_what_does_not_fit():
    with pytest.raises(Refused, match="rank 99: expected 1 to 4"):
        price(nn.Conv2d(4, 4, 3), "svd", (99,), (1, 4, 8, 8))


class Reader(nn.Module):
    """Looks at the type of its layer's weights, which no operation shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.second(self.first(x).to(self.second.weight.dtype))


def test_a_network_that_breaks_is_refused_with_the_layer():
    candidate = Candidate(Reader())
    found = find(candidate, X, svd, chosen=Chosen("a"))
    assert [layer.reason for layer in found] == [None, None]
    net = Reader()
    for path in ("first", "second"):
        net.set_submodule(path, structure(net.get_submodule(path), "svd", 1))
    done = {path: Done("svd", (1,), 1, 1) for path in ("first", "second")}
    with pytest.raises(ModelError, match=r"with second replaced .*has no attribute 'weight'.*freeze it"):
        settle(candidate, net, done, X)
    with torch.no_grad():
        net.first.reduce.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match=r"first\.reduce\.weight is NaN or infinite"):
        settle(candidate, net, done, X)


def test_other_shapes_and_overflow_are_refused():
    candidate = Candidate(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)))
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1))
    with pytest.raises(ModelError, match=r"with 1 replaced the network gives"):
        settle(candidate, net, {"1": Done("svd", (1,), 1, 1)}, X)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    nn.init.constant_(net[1].weight, 3e38)
    with pytest.raises(ModelError, match=r"with 1 replaced the network's output is not finite"):
        settle(candidate, net, {"1": Done("svd", (1,), 1, 1)}, torch.ones(1, 1, 12, 12) * 100)


def test_edits_rows_and_notes():
    candidate = toy_candidate("plain")
    found = find(candidate, toy_context().example, svd, chosen=Chosen("a", frozen=("fc2",)))
    net = toy_candidate("plain").net
    weights = {"reduce": torch.ones(2, 6, 3, 3), "expand": torch.ones(8, 2, 1, 1)}
    old = put(net, "conv2", Rebuilt("svd", (2,), weights))
    assert isinstance(old, nn.Conv2d)
    assert torch.equal(net.conv2.expand.bias, old.bias)
    done = {"conv2": Done("svd", (2,), 496, 132, error=0.5)}
    small = settle(candidate, net, done, toy_context().example)
    assert small.arch.edits == (("svd", "conv2", 2),)
    table = rows(found, done, {"conv1": "no saving"})
    assert [row["path"] for row in table] == ["conv1", "conv2", "fc1", "fc2"]
    assert table[1] == {
        "path": "conv2", "operation": "svd", "numbers": [2], "macs": [1728, 496], "params": [440, 132], "error": 0.5,
        "output_error": None, "reason": None,
    }  # fmt: skip
    assert table[0]["reason"] == "no saving"
    assert table[0]["macs"] == [3456, 3456]
    assert table[3]["reason"] == "frozen by 'fc2'"
    said = notes(table)
    assert said[0] == "replaced 1 of 4 layers"
    assert "conv2: svd 2, multiply-adds 1,728 -> 496" in said
    assert "conv1 stays: no saving" in said


def pixels(count: int = 40) -> Split:
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 4, 9, 9), generator=rng, dtype=torch.uint8)
    return Split(images, torch.zeros(count, dtype=torch.int64))


CASES = [
    ("svd", (3,)), ("spatial_svd", (4,)), ("cp", (5,)), ("tucker2", (3, 5)), ("grouped", (2,)), ("shuffled", (2,)),
    ("separable", (1,)), ("fire", (3, 3, 0)), ("fire", (3, 3, 1)),
]  # fmt: skip


_FITTED = {
    **dict.fromkeys(("svd", "cp", "tucker2"), ("expand",)),
    "spatial_svd": ("horizontal",),
    "grouped": ("weight", "bias"),
    "shuffled": ("grouped",),
    "separable": ("pointwise",),
    "fire": ("ones", "wide"),
}


@pytest.mark.parametrize(("operation", "numbers"), CASES)
@pytest.mark.parametrize("bias", [True, False])
def test_refitting_brings_the_outputs_nearer_and_tells_how_near(operation, numbers, bias):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, stride=2, bias=bias))
    student = nn.Sequential(net[0], net[1], structure(net[2], operation, *numbers))
    for parameter in student[2].parameters():
        nn.init.normal_(parameter, std=0.3)
    if operation == "shuffled":
        student[2].before.index.copy_(torch.randperm(8))
        student[2].after.index.copy_(torch.randperm(6))
    split = pixels()
    data = Context(example=torch.zeros(1, 4, 9, 9), train=split)
    inputs = Inputs((4, 9, 9), (0.5,) * 4, (0.25,) * 4)
    images = calibration(Candidate(net, inputs=inputs), data, samples=40, what="x")
    x = (split.images.float() / 255 - 0.5) / 0.25

    def off() -> float:
        with torch.no_grad():
            return float((student(x) - net(x)).norm() / net(x).norm())

    before = off()
    told = refit(student, "2", operation, net, images)
    assert off() < before
    assert off() == pytest.approx(told.error, rel=1e-3)  # 25 places are all there are
    assert not told.singular or operation in ("fire", "grouped", "shuffled", "cp")
    last = [p for name, p in student[2].named_parameters() if name.startswith(_FITTED[operation])]
    loss = F.mse_loss(student(x), net(x).detach())
    grads = torch.autograd.grad(loss, last)
    assert max(float(g.abs().max()) for g in grads) < 2e-2  # at the least squares but for the ridge


def test_calibration_needs_images():
    with pytest.raises(RecipeError, match=r"substitute: objective = 'outputs' needs images"):
        calibration(Candidate(nn.Identity()), Context(example=X), samples=4, what="substitute: objective = 'outputs'")
