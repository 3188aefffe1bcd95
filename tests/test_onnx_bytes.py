import tracemalloc

import numpy as np
import onnx
import pytest
from graphs import LENET5_SHAPES, integers, lenet5, model, node
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from netpress.codec import onnx_bytes
from netpress.codec.onnx_bytes import check, tensor_index, with_initializers
from netpress.codec.varint import write_varint
from netpress.errors import FileError

TYPES = (
    "float16",
    "float32",
    "float64",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)


def relu(**changes):
    """The smallest good model, to be spoilt."""
    return model([node("Relu", "x", "y")], shape=(1, 2), outputs=2, **changes)


def test_initializers_are_merged_bit_for_bit():
    rng = np.random.default_rng(0)
    tensors = {f"t{i}": rng.normal(size=shape).astype(np.float32) for i, shape in enumerate(LENET5_SHAPES.values())}
    merged = onnx.load_from_string(with_initializers(lenet5(defaults_dropped=False), tensors))
    onnx.checker.check_model(merged, full_check=True)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in merged.graph.initializer}
    assert set(found) == {*tensors, "c0"}
    assert all(found[name].tobytes() == tensor.tobytes() for name, tensor in tensors.items())
    assert len(merged.graph.node) == 8


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (1, 300)])
def test_every_type_and_shape(dtype, shape):
    value = np.arange(np.prod(shape), dtype=np.float64).reshape(shape).astype(dtype)
    (tensor,) = onnx.load_from_string(with_initializers(relu().SerializeToString(), {"t0": value})).graph.initializer
    back = numpy_helper.to_array(tensor)
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    assert (back == value).all()


def test_nothing_to_append():
    assert with_initializers(b"abc", {}) == b"abc"


def test_a_type_that_onnx_lacks():
    with pytest.raises(FileError, match="complex64 cannot stand"):
        with_initializers(b"", {"t0": np.zeros(1, np.complex64)})


def test_more_than_two_gibibytes_are_refused():
    # Only the length is asked for before the refusal, so none of it needs to exist.
    monster = type("Monster", (bytes,), {"__len__": lambda self: onnx_bytes.MAX_MODEL_BYTES})()
    with pytest.raises(FileError, match="fit into one model"):
        with_initializers(monster, {"t0": np.zeros(1, np.float32)})


def test_facts_of_lenet5():
    facts = check(lenet5())
    assert (facts.inputs, facts.outputs, facts.opset, facts.nodes) == (("x",), ("y",), 20, 8)
    assert facts.wanted == tuple(f"t{i}" for i in range(8))
    assert facts.operators == ("Conv", "Flatten", "Gemm", "MaxPool", "Relu")


def test_facts_of_an_integer_graph():
    nodes = [
        node("DequantizeLinear", "t10.codes t10.scale t10.zero", "w", axis=0),
        node("Gemm", "x w t2", "y"),
    ]
    facts = check(model(nodes, shape=(4,), outputs=3).SerializeToString())
    assert facts.wanted == ("t2", "t10.codes", "t10.scale", "t10.zero")
    assert [tensor_index(name) for name in facts.wanted] == [2, 10, 10, 10]


def test_constants_that_stay_in_the_graph():
    nodes = [
        node("Constant", "", "a", value_ints=[-1, 2]),
        node("Constant", "", "b", value=helper.make_tensor("", TensorProto.FLOAT, [], [0.0])),
        node("Reshape", "x a", "c"),
        node("Max", "c b", "y"),
    ]
    assert check(model(nodes, shape=(2,), outputs=2).SerializeToString()).wanted == ()
    flat = [node("Gather", "x c0", "y", axis=1)]
    data = model(flat, shape=(500,), outputs=500, initializers=[integers("c0", range(500))]).SerializeToString()
    assert check(data).nodes == 1


def spoilt():
    inner = helper.make_graph([], "inner", [], [])
    floats = helper.make_tensor("c0", TensorProto.FLOAT, [65], [0.0] * 65)
    outside = TensorProto(name="c0", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    listed = TensorProto(name="c0", dims=[1], data_type=1)
    listed.external_data.add(key="location", value="x")
    sparse = onnx.SparseTensorProto(values=floats)
    lying = TensorProto(name="c0", dims=[2], data_type=7, raw_data=b"\0" * 200_000)
    negative = TensorProto(name="c0", dims=[-1], data_type=7)
    text = TensorProto(name="c0", dims=[1], data_type=8, string_data=[b"x"])

    def build(change):
        m = relu()
        change(m)
        return m.SerializeToString()

    def with_node(**changes):
        n = node(changes.pop("op", "Relu"), changes.pop("inputs", "x"), changes.pop("outputs", "y"), **changes)
        return model([n], shape=(2,), outputs=2).SerializeToString()

    def constant(tensor):
        return relu(initializers=[tensor]).SerializeToString()

    good = relu().SerializeToString()
    return {
        "empty": (b"", "holds none"),
        "text": (b"hello, this is no protobuf", "graph"),
        "cut": (good[:-1], "cut|does not fit|missing"),
        "operator": (with_node(op="Loop"), "'Loop' is not allowed"),
        "if": (with_node(op="If", then_branch=inner), "'If' is not allowed"),
        "subgraph": (with_node(body=inner), "field 6"),
        "subgraphs": (with_node(bodies=[inner, inner]), "field 11"),
        "foreign domain": (with_node(domain="com.microsoft"), "com.microsoft"),
        "foreign opset": (build(lambda m: m.opset_import.add(domain="com.evil", version=1)), "com.evil"),
        "two opsets": (build(lambda m: m.opset_import.add(domain="", version=20)), "opset"),
        "old opset": (relu(opset=12).SerializeToString(), "opset"),
        "new opset": (relu(opset=99).SerializeToString(), "opset"),
        "functions": (build(lambda m: m.functions.add(name="f")), "field 25"),
        "training": (build(lambda m: m.training_info.add()), "field 20"),
        "external": (constant(outside), "field 1[34]"),
        "external list": (constant(listed), "field 13"),
        "sparse": (build(lambda m: m.graph.sparse_initializer.append(sparse)), "field 15"),
        "sparse attribute": (with_node(value=sparse), "field 22"),
        "many floats": (constant(floats), "65 elements"),
        "lying constant": (constant(lying), "more bytes"),
        "negative dimension": (constant(negative), "elements"),
        "strings": (constant(text), "field 6"),
        "weight inside": (constant(integers("t0", [1])), "not those of tensors"),
        "attribute of a function": (
            build(lambda m: m.graph.node[0].attribute.add(name="a", ref_attr_name="b")),
            "field 21",
        ),
        "from nowhere": (with_node(inputs="z"), "'z' comes from nowhere"),
        "odd index": (with_node(inputs="t01"), "comes from nowhere"),
        "output from nowhere": (with_node(outputs="q"), "'y' comes from nowhere"),
        "makes a tensor": (with_node(outputs="t5"), "name of a tensor"),
        "no input": (build(lambda m: m.graph.ClearField("input")), "expected inputs"),
        "two graphs": (with_initializers(good, {"t0": np.zeros(1, np.float32)}), "field 7 appears twice"),
        "group wire type": (good + b"\x0b\x0c", "wire type 3|not allowed"),
        "IR": (build(lambda m: setattr(m, "ir_version", 99)), "IR version 99"),
    }


@pytest.mark.parametrize("case", spoilt())
def test_spoilt_graphs(case):
    data, what = spoilt()[case]
    with pytest.raises(FileError, match=what) as caught:
        check(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inner", [b"\x0a\x00", b"\x12\x00", b"\x2a\x00"])
def test_many_empty_fields_take_little_memory(inner, monkeypatch):
    monkeypatch.setattr(onnx_bytes, "MAX_FIELDS", 1 << 14)  # as it is: 50 MB, and too slow to trace here
    body = inner * 2_000_000
    bomb = b"\x08\x0a" + b"B\x04\n\x00\x10\x14" + b"\x3a" + write_varint(len(body)) + body
    tracemalloc.start()
    with pytest.raises(FileError, match=r"more than 16384 fields|appears twice"):
        check(bomb)
    assert tracemalloc.get_traced_memory()[1] < 6_000_000
    tracemalloc.stop()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_never_crash(data):
    raw = bytearray(lenet5(defaults_dropped=False))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        facts = check(bytes(raw[: data.draw(st.integers(1, len(raw)))]))
    except FileError:
        return
    assert set(facts.operators) <= onnx_bytes.OPERATORS
    assert all(tensor_index(name) >= 0 for name in facts.wanted)


def test_the_list_of_operators_is_onnx_own():
    assert {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain} >= onnx_bytes.OPERATORS
    control = {"If", "Loop", "Scan", "SequenceMap", "Optional"}
    assert not control & onnx_bytes.OPERATORS
