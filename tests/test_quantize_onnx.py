"""The stored graph of a quantized network: integer kernels only, integers once, the same answers as our arithmetic."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from contract import one_thread  # noqa: F401
from torch import nn
from toy_nets import toy_context, toy_data

from netpress import export, store
from netpress.candidate import Candidate, Inputs
from netpress.codec import container, onnx_bytes
from netpress.codec.header import Arch
from netpress.errors import FileError
from netpress.methods import Quantize
from netpress.onnx_integers import integer_weights, pool_means
from netpress.rounding import grids
from netpress.runtime import Session, graph_bytes
from netpress.train import Training, fit
from netpress.train.evaluate import logits

WEIGHTS = {"0.weight": (24, 1, 3, 3), "4.weight": (32, 24, 3, 3), "8.weight": (4, 32)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The trained network in floats and in integers, and their files."""
    folder, data = tmp_path_factory.mktemp("quantized"), toy_data()
    own = Candidate(network(), arch=Arch("own", "Toy"), inputs=Inputs(data.shape, data.mean, data.std))
    own = fit(own, Training(epochs=4, lr=0.02, batch=32), toy_context()).candidate
    small = Quantize(samples=96, kernels="reduced").apply(own, toy_context())
    plain = store.save(own, folder / "float.press")
    saved = store.save(small, folder / "small.press")
    assert (plain.note, saved.note) == ("", "")
    return SimpleNamespace(own=own, small=small, folder=folder, press=folder / "small.press", saved=saved, plain=plain)


def operators(model):
    return [node.op_type for node in model.graph.node]


def optimised(press, folder):
    """The graph that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path := folder / "optimised.onnx")
    onnxruntime.InferenceSession(graph_bytes(press), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def test_the_runtime_has_integer_kernels_for_every_layer(made, tmp_path):
    found = operators(optimised(made.press, tmp_path))
    assert found.count("QLinearConv") == 2
    assert found.count("QGemm") == 1
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "ReduceMean", "GlobalAveragePool"} & set(found)
    assert "QLinearGlobalAveragePool" in found
    assert (found.count("QuantizeLinear"), found.count("DequantizeLinear")) == (1, 1)  # images in, logits out
    # the same of floats: the check tells them apart
    plain = operators(optimised(made.folder / "float.press", tmp_path))
    assert "QLinearConv" not in plain
    assert {"Conv", "FusedConv"} & set(plain)


def test_weights_are_integers_and_appear_once(made):
    model = onnx.load_from_string(graph_bytes(made.press))
    whole = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) > 1]
    assert sorted(tuple(i.dims) for i in whole) == sorted(WEIGHTS.values())
    floats = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert max(len(i.dims) for i in floats) == 1
    names = [i.name for i in model.graph.initializer]
    assert len(names) == len(set(names))
    for name, shape in WEIGHTS.items():
        (codes,) = [onnx.numpy_helper.to_array(i) for i in whole if tuple(i.dims) == shape]
        step = made.small.forms[name].values.step
        assert torch.equal(torch.from_numpy(codes.copy()).float() * step, made.small.net.get_parameter(name))


def test_the_file_holds_the_integers_only(made):
    assert made.saved.file_bytes < made.plain.file_bytes / 3
    wanted = onnx_bytes.check(container.read(made.press).graph).wanted
    assert sum(name.endswith(".codes") for name in wanted) == 3


def test_the_runtime_gives_what_our_arithmetic_gives(made):
    session, test = Session(made.press, threads=1), toy_data(images=96, seed=5).train
    mine = logits(made.small.net, test, made.small.inputs).numpy()
    level = [*grids(made.small.net).values()][-1].scale.item()
    off = np.abs(session.run(test.images.numpy()) - mine) / level
    assert (off <= 1.01).mean() >= 0.99
    assert (off < 0.5).mean() >= 0.9
    assert len(np.unique(mine)) > 10
    plain = logits(made.own.net, test, made.own.inputs).numpy()
    assert (np.abs(plain - mine) / level > 0.01).mean() > 0.5  # floats are not what it computes


def test_a_loaded_network_gives_the_same_to_the_bit(made):
    back = store.load(made.press, into=network())
    test = toy_data().test
    mine, theirs = (logits(c.net, test, c.inputs) for c in (made.small, back))
    assert torch.equal(mine, theirs)


def test_other_classes_on_few_images_are_allowed_and_on_more_refused(made, monkeypatch):
    test = toy_data(images=400, seed=5).train
    right = Session.run

    def wrong(images):
        seen = []

        def run(self, x):
            answers = right(self, x).copy()
            first = sum(seen)
            seen.append(len(x))
            for row in range(max(0, min(images - first, len(x)))):
                answers[row] = -answers[row]
            return answers

        return run

    assert export.check(made.press, made.small, test).same_top1 >= 0.995
    monkeypatch.setattr(Session, "run", wrong(2))  # 0.5 % of 400
    assert export.check(made.press, made.small, test).images == 400
    monkeypatch.setattr(Session, "run", wrong(3))
    with pytest.raises(FileError, match="name another class than the network's on 3 of 400 images") as caught:
        export.check(made.press, made.small, test)
    assert 'quantize with kernels = "reduced"' in str(caught.value)
    assert "\n" not in str(caught.value)


# --- passes, on graphs made by hand ---


def value(name, *shape):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def constant(name, array):
    made = value(name, *array.shape)
    made.const_value = ir.tensor(array)
    return made


def decoded(x):
    """`x` behind a grid."""
    scale, zero = constant("s", np.float32(0.5)), constant("z", np.uint8(3))
    quantize = ir.node("QuantizeLinear", [x, scale, zero])
    return quantize, ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero])


def graph_of(inputs, nodes, initializers):
    return ir.Graph(inputs, [nodes[-1].outputs[0]], nodes=nodes, initializers=initializers, opset_imports={"": 20})


@pytest.mark.parametrize("axis", [0, None])
def test_only_layers_behind_a_grid_take_integers(axis):
    x, w, v = value("x", 2, 4), constant("w", np.zeros((4, 4), np.float32)), constant("v", np.zeros((4, 4), np.float32))
    first = ir.node("Gemm", [x, w])  # its input is float
    quantize, dequantize = decoded(first.outputs[0])
    second = ir.node("Gemm", [dequantize.outputs[0], v])
    third = ir.node("Gemm", [dequantize.outputs[0], v])  # the same weight: its integers are there once
    last = ir.node("Add", [second.outputs[0], third.outputs[0]])
    graph = graph_of([x], [first, quantize, dequantize, second, third, last], [w, v])
    integers = {"w": axis, "v": axis}
    made = integer_weights(graph, integers, {"w": "t0", "v": "t1"})
    assert made == {f"v.{part}": f"t1.{part}" for part in ("codes", "scale", "zero")}
    assert first.inputs[1] is w
    for node in (second, third):
        producer = node.inputs[1].producer()
        assert producer.op_type == "DequantizeLinear"
        assert [i.name for i in producer.inputs] == list(made)
        found = producer.attributes.get("axis")
        assert (None if found is None else found.as_int()) == axis
    assert all(graph.initializers[name].const_value is None for name in made)


def test_layers_that_hold_no_integers_stay():
    x, w = value("x", 2, 4), constant("w", np.zeros((4, 4), np.float32))
    quantize, dequantize = decoded(x)
    layer = ir.node("Gemm", [dequantize.outputs[0], w])
    graph = graph_of([x], [quantize, dequantize, layer], [w])
    assert integer_weights(graph, {}, {"w": "t0"}) == {}
    assert layer.inputs[1] is w


@pytest.mark.parametrize(
    ("axes", "keepdims", "behind", "pooled"),
    [
        ([2, 3], 1, True, True),
        ([-1, -2], 1, True, True),
        ([2, 3], 0, True, False),
        ([1, 2], 1, True, False),
        ([2, 3], 1, False, False),
    ],
)
def test_means_over_all_places_are_pools(axes, keepdims, behind, pooled):
    x, over = value("x", 2, 3, 4, 4), constant("axes", np.array(axes, np.int64))
    quantize, dequantize = decoded(x)
    mean = ir.node("ReduceMean", [dequantize.outputs[0] if behind else x, over], {"keepdims": keepdims})
    mean.outputs[0].shape = ir.Shape((2, 3, 1, 1))  # also without keepdims: the attribute counts, whatever a shape says
    nodes = [quantize, dequantize, mean] if behind else [mean]
    graph = graph_of([x], nodes, [over])
    pool_means(graph)
    kinds = [node.op_type for node in graph]
    assert ("GlobalAveragePool" in kinds) is pooled
    assert ("ReduceMean" in kinds) is not pooled
    assert graph.outputs[0].producer() is not None
