"""Pruned networks of many kinds: saved, loaded in three ways, trained on, exported to ONNX, run without PyTorch."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread, raw  # noqa: F401
from torch import nn

from netpress import store
from netpress.arch import build
from netpress.candidate import Candidate, Context, Inputs
from netpress.codec.header import Arch
from netpress.data import Split
from netpress.methods.filter_prune import FilterPrune
from netpress.runtime import Session, graph_bytes
from netpress.train import Training, fit

CLASSES = 5


class Own(nn.Module):
    """A class of one's own: a functional convolution with a scaled weight, a size written into the code, a buffer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.kernel = nn.Parameter(torch.randn(24, 16, 3, 3) / 12)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(24 * 4, CLASSES)
        self.register_buffer("gain", torch.full((1, 24, 1, 1), 1.5))

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(
            self.norm(F.conv2d(x, self.kernel / self.kernel.detach().abs().max(), stride=2, padding=1) * self.gain)
        )
        x = F.adaptive_avg_pool2d(x, 2)
        return self.head(x.reshape(x.size(0), 24 * 4))


@dataclass(frozen=True)
class Case:
    """A network: where it is from, its settings, images, and whether it is in the quick selection."""

    source: str
    name: str
    shape: tuple[int, int, int] = (3, 32, 32)
    quick: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def inputs(self) -> Inputs:
        channels = self.shape[0]
        return Inputs(self.shape, (0.45,) * channels, (0.25,) * channels)

    @property
    def arch(self) -> Arch:
        return Arch(self.source, self.name, {"num_classes": CLASSES, **self.settings} if self.source != "own" else {})

    def fresh(self, seed=0) -> nn.Module:
        torch.manual_seed(seed)
        return Own() if self.source == "own" else build(self.arch)


SHORT = {"stages": (2, 2, 2)}
CASES = (
    Case("zoo", "lenet5", (1, 28, 28), quick=True),
    Case("zoo", "cifar-resnet20"),
    Case("zoo", "squeezenet", (3, 64, 64)),
    Case("zoo", "googlenet", (3, 64, 64)),
    Case("zoo", "densenet121", (3, 64, 64), settings={"blocks": (2, 3, 2, 2)}),
    Case("zoo", "condensenet-86", settings={"form": "training", **SHORT}, label="condensenet-training"),
    Case("zoo", "condensenet-86", quick=True, settings=SHORT, label="condensenet-converted"),
    Case("zoo", "mobilenet-v2"),
    Case("torchvision", "shufflenet_v2_x0_5", (3, 64, 64)),
    Case("torchvision", "efficientnet_b0"),
    Case("timm", "mobilenetv3_small_050", quick=True),
    Case("timm", "convnext_atto", (3, 64, 64)),
    Case("timm", "eca_resnet33ts", (3, 64, 64)),
    Case("own", "Own", quick=True),
)
LABELS = [case.label or case.name for case in CASES]


def shaken(net: nn.Module) -> nn.Module:
    """Statistics and scales that a wrong order of channels cannot survive; weights that keep the signal alive."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return net.eval()


def answers(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(x)


def close(got, expected, share):
    expected, got = torch.as_tensor(expected), torch.as_tensor(got)
    assert got.shape == expected.shape
    assert expected.std() > 0, "answers that are all alike show nothing"
    assert (got - expected).abs().max() <= share * expected.abs().max()


def three_ways(case: Case, small: Candidate, path) -> dict[str, nn.Module]:
    """The pruned network again: from the file by name, from the file into one's own, from a plain state dictionary."""
    found = {"into": store.load(path, into=case.fresh(seed=5)).net}
    if case.source != "own":
        found["by name"] = store.load(path).net
    again = build(small.arch, into=case.fresh(seed=6) if case.source == "own" else None)
    again.load_state_dict(small.net.state_dict())  # strict
    return {**found, "state dictionary": again}


def trains_on(small: Candidate, net: nn.Module, shape) -> None:
    """One epoch of four updates: the loss is finite, every tensor that learns has moved, no shape has changed."""
    rng = torch.Generator().manual_seed(2)
    split = Split(torch.randint(0, 256, (16, *shape), dtype=torch.uint8, generator=rng), torch.arange(16) % CLASSES)
    context = Context(example=torch.zeros(1, *shape), train=split)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    done = fit(small.but(net=net), Training(epochs=1, lr=0.01, optimizer="sgd", batch=8), context)
    after = dict(done.candidate.net.named_parameters())
    assert np.isfinite(done.history[0]["train_loss"])
    assert {n: p.shape for n, p in after.items()} == {n: p.shape for n, p in before.items()}
    moved = sum(not torch.equal(after[n], p) for n, p in before.items())
    assert moved > 0.8 * len(before)
    assert torch.isfinite(answers(done.candidate.net, torch.randn(2, *shape))).all()


def params(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=i, marks=[] if c.quick else pytest.mark.slow) for c, i in zip(CASES, LABELS, strict=True)],
)
def test_pruned_saved_loaded_trained_exported_run(case, tmp_path):
    net = shaken(case.fresh())
    candidate = Candidate(net, arch=case.arch, inputs=case.inputs)
    small = FilterPrune(keep=0.5).apply(candidate, Context(example=torch.zeros(1, *case.shape)))
    assert params(small.net) < 0.7 * params(net)
    x = torch.randn(3, *case.shape, generator=torch.Generator().manual_seed(3))
    expected = answers(small.net, x)
    path = tmp_path / "small.press"
    assert store.save(small, path).note == ""

    ways = three_ways(case, small, path)
    stored = {n: raw(t) for n, t in small.net.state_dict().items() if not n.endswith("num_batches_tracked")}
    for way, back in ways.items():
        assert {n: raw(t) for n, t in back.state_dict().items() if n in stored} == stored, way
        assert str(back) == str(small.net), way
        close(answers(back, x), expected, 1e-6)

    exported = graph_bytes(path)
    onnx.checker.check_model(onnx.load_from_string(exported), full_check=True)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    one = [session.run(None, {session.get_inputs()[0].name: image[None].numpy()})[0] for image in x]
    close(np.concatenate(one), expected, 1e-4)
    close(Session(path, threads=1).run(x.numpy()), expected, 1e-4)

    for back in ways.values():
        trains_on(small, back, case.shape)


@pytest.mark.parametrize("case", [c for c in CASES if c.quick and c.source != "timm"], ids=lambda c: c.label or c.name)
def test_what_was_pruned_and_loaded_is_pruned_again(case, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_graph", lambda *_: (b"", [], "no graph in this test"))
    context = Context(example=torch.zeros(1, *case.shape))
    first = Candidate(shaken(case.fresh()), arch=case.arch, inputs=case.inputs)
    straight = first
    for _ in range(2):
        straight = FilterPrune(keep=0.7).apply(straight, context)
        first = FilterPrune(keep=0.7).apply(first, context)
        store.save(first, tmp_path / "a.press")
        first = store.load(tmp_path / "a.press", into=case.fresh(seed=4))
    x = torch.randn(2, *case.shape)
    assert params(straight.net) == params(first.net) < 0.75 * params(case.fresh())
    close(answers(first.net, x), answers(straight.net, x), 1e-6)


def test_half_the_parameters_of_a_loaded_network(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_graph", lambda *_: (b"", [], "no graph in this test"))
    case = next(c for c in CASES if c.name == "mobilenetv3_small_050")
    candidate = Candidate(shaken(case.fresh()), arch=case.arch, inputs=case.inputs)
    small = FilterPrune(max_params="50%").apply(candidate, Context(example=torch.zeros(1, *case.shape)))
    store.save(small, tmp_path / "a.press")
    back = store.load(tmp_path / "a.press").net
    assert abs(params(back) / params(candidate.net) - 0.5) <= 0.01
    x = torch.randn(2, *case.shape)
    close(answers(back, x), answers(small.net, x), 1e-6)
