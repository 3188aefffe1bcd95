"""Files of the Deep Compression artefacts: a writer of our own, damage, `.press` with the same values, the real one."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress import pack, store, zoo
from netpress.cli import main
from netpress.codec import container, deep_compression, stored
from netpress.codec.deep_compression import Layer
from netpress.errors import FileError, ModelError
from netpress.runtime import Session
from netpress.weights import load_weights, recognise
from netpress.weights.artefact import layers

FILE = "weights/squeezenet-deep-compression/compressed_SqueezeNet.net"

# --- a writer of its own, from the format's description ---


def nibbles(numbers: list[int]) -> bytes:
    padded = [*numbers, 0] if len(numbers) % 2 else numbers
    return bytes(low | high << 4 for low, high in zip(padded[::2], padded[1::2], strict=True))


def one_layer(codes: np.ndarray, table: np.ndarray, bias: np.ndarray) -> tuple[int, bytes]:
    """How many weights are stored, and the layer's bytes; a weight is stored where its code is not 0."""
    kept, gaps, before = [], [], -1
    for place in np.flatnonzero(codes):
        while place - before > 16:
            kept.append(0)
            gaps.append(15)
            before += 16
        kept.append(int(codes.flat[place]))
        gaps.append(int(place) - before - 1)
        before = int(place)
    numbers = bytes(kept) if len(table) == 256 else nibbles(kept)
    return len(kept), table.astype("<f4").tobytes() + bias.astype("<f4").tobytes() + numbers + nibbles(gaps)


def written(*made: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bytes:
    """A file of layers: codes in the weight's shape, shared values, biases."""
    parts = [one_layer(*layer) for layer in made]
    return np.array([count for count, _ in parts], "<u4").tobytes() + b"".join(content for _, content in parts)


def drawn(shape: tuple[int, ...], *, keep: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A layer's codes, table and biases."""
    generator = np.random.default_rng(seed)
    size = 16 if len(shape) == 2 else 256
    codes = generator.integers(1, size, shape) * (generator.random(shape) < keep)
    table = generator.standard_normal(size).astype(np.float32)
    table[0] = 0
    return codes, table, generator.standard_normal(shape[0]).astype(np.float32)


CONV, DENSE = drawn((6, 1, 3, 3), keep=0.5), drawn((10, 294), keep=0.04, seed=1)
LAYERS = [Layer("0", (6, 1, 3, 3)), Layer("3", (10, 294))]
GOOD = written(CONV, DENSE)


def toy() -> nn.Sequential:
    """A network with these layers, for images of 28 x 28."""
    return nn.Sequential(nn.Conv2d(1, 6, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(294, 10))


TOY = (
    "from torch import nn\n"
    "def make():\n"
    "    return nn.Sequential(nn.Conv2d(1, 6, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(294, 10))\n"
)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


# --- reading ---


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.tuples(*[st.integers(1, 5)] * 4), st.tuples(st.integers(1, 12), st.integers(1, 90))),
            st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_what_was_written_is_read_bit_for_bit(shapes):
    made = [drawn(shape, keep=keep, seed=i) for i, (shape, keep) in enumerate(shapes)]
    found = deep_compression.read(written(*made), [Layer(f"a.{i}", shape) for i, (shape, _) in enumerate(shapes)])
    assert list(found) == [f"a.{i}.{what}" for i in range(len(made)) for what in ("weight", "bias")]
    for i, (codes, table, bias) in enumerate(made):
        weight = found[f"a.{i}.weight"]
        assert_same(stored.restore(weight), table[codes])
        assert_same(stored.restore(found[f"a.{i}.bias"]), bias)
        assert weight.positions.tolist() == np.flatnonzero(codes).tolist()
        assert weight.table.tolist() == sorted(table[np.unique(codes[codes > 0])])
        packed = stored.pack(weight)
        back = stored.unpack(packed.data, shape=weight.shape, form="shared", dtype="float32", chain=packed.chain)
        assert_same(stored.restore(back), table[codes])


def test_fillers_are_no_weights():
    codes = np.zeros((2, 60), int)
    codes[0, 40] = codes[1, 50] = 3
    content = written((codes, DENSE[1], np.zeros(2)))
    assert np.frombuffer(content[:4], "<u4")[0] == 2 + 2 + 4  # 40 and 69 weights skipped, 16 by each filler
    found = deep_compression.read(content, [Layer("fc", (2, 60))])["fc.weight"]
    assert found.positions.tolist() == [40, 110]
    assert found.codes.tolist() == [0, 0]


@pytest.mark.parametrize("first", [0.25, -0.0])
def test_weights_that_are_not_stored_take_value_0_whatever_it_is(first):
    codes, table, bias = CONV
    table = table.copy()
    table[0] = first
    found = deep_compression.read(written((codes, table, bias)), LAYERS[:1])["0.weight"]
    assert found.positions is None
    assert_same(stored.restore(found), table[codes])


DAMAGED = {
    "empty": (b"", "begins with 8 bytes of counts, got 0"),
    "counts cut": (GOOD[:7], "begins with 8 bytes of counts, got 7"),
    "too many weights": (b"\x37" + GOOD[1:], "layer 0 has 54 weights, the file announces 55"),
    "a huge count": (GOOD[:4] + b"\xff" * 4 + GOOD[8:], "layer 3 has 2940 weights, the file announces 4294967295"),
    "a byte less": (GOOD[:-1], rf"take {len(GOOD)} bytes by the file's counts, got {len(GOOD) - 1}"),
    "a byte more": (GOOD + b"\0", rf"take {len(GOOD)} bytes by the file's counts, got {len(GOOD) + 1}"),
    "other counts": (bytes([GOOD[0] - 1]) + GOOD[1:], "bytes by the file's counts"),
    "a value is NaN": (GOOD[:8] + b"\xff" * 4 + GOOD[12:], "layer 0 holds NaN or an infinity"),
    "a bias is infinite": (
        GOOD[: 8 + 1024] + np.float32(np.inf).tobytes() + GOOD[8 + 1028 :],
        "layer 0 holds NaN or an infinity",
    ),
    "gaps lead out": (GOOD[:-20] + b"\xff" * 20, "layer 3 has 2940 weights, the file stores one at"),
    "text": (b"# a page of words, no network\n" * 9, "the file announces"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_in_one_line(case, tmp_path):
    content, words = DAMAGED[case]
    with pytest.raises(FileError, match=words) as caught:
        deep_compression.read(content, LAYERS)
    assert "\n" not in str(caught.value)
    (path := tmp_path / "x.net").write_bytes(content)
    with pytest.raises(FileError, match=re.escape(str(path))):
        load_weights(toy(), path)


@pytest.mark.parametrize("shape", [(), (0, 5), (1 << 16, 1 << 16)])
def test_layers_that_no_file_has_are_refused(shape):
    with pytest.raises(FileError, match=r"no \.net file holds a weight of shape"):
        deep_compression.read(bytes(4), [Layer("fc", shape)])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_are_read_or_refused(data):
    changed = bytearray(GOOD[: data.draw(st.sampled_from([len(GOOD), data.draw(st.integers(0, len(GOOD)))]))])
    for _ in range(data.draw(st.integers(0, 4)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FileError):
        found = deep_compression.read(bytes(changed), LAYERS)
        assert [stored.restore(s).shape for s in found.values()] == [(6, 1, 3, 3), (6,), (10, 294), (10,)]


# --- networks ---


@pytest.fixture
def made(tmp_path):
    """A file, and a factory of the network that it is for."""
    (tmp_path / "good.net").write_bytes(GOOD)
    (tmp_path / "mine.py").write_text(TOY)
    return tmp_path / "good.net", f"{tmp_path / 'mine.py'}:make"


def test_a_network_is_filled_and_keeps_its_forms(made):
    net = toy()
    forms = load_weights(net, made[0])
    assert {name: sorted(form.traits) for name, form in forms.items()} == {
        "0.weight": ["shared", "support"],
        "3.weight": ["shared", "support"],
    }
    for layer, (codes, table, bias) in ((net[0], CONV), (net[3], DENSE)):
        assert_same(layer.weight.detach().numpy(), table[codes])
        assert_same(layer.bias.detach().numpy(), bias)


def test_a_value_of_minus_zero_stays_and_costs_the_form(tmp_path):
    codes, table, bias = CONV
    table = table.copy()
    table[codes.max()] = -0.0
    (tmp_path / "x.net").write_bytes(written((codes, table, bias), DENSE))
    net = toy()
    assert list(load_weights(net, tmp_path / "x.net")) == ["3.weight"]
    assert_same(net[0].weight.detach().numpy(), table[codes])


def test_layers_with_nothing_stored(tmp_path):
    made = [(np.zeros_like(codes), table, bias) for codes, table, bias in (CONV, DENSE)]
    (tmp_path / "x.net").write_bytes(written(*made))
    (tmp_path / "mine.py").write_text(TOY)
    pack.pack(f"{tmp_path / 'mine.py'}:make", tmp_path / "x.net", tmp_path / "x.press", shape=(1, 28, 28))
    found = store.load(tmp_path / "x.press", into=toy())
    assert not found.net[0].weight.any()
    assert_same(found.net[3].bias.detach().numpy(), DENSE[2])


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), "1.bias"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, bias=False)), "0.bias"),
        (nn.Sequential(nn.ConvTranspose2d(3, 2, 3)), "0.weight"),
    ],
)
def test_networks_with_other_tensors_are_refused(net, name, made):
    with pytest.raises(ModelError, match=rf"biases of convolutions and linear layers; {re.escape(name)} of") as caught:
        load_weights(net, made[0])
    assert "\n" not in str(caught.value)


def test_press_files_hold_the_same_values_forms_and_answers(made, tmp_path, capsys):
    path, spec = made
    words = ["pack", spec, "--weights", str(path), "--input", "1x28x28", "--out", str(tmp_path / "a.press")]
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    found = store.load(tmp_path / "a.press", into=toy())
    assert found.traits == {"shared", "support"}
    for layer, (codes, table, bias) in ((found.net[0], CONV), (found.net[3], DENSE)):
        assert_same(layer.weight.detach().numpy(), table[codes])
        assert_same(layer.bias.detach().numpy(), bias)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), np.uint8)
    with torch.no_grad():
        expected = found.net(torch.from_numpy(pixels) / 255).numpy()
    np.testing.assert_allclose(Session(tmp_path / "a.press").run(pixels), expected, atol=1e-5, rtol=1e-5)
    store.recode(tmp_path / "a.press", tmp_path / "b.press", codec="auto")
    assert (tmp_path / "b.press").read_bytes() == (tmp_path / "a.press").read_bytes()


def test_a_damaged_file_is_one_line_of_the_command(made, tmp_path, capsys):
    path, spec = made
    path.write_bytes(GOOD[:-1])
    words = ["pack", spec, "--weights", str(path), "--input", "1x28x28", "--out", str(tmp_path / "a.press")]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{path}: these layers take" in told
    assert not (tmp_path / "a.press").exists()


def test_a_recipe_that_would_break_the_forms_is_refused(made, tmp_path, capsys):
    path, spec = made
    words = ["compress", spec, "--data", "digits", "--weights", str(path), "--recipe", "low-rank", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert "form that the network came with" in capsys.readouterr().err


# --- the published file ---


@pytest.fixture(scope="module")
def published(data_root):
    path = data_root / FILE
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


@pytest.fixture(scope="module")
def press(published, tmp_path_factory):
    out = tmp_path_factory.mktemp("squeezenet") / "squeezenet.press"
    return pack.pack("squeezenet-caffe", published, out), out


def prototxt(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the convolutions that a Caffe network names, in order."""
    shapes, channels = [], {"data": 3}
    for text in re.split(r"\blayer\s*\{", path.read_text())[1:]:
        words = {key: re.findall(key + r'\s*:\s*"?([\w/]+)', text) for key in ("bottom", "top", "type")}
        inputs = sum(channels[name] for name in words["bottom"])
        if words["type"][0] == "Convolution":
            outputs, side = (int(re.findall(key + r": (\d+)", text)[0]) for key in ("num_output", "kernel_size"))
            shapes.append((outputs, inputs, side, side))
            inputs = outputs
        channels[words["top"][0]] = inputs
    return shapes


def test_the_layers_are_those_of_the_authors_network(published):
    expected = prototxt(published.with_name("SqueezeNet_deploy.prototxt"))
    assert len(expected) == 26
    for net in (zoo.create("squeezenet-caffe", device="meta"), torchvision.models.squeezenet1_0()):
        assert [layer.shape for layer in layers(net)] == expected


def by_hand(path: Path, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """The file's tensors, decoded once more: a loop over a stream."""
    found = []
    with path.open("rb") as file:

        def take(kind, count):
            return np.frombuffer(file.read(count * np.dtype(kind).itemsize), kind)

        for count, shape in zip(take("<u4", len(shapes)).tolist(), shapes, strict=True):
            table, bias, codes, gaps = (
                take("<f4", 256),
                take("<f4", shape[0]),
                take("u1", count),
                take("u1", -(-count // 2)),
            )
            assert table[:1].tobytes() == bytes(4)
            assert count % 2 == 0 or gaps[-1] < 16
            weight, place = np.zeros(int(np.prod(shape)), np.float32), -1
            for i, code in enumerate(codes.tolist()):
                gap = int(gaps[i // 2]) >> 4 * (i % 2) & 15
                place += gap + 1
                assert code or gap == 15, "a stored zero is a filler"
                weight[place] = table[code]
            found += [weight.reshape(shape), bias]
        assert not file.read()
    return found


def test_the_published_network_keeps_every_bit(published, press):
    _, out = press
    net = zoo.create("squeezenet-caffe")
    tensors = {tensor.name: tensor for tensor in container.read(out).tensors}
    expected = by_hand(published, [layer.shape for layer in layers(net)])
    assert sum(array.size for array in expected) == 1_248_424
    assert sum(np.count_nonzero(array) for array in expected[::2]) == 415_921
    for name, array in zip(net.state_dict(), expected, strict=True):
        assert_same(tensors[name].restore(), array)
    assert [len(tensors[f"{layer.name}.weight"].unpack().table) for layer in layers(net)] == [255] * 26


def test_the_published_network_is_small(press):
    saved, out = press
    assert saved.note == ""
    assert saved.file_bytes == out.stat().st_size <= 550_000


def test_the_published_network_runs_without_pytorch(published, press):
    _, out = press
    session, known = Session(out), recognise(published)
    assert session.input_shape == (3, 227, 227)
    assert session.header.mean == known.mean
    assert known.note.endswith("channels in the order BGR")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 227, 227), np.uint8)
    means = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    with torch.no_grad():
        expected = store.load(out).net(torch.from_numpy(pixels) - means).numpy()
    np.testing.assert_allclose(session.run(pixels), expected, atol=1e-3, rtol=1e-4)


def test_other_networks_of_the_zoo_are_refused(published, tmp_path):
    with pytest.raises(ModelError, match="weights of squeezenet-caffe, not of squeezenet"):
        pack.pack("squeezenet", published, tmp_path / "a.press")
