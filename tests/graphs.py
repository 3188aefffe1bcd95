"""ONNX graphs for tests, built with the onnx package in the style of our own exporter: short names, no defaults."""

from onnx import TensorProto, helper


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def model(nodes, *, shape, outputs, initializers=(), opset=20):
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])
    graph = helper.make_graph(nodes, "g", [taken], [made], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def integers(name, values):
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def lenet5(*, defaults_dropped=True):
    """Caffe's LeNet-5: 20 and 50 filters of 5 x 5, 500 hidden units."""
    conv = {} if defaults_dropped else {"auto_pad": "NOTSET", "dilations": [1, 1], "group": 1, "pads": [0] * 4}
    conv |= {} if defaults_dropped else {"strides": [1, 1], "kernel_shape": [5, 5]}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pool |= {} if defaults_dropped else {"auto_pad": "NOTSET", "dilations": [1, 1], "pads": [0] * 4, "ceil_mode": 0}
    gemm = {"transB": 1} if defaults_dropped else {"transB": 1, "transA": 0, "alpha": 1.0, "beta": 1.0}
    flat = node("Flatten", "3", "4") if defaults_dropped else node("Reshape", "3 c0", "4", allowzero=1)
    nodes = [
        node("Conv", "x t0 t1", "0", **conv),
        node("MaxPool", "0", "1", **pool),
        node("Conv", "1 t2 t3", "2", **conv),
        node("MaxPool", "2", "3", **pool),
        flat,
        node("Gemm", "4 t4 t5", "5", **gemm),
        node("Relu", "5", "6"),
        node("Gemm", "6 t6 t7", "y", **gemm),
    ]
    constants = [] if defaults_dropped else [integers("c0", [-1, 800])]
    return model(nodes, shape=(1, 28, 28), outputs=10, initializers=constants).SerializeToString()


LENET5_SHAPES = {
    "conv1.weight": (20, 1, 5, 5),
    "conv1.bias": (20,),
    "conv2.weight": (50, 20, 5, 5),
    "conv2.bias": (50,),
    "fc1.weight": (500, 800),
    "fc1.bias": (500,),
    "fc2.weight": (10, 500),
    "fc2.bias": (10,),
}
