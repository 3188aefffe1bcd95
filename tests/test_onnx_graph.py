"""Graphs without weights: every operator's own numbers, weights by name, and nothing that depends on values."""

from __future__ import annotations

import contract
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from contract import one_thread  # noqa: F401
from torch import Tensor, nn
from toy_nets import KINDS, toy_candidate

from netpress import store
from netpress.candidate import Candidate, Inputs
from netpress.codec import container
from netpress.errors import ModelError
from netpress.onnx_graph import export, without_weights
from netpress.runtime import Session


class Function(nn.Module):
    """A network around a plain function of the images and one linear layer."""

    def __init__(self, run) -> None:
        super().__init__()
        self.run, self.fc = run, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def mix_batch(self: Function, x: Tensor) -> Tensor:
    """The batch axis takes part in a reshape: it is four times as long for a while."""
    return self.fc(x.reshape(x.shape[0] * 4, 16)).reshape(x.shape[0], 16)


def guess_batch(self: Function, x: Tensor) -> Tensor:
    return self.fc(x.flatten(1).view(-1, 16)).view(-1, 16)


def flatten_last(self: Function, x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2).flatten(1)


def chunks(self: Function, x: Tensor) -> Tensor:
    a, b, c = x.chunk(3, dim=2)  # 3, 3 and 2 rows
    return torch.cat([a + 1, b * 2, c], 2).flatten(1)


def splits(self: Function, x: Tensor) -> Tensor:
    a, _, c = torch.split(x, [1, 3, 4], dim=3)
    return torch.cat([c, a], 3).flatten(1)


def tensor_split(self: Function, x: Tensor) -> Tensor:
    a, b = torch.tensor_split(x, 2, dim=-1)
    return (a - b).flatten(1)


def slopes(self: Function, x: Tensor) -> Tensor:
    """Numbers that are near the operators' defaults but not equal to them."""
    x = F.leaky_relu(x, 0.01000001) + F.elu(x, 0.9999) + F.hardsigmoid(x) + F.softplus(x)
    return F.layer_norm(x, [8, 8], eps=1.0001e-5).flatten(1)


def pools(self: Function, x: Tensor) -> Tensor:
    a = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    b = F.avg_pool2d(x, 3, stride=2, padding=1)
    c = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
    return torch.cat([a, b, c[:, :, :4, :4]], 1).flatten(1)


def constants(self: Function, x: Tensor) -> Tensor:
    """A large constant that belongs to no tensor of the network."""
    return (x * torch.arange(64.0).view(8, 8).repeat(1, 1, 1, 1) + torch.linspace(-1, 1, 128)[:64].view(8, 8)).flatten(
        1
    )


FUNCTIONS = [mix_batch, guess_batch, flatten_last, chunks, splits, tensor_split, slopes, pools, constants]


def check(net: nn.Module, shape: tuple[int, ...], tmp_path) -> onnx.ModelProto:
    net.eval()
    saved = store.save(Candidate(net, inputs=Inputs(shape)), tmp_path / "a.press")
    assert saved.note == ""
    session = Session(tmp_path / "a.press", threads=1)
    for batch in (1, 5):
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = net(x).numpy()
        answers = session.run(x.numpy())
        assert answers.shape == expected.shape
        np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-5)
    return onnx.load_from_string(container.read(tmp_path / "a.press").graph)


@pytest.mark.parametrize("run", FUNCTIONS, ids=lambda f: f.__name__)
def test_functions_run_as_in_pytorch(run, tmp_path):
    check(Function(run), (1, 8, 8), tmp_path)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3, stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        nn.Conv2d(2, 4, 3, padding="same", groups=2, bias=False),
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(2, eps=1.0002e-5),
        nn.BatchNorm2d(2, affine=False),
        nn.GroupNorm(2, 2, eps=1e-3),
        nn.InstanceNorm2d(2, affine=True),
        nn.PReLU(2),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.PixelUnshuffle(2),
        nn.AdaptiveAvgPool2d(2),
        nn.Softmax(dim=1),
        nn.Hardswish(),
        nn.GELU(),
        nn.SiLU(),
    ],
    ids=lambda layer: str(layer)[:40],
)
def test_layers_run_as_in_pytorch(layer, tmp_path):
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
            tensor.uniform_(0.5, 1.5)
    check(nn.Sequential(layer, nn.Flatten()), (2, 8, 8), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_hold_no_weights_and_do_not_look_at_values(kind, tmp_path):
    one, other = toy_candidate(kind).net, toy_candidate(kind, seed=5).net
    with torch.no_grad():
        for p in other.parameters():
            p.fill_(1.0)  # equal tensors must not be merged
    graph = check(one, (1, 8, 8), tmp_path)
    assert graph.SerializeToString() == check(other, (1, 8, 8), tmp_path).SerializeToString()
    floats = [t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(t.dims) == 1 for t in floats)  # the 0 and 6 of ReLU6
    assert not floats or kind == "depthwise"
    assert not any(n.op_type in ("Identity", "SplitToSequence", "SequenceAt") for n in graph.graph.node)
    wanted = {i for n in graph.graph.node for i in n.input if i.startswith("t")}
    stored = [n for n in one.state_dict() if "num_batches" not in n]
    assert wanted == {f"t{i}" for i in range(len(stored))}


def test_each_weight_feeds_its_own_place(tmp_path):
    """Exchanging two tensors of equal shape changes the answers as it does in PyTorch."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    check(net, (1, 4, 4), tmp_path)
    with torch.no_grad():
        first = net[1].weight.clone()
        net[1].weight.copy_(net[3].weight)
        net[3].weight.copy_(first)
    check(net, (1, 4, 4), tmp_path)


def test_tied_weights_are_stored_once(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    net[3].weight = net[1].weight
    check(net, (1, 4, 4), tmp_path)
    assert [t.name for t in container.read(tmp_path / "a.press").tensors] == ["1.weight", "1.bias", "3.bias"]


def test_export_leaves_the_network_alone():
    candidate = toy_candidate("plain")
    earlier = contract.facts(candidate)
    model = export(candidate.net, (1, 8, 8))
    assert contract.facts(candidate) == earlier
    names = {n: f"t{i}" for i, n in enumerate(candidate.net.state_dict())}
    graph, extra = without_weights(model, names, count=len(names))
    assert extra == []
    assert len(graph) < 1500


def by_value(self: Function, x: Tensor) -> Tensor:
    return x.flatten(1) if x.sum().item() > 0 else -x.flatten(1)


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path):
    net = Function(by_value)
    with pytest.raises(ModelError, match="cannot be exported to ONNX") as caught:
        export(net, (1, 8, 8))
    assert "\n" not in str(caught.value)
    saved = store.save(Candidate(net, inputs=Inputs((1, 8, 8))), tmp_path / "a.press")
    assert "cannot be exported" in saved.note
    back = store.load(tmp_path / "a.press", into=Function(by_value))
    assert contract.state(back.net) == contract.state(net)


def einsum(self: Function, x: Tensor) -> Tensor:
    return torch.einsum("nchw,ncwk->nchk", x, x).flatten(1)


def test_what_the_runtime_does_not_allow_is_said_when_it_is_saved(tmp_path):
    saved = store.save(Candidate(Function(einsum), inputs=Inputs((1, 8, 8))), tmp_path / "a.press")
    if saved.note:
        assert "is not allowed" in saved.note
    else:
        Session(tmp_path / "a.press")
