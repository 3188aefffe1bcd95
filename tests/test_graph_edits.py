"""Pruned networks rebuilt: edits of an `Arch`, strict loading, ties, numbers of modules, memory."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from toy_nets import KINDS, SIZE

from netpress import graph
from netpress.arch import build
from netpress.codec.header import Arch
from netpress.errors import ModelError
from netpress.graph.explain import explain

NETS = {
    "zoo": (Arch("zoo", "lenet5"), (1, 28, 28)),
    "torchvision:resnet18": (Arch("torchvision", "resnet18"), (3, 64, 64)),
    "torchvision:shufflenet_v2_x0_5": (Arch("torchvision", "shufflenet_v2_x0_5"), (3, 64, 64)),
    "torchvision:mobilenet_v2": (Arch("torchvision", "mobilenet_v2"), (3, 64, 64)),
    "timm:res2net50_14w_8s": (Arch("timm", "res2net50_14w_8s"), (3, 64, 64)),
    "timm:mixnet_s": (Arch("timm", "mixnet_s"), (3, 64, 64)),
    "timm:resnetblur50": (Arch("timm", "resnetblur50"), (3, 64, 64)),
    "timm:convnext_atto": (Arch("timm", "convnext_atto"), (3, 64, 64)),
}
FAST = ("zoo", "torchvision:shufflenet_v2_x0_5", "timm:convnext_atto", "timm:mixnet_s")


def pruned(net, example, seed=0):
    coupling = graph.couple(net, example)
    kept = graph.choose(coupling, graph.random_scores(coupling, seed), keep=0.5)
    return coupling, kept, graph.keep(net, coupling, kept)


def described(net):
    """Every number that modules hold, and every shape."""
    shapes = {name: tuple(x.shape) for name, x in [*net.named_parameters(), *net.named_buffers()]}
    held = {
        f"{path}.{name}": value
        for path, module in net.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | tuple) and name != "training"
    }
    return shapes, {name: value for name, value in held.items() if "__" not in name}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in NETS])
def test_edits_rebuild_the_structure(name):
    arch, shape = NETS[name]
    net = build(arch).eval()
    coupling, kept, small = pruned(net, torch.zeros(1, *shape))
    edits = graph.edits(net, coupling, kept)
    written = json.loads(json.dumps(edits))
    again = Arch(arch.source, arch.name, {}, tuple(tuple(e) for e in written))
    fresh = build(again).eval()
    assert described(fresh) == described(small)
    fresh.load_state_dict(small.state_dict(), strict=True)
    x = torch.randn(1, *shape)
    with torch.no_grad():
        assert torch.equal(fresh(x), small(x))
    with torch.device("meta"):
        hollow = build(again)
    assert {n: p.shape for n, p in hollow.named_parameters()} == {n: p.shape for n, p in small.named_parameters()}
    assert all(p.is_meta for p in hollow.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_edits_cut_a_network_of_ones_own(kind):
    torch.manual_seed(0)
    net = KINDS[kind]()
    coupling, kept, small = pruned(net, torch.zeros(1, 1, SIZE, SIZE))
    fresh = build(Arch("own", "Toy", {}, graph.edits(net, coupling, kept)), into=KINDS[kind]())
    fresh.load_state_dict(small.state_dict(), strict=True)
    x = torch.randn(3, 1, SIZE, SIZE)
    assert torch.equal(fresh.eval()(x), small.eval()(x))


def test_two_prunings_in_a_row():
    net = build(Arch("zoo", "lenet5"))
    example = torch.zeros(1, 1, 28, 28)
    first, kept, once = pruned(net, example)
    second, kept_again, twice = pruned(once, example, seed=1)
    edits = (*graph.edits(net, first, kept), *graph.edits(once, second, kept_again))
    build(Arch("zoo", "lenet5", {}, edits)).load_state_dict(twice.state_dict(), strict=True)
    twice(torch.zeros(2, 1, 28, 28)).sum().backward()
    assert all(p.grad is not None for p in twice.parameters())


class Tied(nn.Module):
    """One weight in two layers; a norm without affine part; a scale that state dictionaries leave out."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(1, 8, 1), nn.LayerNorm(8, elementwise_affine=False)
        self.two, self.three = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.three.weight = self.two.weight
        self.register_buffer("scale", torch.linspace(1, 2, 8)[:, None, None], persistent=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.one(x).movedim(1, -1)).movedim(-1, 1) * self.scale
        return self.head((self.two(x).relu() + self.three(x)).mean((2, 3)))


def test_ties_numbers_and_left_out_buffers_survive():
    net = Tied()
    coupling, kept, small = pruned(net, torch.zeros(1, 1, 4, 4))
    assert small.two.weight is small.three.weight
    assert small.norm.normalized_shape == (small.one.out_channels,) == (4,)
    fresh = build(Arch("own", "Tied", {}, graph.edits(net, coupling, kept)), into=Tied())
    fresh.load_state_dict(small.state_dict(), strict=True)
    assert fresh.two.weight is fresh.three.weight
    assert torch.equal(fresh.scale, small.scale)
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(fresh(x), small(x))


@pytest.mark.parametrize(
    "edit",
    [
        ("conv", "one", 1, 0, 1),
        ("conv", "one", 1, 8, 3),
        ("conv", "head", 1, 4, 1),
        ("conv", "one", 1, 9.5, 1),
        ("linear", "head", -1, 3),
        ("norm", "one", 3),
        ("crop", "one.weight", 4),
        ("crop", "one.weight", 99, 1, 1, 1),
        ("crop", "one.forward", 1),
        ("take", "scale", 0, 8),
        ("take", "scale", 7, 0),
        ("size", "one.training", 3),
        ("size", "one._version", 3),
        ("size", "one.in_channels", 0),
        ("sizes", "one.kernel_size", 1),
        ("conv", "nobody", 1, 1, 1),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit):
    net = Tied()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ModelError, match="does not fit") as error:
        build(Arch("own", "Tied", {}, (edit,)), into=net)
    assert "\n" not in str(error.value)
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())


def test_explain():
    rows = {row.layer: row for row in explain(graph.couple(KINDS["residual"](), torch.zeros(1, 1, SIZE, SIZE)))}
    assert list(rows) == ["stem", "a", "b", "head"]
    assert rows["b"].tied == ("stem",)
    assert rows["a"].tied == ()
    assert rows["head"].stays == "network output"
    assert rows["head"].kind == "linear"
    assert not any(row.changes for row in rows.values())
    rows = {row.layer: row for row in explain(graph.couple(Tied(), torch.zeros(1, 1, 4, 4)))}
    assert rows["one"].changes == "layer norm in norm"


MEMORY = """
import resource, sys, torch
from torch import nn
from netpress import graph
import scipy.sparse.csgraph
net = nn.Sequential(*[m for k in range(12) for m in (nn.Conv2d(3 if not k else 1024, 1024, 3, padding=1), nn.ReLU())])
net.append(nn.Conv2d(1024, 3, 1))
size = sum(p.numel() * 4 for p in net.parameters())
graph.couple(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)), torch.zeros(1, 3, 8, 8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
coupling = graph.couple(net, torch.zeros(1, 3, 32, 32))
small = graph.keep(net, coupling, graph.choose(coupling, graph.random_scores(coupling, 0), keep=0.9))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / size)
"""


def test_no_more_memory_than_a_second_network():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.0
