import subprocess
import sys

import numpy as np
import onnx
import pytest
from graphs import LENET5_SHAPES, integers, lenet5, model, node

from netpress import runtime
from netpress.codec import container, stored
from netpress.codec.container import Press, Tensor
from netpress.codec.header import Arch, Header
from netpress.errors import DataError, FileError
from netpress.runtime import Session, graph_bytes


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(5)
    return {name: (rng.normal(size=shape) * 0.05).astype(np.float32) for name, shape in LENET5_SHAPES.items()}


@pytest.fixture
def path(tmp_path, weights):
    tensors = []
    for name, array in weights.items():
        positions = np.flatnonzero(np.abs(array) > 0.05) if array.ndim > 1 else None
        tensors.append(Tensor.of(name, stored.free(array, positions)))
    about = Header(Arch("zoo", "lenet5"), (1, 28, 28), (0.1307,), (0.3081,), tuple("abcdefghij"))
    container.write(tmp_path / "lenet5.press", Press(about, tuple(tensors), lenet5()))
    return tmp_path / "lenet5.press"


def by_hand(weights, x):
    """LeNet-5 in plain numpy, float64."""

    def conv(x, w, b):
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
        return np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None]

    def pool(x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))

    w = {name: np.where(np.abs(a) > 0.05, a, 0) if a.ndim > 1 else a for name, a in weights.items()}
    w = {name: a.astype(np.float64) for name, a in w.items()}
    x = pool(conv(x.astype(np.float64), w["conv1.weight"], w["conv1.bias"]))
    x = pool(conv(x, w["conv2.weight"], w["conv2.bias"])).reshape(len(x), -1)
    x = np.maximum(x @ w["fc1.weight"].T + w["fc1.bias"], 0)
    return x @ w["fc2.weight"].T + w["fc2.bias"]


def test_it_computes_what_numpy_computes(path, weights):
    session = Session(path, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), np.uint8)
    x = (pixels / 255 - 0.1307) / 0.3081
    expected = by_hand(weights, x)
    assert np.abs(session.run(pixels) - expected).max() < 1e-4
    assert np.abs(session.run(x.astype(np.float32)) - expected).max() < 1e-4
    assert np.abs(session.run(pixels[1]) - expected[1:2]).max() < 1e-4
    assert session.file_bytes == path.stat().st_size
    assert session.input_shape == (1, 28, 28)
    assert session.run(pixels).dtype == np.float32


def test_classify(path):
    session = Session(path, threads=1)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 1, 28, 28), np.uint8)
    logits = session.run(pixels)
    answers = session.classify(pixels, top=3)
    assert [[label for label, _ in row] for row in answers] == [
        ["abcdefghij"[k] for k in np.argsort(-z)[:3]] for z in logits
    ]
    everything = session.classify(pixels[0], top=99)
    assert len(everything[0]) == 10
    assert sum(p for _, p in everything[0]) == pytest.approx(1)


def test_graph_bytes_is_a_complete_model(path, weights):
    full = onnx.load_from_string(graph_bytes(path))
    onnx.checker.check_model(full, full_check=True)
    assert sum(int(np.prod(t.dims)) for t in full.graph.initializer) == sum(a.size for a in weights.values())


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.zeros((28, 28), np.uint8), r"expected shape \[N, 1, 28, 28\] or \[1, 28, 28\], got \[28, 28\]"),
        (np.zeros((2, 3, 28, 28), np.uint8), r"got \[2, 3, 28, 28\]"),
        (np.zeros((0, 1, 28, 28), np.uint8), r"got \[0, 1, 28, 28\]"),
        (np.zeros((1, 1, 28, 28)), "got float64"),
        (np.zeros((1, 1, 28, 28), np.int64), "got int64"),
        (np.array(3, np.uint8), r"got \[\]"),
    ],
)
def test_wrong_images(path, x, what):
    with pytest.raises(DataError, match=what):
        Session(path, threads=1).run(x)


def tiny(tmp_path, graph, count=1):
    about = Header(Arch("own", "Tiny"), (4,), classes=("a", "b"))
    tensors = tuple(Tensor.of(f"w{i}", stored.free(np.ones((2, 4), np.float32))) for i in range(count))
    container.write(tmp_path / "tiny.press", Press(about, tensors, graph))
    return tmp_path / "tiny.press"


def gemm(weight="t0"):
    return model([node("Gemm", f"x {weight}", "y", transB=1)], shape=(4,), outputs=2).SerializeToString()


def test_unused_tensors_stay_outside(tmp_path):
    full = onnx.load_from_string(graph_bytes(tiny(tmp_path, gemm("t1"), count=3)))
    assert [t.name for t in full.graph.initializer] == ["t1"]


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        (b"", "holds none"),
        (gemm("t7"), "wants tensor t7, the file holds 1"),
        (gemm("t0.codes"), "expected integers with one step"),
        (model([node("Gemm", "x t0", "y")], shape=(4,), outputs=2).SerializeToString(), "ONNX Runtime refuses"),
        (model([node("Loop", "x t0", "y")], shape=(4,), outputs=2).SerializeToString(), "'Loop' is not allowed"),
    ],
)
def test_graphs_that_cannot_run(tmp_path, graph, what, capfd):
    path = tiny(tmp_path, graph)
    with pytest.raises(FileError, match=what) as caught:
        Session(path)
    assert "tiny.press" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_labels_that_do_not_fit(tmp_path):
    nodes = [node("Concat", "x x", "0", axis=1), node("Reshape", "0 c0", "y")]
    graph = model(nodes, shape=(4,), outputs=8, initializers=[integers("c0", [-1, 8])]).SerializeToString()
    with pytest.raises(DataError, match=r"expected outputs \[N, 2\] to classify, got \[1, 8\]"):
        Session(tiny(tmp_path, graph)).classify(np.zeros(4, np.float32))


def test_an_operator_that_fails_on_the_images(tmp_path):
    graph = model([node("Reshape", "x c0", "y")], shape=(4,), outputs=3, initializers=[integers("c0", [-1, 3])])
    with pytest.raises(DataError, match=r"fails on images of shape \(1, 4\)"):
        Session(tiny(tmp_path, graph.SerializeToString())).run(np.zeros(4, np.float32))


def test_neither_torch_nor_onnx_is_imported(path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from netpress.runtime import Session; import numpy as np\n"
        f"print(Session({str(path)!r}, threads=1).run(np.zeros((1, 28, 28), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 10)\n"


def test_normalise_without_numbers():
    about = Header(Arch("own", "Tiny"), (2, 1, 1))
    assert runtime.normalise(np.array([[[0]], [[255]]], np.uint8), about).ravel().tolist() == [0.0, 1.0]
