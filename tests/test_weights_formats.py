"""Caffe's and Keras's files, and other libraries' names: read into the zoo's networks, damaged ones refused."""

from __future__ import annotations

import contextlib
import importlib
import re
import struct

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from zoo_weights import filled

from netpress import zoo
from netpress.errors import ModelError
from netpress.weights import load_weights
from netpress.weights.caffe import read_caffemodel
from netpress.weights.keras import from_keras

# --- Caffe: a writer of its own, from the format's description ---


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def floats(array: np.ndarray) -> bytes:
    return field(5, array.astype("<f4").tobytes())


def new_blob(array: np.ndarray) -> bytes:
    return field(7, field(1, b"".join(map(varint, array.shape)))) + floats(array)


def old_blob(array: np.ndarray) -> bytes:
    shape = (1,) * (4 - array.ndim) + array.shape
    return b"".join(field(number, axis) for number, axis in enumerate(shape, start=1)) + floats(array)


def new_layer(name: str, kind: str, *blobs: bytes) -> bytes:
    parts = field(1, name.encode()) + field(2, kind.encode()) + b"".join(field(7, blob) for blob in blobs)
    return field(100, parts)


def old_layer(name: str, kind: int, *blobs: bytes) -> bytes:
    return field(2, field(4, name.encode()) + field(5, kind) + b"".join(field(6, blob) for blob in blobs))


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


CONV, BIAS, DENSE, DENSE_BIAS = arrays((1, 1, 3, 2), (1,), (4, 6), (4,))
NEW = field(1, b"net") + b"".join(
    [
        new_layer("data", "Data"),
        new_layer("conv", "Convolution", new_blob(CONV), new_blob(BIAS)),
        new_layer("ip", "InnerProduct", new_blob(DENSE), new_blob(DENSE_BIAS)),
    ]
)
OLD = b"".join(
    [
        old_layer("conv", 4, old_blob(CONV), old_blob(BIAS)),
        old_layer("ip", 14, old_blob(DENSE), old_blob(DENSE_BIAS)),
    ]
)
ONE_BY_ONE = field(
    100,
    field(1, b"conv")
    + field(
        7,
        b"".join(field(7, field(1, n)) for n in ())
        + field(7, b"".join(field(1, n) for n in (2, 1)))
        + b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in (1.5, -2.5)),
    ),
)


@pytest.mark.parametrize("content", [NEW, OLD], ids=["new", "old"])
def test_caffe_layers_of_both_ages(tmp_path, content):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    expected = {"conv.weight": CONV, "conv.bias": BIAS, "ip.weight": DENSE, "ip.bias": DENSE_BIAS}
    found = read_caffemodel(path)
    assert {name: tuple(t.shape) for name, t in found.items()} == {n: a.shape for n, a in expected.items()}
    assert all(np.array_equal(found[name].numpy(), array) for name, array in expected.items())


def test_caffe_numbers_one_by_one(tmp_path):
    (tmp_path / "net.caffemodel").write_bytes(ONE_BY_ONE)
    assert read_caffemodel(tmp_path / "net.caffemodel")["conv.weight"].tolist() == [[1.5], [-2.5]]


def caffe_lenet() -> tuple[bytes, list[np.ndarray]]:
    values = arrays((20, 1, 5, 5), (20,), (50, 20, 5, 5), (50,), (500, 800), (500,), (10, 500), (10,))
    layers = [("conv1", "Convolution"), ("conv2", "Convolution"), ("ip1", "InnerProduct"), ("ip2", "InnerProduct")]
    content = b"".join(
        new_layer(*layer, new_blob(values[2 * i]), new_blob(values[2 * i + 1])) for i, layer in enumerate(layers)
    )
    return content, values


def test_caffes_lenet_fills_lenet5(tmp_path):
    content, values = caffe_lenet()
    path = tmp_path / "lenet.caffemodel"
    path.write_bytes(content)
    net = zoo.create("lenet5")
    load_weights(net, path, name="lenet5")
    for parameter, value in zip(net.parameters(), values, strict=True):
        assert np.array_equal(parameter.detach().numpy(), value)
    with pytest.raises(ModelError, match=r"missing fc1\.bias.*not in the network ip1\.bias"):
        load_weights(net, path)  # no family, no other names


DAMAGED = {
    "empty": (b"", "no layer with weights"),
    "text": (b"hello, this is no model", "does not fit"),
    "no weights": (field(1, b"net") + new_layer("data", "Data"), "no layer with weights"),
    "three blobs": (new_layer("bn", "BatchNorm", *[new_blob(BIAS)] * 3), "layer bn has 3 blobs"),
    "shape": (new_layer("a", "x", field(7, field(1, varint(3))) + floats(BIAS)), r"shape \[3\] with 4 bytes"),
    "huge axis": (
        new_layer("a", "x", field(7, field(1, varint(1 << 62) + varint(0)))),
        r"shape \[46\d+, 0\] with 0",
    ),
    "many axes": (new_layer("a", "x", field(7, field(1, varint(1) * 33)) + floats(BIAS)), "more than 32 axes"),
    "double": (new_layer("a", "x", field(8, b"x" * 8)), "double precision"),
    "half a float": (new_layer("a", "x", field(7, field(1, varint(1))) + field(5, b"xyz")), "with 3 bytes"),
    "number for a layer": (field(100, 7), "expected bytes, got the number 7"),
    "name": (field(100, field(1, b"\xff") + field(7, new_blob(BIAS))), "utf-8"),
    "long number": (b"\xff" * 11, "cut or longer than 10 bytes"),
    "group": (varint(3 << 3 | 3), "does not fit"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_caffe_files_are_one_line(tmp_path, case):
    content, words = DAMAGED[case]
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        load_weights(zoo.create("lenet5"), path, name="lenet5")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([NEW, OLD, ONE_BY_ONE]), st.data())
def test_changed_caffe_bytes_are_read_or_refused(tmp_path_factory, content, data):
    changed = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(0, 3)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.caffemodel"
    path.write_bytes(changed)
    with contextlib.suppress(ValueError):  # which load_weights turns into one line
        assert sum(tensor.nbytes for tensor in read_caffemodel(path).values()) <= len(changed)


# --- Keras ---


def same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Zeros for one output per stride, the odd one below and on the right: written out apart from the zoo's."""
    amounts = []
    for n in (x.shape[3], x.shape[2]):
        total = max((int(np.ceil(n / stride)) - 1) * stride + kernel - n, 0)
        amounts += [total // 2, total - total // 2]
    return nn.functional.pad(x, amounts)


def by_hand(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A convolution in Keras's layout: images (rows, columns, channels), kernel (rows, columns, in, out)."""
    size = kernel.shape[0]
    rows, columns = (x.shape[0] - size) // stride + 1, (x.shape[1] - size) // stride + 1
    out = np.empty((rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = x[i * stride : i * stride + size, j * stride : j * stride + size]
            out[i, j] = np.tensordot(patch, kernel, axes=3)
    return out


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (7, 6), (5, 9)])
def test_keras_convolution_is_what_its_layout_says(rows, columns):
    (kernel,) = arrays((3, 3, 2, 4))
    weight = from_keras({"conv2d.kernel": torch.from_numpy(kernel)})["conv2d.weight"]
    x = torch.randn(1, 2, rows, columns)
    found = nn.functional.conv2d(zoo.convolutions.SamePad(3, 2)(x), weight, stride=2)
    padded = same(x, 3, 2)[0].permute(1, 2, 0).numpy()
    expected = torch.from_numpy(by_hand(padded, kernel, 2)).permute(2, 0, 1)[None].float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_keras_depthwise_and_dense():
    depthwise, dense = arrays((3, 3, 4, 2), (5, 7))
    found = from_keras({"d.depthwise_kernel": torch.from_numpy(depthwise), "dense.kernel": torch.from_numpy(dense)})
    assert found["d.weight"].shape == (8, 1, 3, 3)
    assert np.array_equal(found["d.weight"][2 * 3 + 1, 0].numpy(), depthwise[:, :, 3, 1])
    assert np.array_equal(found["dense.weight"].numpy(), dense.T)


def test_keras_statistics_find_their_place(tmp_path):
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    state = {f"batch_normalization.{n}": np.full(16, i, np.float32) for i, n in enumerate(names, start=1)}
    net = zoo.create("mlperf-tiny-resnet8")
    shapes = {key: tensor.shape for key, tensor in net.state_dict().items()}
    for pattern, ours in zoo.mlperf_tiny_resnet.KERAS:
        layer = pattern.strip("^").replace(r"\.", "")
        if layer.startswith("batch") and layer != "batch_normalization":
            state |= {f"{layer}.{n}": np.ones(shapes[f"{ours}weight"], np.float32) for n in names}
        elif not layer.startswith("batch"):
            shape = shapes[f"{ours}weight"]
            turned = shape[::-1] if len(shape) == 2 else (shape[2], shape[3], shape[1], shape[0])
            state |= {f"{layer}.kernel": np.ones(turned, np.float32), f"{layer}.bias": np.ones(shape[0], np.float32)}
    np.savez(tmp_path / "w.npz", **state)
    load_weights(net, tmp_path / "w.npz", name="mlperf-tiny-resnet8")
    norm = net.stem.norm
    values = [t[0].item() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    assert values == [1, 2, 3, 4]


def test_a_kernel_of_other_axes_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", **{"conv1d.kernel": np.zeros((3, 2, 4), np.float32)})
    with pytest.raises(ModelError, match=r"conv1d\.kernel has 3 axes"):
        load_weights(zoo.create("lenet5"), tmp_path / "w.npz", name="lenet5")


# --- names of torchvision ---

LIBRARY = {
    "densenet121": torchvision.models.densenet121,
    "googlenet-bn": lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
    "mobilenet-v2": torchvision.models.mobilenet_v2,
    "resnet18": torchvision.models.resnet18,
    "squeezenet": torchvision.models.squeezenet1_0,
}


@pytest.mark.parametrize("name", LIBRARY)
def test_torchvisions_files_are_taken_by_name(tmp_path, name):
    rules = importlib.import_module(f"netpress.zoo.{zoo.family(name)}").TORCHVISION
    _, theirs = filled(zoo.create(name, num_classes=1000), LIBRARY[name](), rules)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    net = zoo.create(name, num_classes=1000).eval()
    load_weights(net, tmp_path / "w.safetensors", name=name)
    x = torch.randn(1, 3, 75, 75, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(net(x), expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


def test_the_older_names_of_densenets_file(tmp_path):
    state = torchvision.models.densenet121().state_dict()
    older = {}
    for key, tensor in state.items():
        old = re.sub(r"(denselayer\d+)\.(norm|conv)(\d)", r"\1.\2.\3", key)
        older[old] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    torch.save(older, tmp_path / "w.pth")
    net = zoo.create("densenet121")
    load_weights(net, tmp_path / "w.pth", name="densenet121")
    assert torch.equal(net.block4.layer16.conv2.weight, state["features.denseblock4.denselayer16.conv2.weight"])


def test_names_that_fit_no_table_are_told_as_they_are(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"missing block1.*not in the network features\.0\.weight"):
        load_weights(zoo.create("mobilenet-v2"), tmp_path / "w.pt", name="mobilenet-v2")
