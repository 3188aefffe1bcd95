"""Network -> ONNX graph without weights, and which tensor of the network feeds which of its inputs.

The exporter runs without its optimiser, which would fold batch norm under the old names and merge equal tensors. Our
own passes never look at values: they drop what says nothing (defaults, names, types), and simplify reshapes whose
sizes only depend on the batch.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx import defs
from onnxscript.optimizer import fold_constants
from torch import nn

from netpress.errors import ModelError
from netpress.onnx_integers import integer_weights, pool_means

OPSET = 20
Array = NDArray[np.generic]

_SPREADS = ("Expand", "CastLike", "Cast")
SMALL = 64  # constants of up to this many entries stay inside the graph


def export(net: nn.Module, shape: tuple[int, ...]) -> ir.Model:
    """The network as an ONNX model with its weights, as the exporter writes it, batch size open.

    Args:
        net: any network; left untouched, exported in evaluation mode.
        shape: of one image, (C, H, W).

    Raises:
        ModelError: the exporter cannot follow the network; its first line says where.
    """
    copy = deepcopy(net).cpu().eval().float()
    example = torch.zeros(2, *shape)
    quiet = [logging.getLogger(n) for n in ("torch.onnx", "torch.onnx._internal.exporter._registration")]
    levels = [log.level for log in quiet]
    for log in quiet:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                copy,
                (example,),
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                verbose=False,
            )
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"the network cannot be exported to ONNX: {first}") from error
    finally:
        for log, level in zip(quiet, levels, strict=True):
            log.setLevel(level)
    assert program is not None
    model: ir.Model = program.model
    return model


def without_weights(
    model: ir.Model, sources: Mapping[str, str], *, count: int, integers: Mapping[str, int | None] | None = None
) -> tuple[bytes, list[Array]]:
    """Strip an exported model to the graph that a file holds. Changes `model`.

    Args:
        model: of `export`.
        sources: initialiser name -> its name in the stored graph, e.g. {"conv1.weight": "t0"}.
        count: how many tensors the file holds.
        integers: initialisers that the file holds as integers -> the axis along which their steps vary, None for one
            step. Where a layer's input comes from a grid, such a weight goes in as integers.

    Returns:
        The bytes of the graph, and the large constants that belong to no tensor of the network: the graph calls them
        `t<count>`, `t<count + 1>`, ..., so the caller must store them in this order behind the tensors.
    """
    graph = model.graph
    for name in sources.keys() & graph.initializers.keys():
        graph.initializers[name].const_value = None  # from here on no pass can look at a weight
    _simplify_reshapes(graph)
    _split_at_once(graph)
    sources = {**sources, **integer_weights(graph, integers or {}, sources)}
    pool_means(graph)
    fold_constants(model, input_size_limit=SMALL, output_size_limit=SMALL)
    _drop_zero_biases(graph)
    _drop_identities(graph)
    _drop_dead(graph)
    extra = _rename(graph, sources, count)
    _drop_defaults(graph)
    proto = ir.to_proto(model)
    return _bare(proto), extra


def _simplify_reshapes(graph: ir.Graph) -> None:
    """A reshape to (batch, sizes...) needs no arithmetic on shapes: -1 stands for the batch."""
    for node in list(graph):
        if node.op_type != "Reshape" or node.inputs[1] is None:
            continue
        shape = node.outputs[0].shape
        if shape is None or node.inputs[1].is_initializer() or _is_constant(node.inputs[1]):
            continue
        sizes = [d if isinstance(d, int) else -1 for d in shape]
        if sizes.count(-1) != 1 or 0 in sizes:
            continue
        if len(sizes) == 2 and _same_batch(node.inputs[0], shape):
            _replace(graph, node, ir.node("Flatten", [node.inputs[0]], {"axis": 1}))
            continue
        node.replace_input_with(1, _register(graph, f"{node.outputs[0].name}_shape", sizes))
        node.attributes.pop("allowzero", None)


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant"


def _same_batch(value: ir.Value | None, shape: ir.Shape) -> bool:
    """Whether the batch is the first axis before and after, and the only open one: then Flatten(1) is the reshape."""
    if value is None or value.shape is None:
        return False
    dims = list(value.shape)
    # (n, 64) -> (4 n, 16) has an open first axis too, but another one
    return not isinstance(dims[0], int) and dims[0] == shape[0] and all(isinstance(d, int) for d in dims[1:])


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    graph.insert_before(old, new)
    result = old.outputs[0]
    new.outputs[0].name, new.outputs[0].shape, new.outputs[0].type = result.name, result.shape, result.type
    ir.convenience.replace_all_uses_with(result, new.outputs[0], replace_graph_outputs=True)
    graph.remove(old, safe=True)


def _split_at_once(graph: ir.Graph) -> None:
    """One Split for the sequence that the exporter makes of `chunk` and `split`: runtimes know no sequences."""
    for node in list(graph):
        if node.op_type != "SplitToSequence" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        source, axis, size = node.inputs[0], node.attributes["axis"].as_int(), _constant(node.inputs[1])
        readers = [user for user, _ in node.outputs[0].uses()]
        places = [_constant(user.inputs[1]) for user in readers if user.op_type == "SequenceAt"]
        known = [int(place) for place in places if place is not None]
        total = None if source.shape is None else source.shape[axis]
        if size is None or not isinstance(total, int) or len(known) < len(readers):
            continue
        step = int(size) if size.ndim == 0 else 0
        sizes = [min(step, total - at) for at in range(0, total, step)] if step else size.tolist()
        split = ir.node(
            "Split",
            [source, _register(graph, f"{node.outputs[0].name}_sizes", sizes)],
            {"axis": axis},
            num_outputs=len(sizes),
        )
        graph.insert_before(node, split)
        for user, place in zip(readers, known, strict=True):
            part = split.outputs[place]
            part.shape, part.type = user.outputs[0].shape, user.outputs[0].type
            ir.convenience.replace_all_uses_with(user.outputs[0], part, replace_graph_outputs=True)
            graph.remove(user, safe=True)
        graph.remove(node, safe=True)


def _constant(value: ir.Value | None) -> Array | None:
    """The number or list that a node's input holds; None where it is computed."""
    producer = None if value is None else value.producer()
    if value is not None and value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    if producer is None or producer.op_type != "Constant" or "value" not in producer.attributes:
        return None
    return np.asarray(producer.attributes["value"].as_tensor().numpy())


def _register(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    constant = ir.Value(name=name, const_value=ir.tensor(np.array(numbers, np.int64)))
    graph.register_initializer(constant)
    return constant


def _drop_zero_biases(graph: ir.Graph) -> None:
    """A convolution without a bias is exported with one of zeros: a constant, spread over the channels."""
    for node in graph:
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) < 3:
            continue
        value: ir.Value | None = node.inputs[2]
        while value is not None and (producer := value.producer()) is not None and producer.op_type in _SPREADS:
            value = producer.inputs[0]
        constant = _constant(value)
        if constant is not None and not constant.any():
            node.resize_inputs(2)


def _drop_dead(graph: ir.Graph) -> None:
    """Remove nodes whose results nobody reads, and initialisers that no node reads."""
    wanted = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(output in wanted or output.uses() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in wanted:
            del graph.initializers[name]


def _drop_identities(graph: ir.Graph) -> None:
    """Let the readers of an Identity read its input."""
    for node in list(graph):
        if node.op_type != "Identity" or node.inputs[0] is None:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if result in graph.outputs:
            if source.producer() is None or source in graph.outputs:
                continue  # an output must be some node's own
            source.shape, source.type = result.shape, result.type
            for i, output in enumerate(graph.outputs):
                if output is result:
                    graph.outputs[i] = source
        ir.convenience.replace_all_uses_with(result, source)
        graph.remove(node, safe=True)


def _rename(graph: ir.Graph, sources: Mapping[str, str], count: int) -> list[Array]:
    """Short names for every value; weights leave the graph, small constants stay."""
    extra: list[Array] = []
    initializers = dict(graph.initializers)
    graph.initializers.clear()
    for name, value in initializers.items():
        if name in sources:
            value.name = sources[name]
            continue
        assert value.const_value is not None
        array = np.array(value.const_value.numpy())
        if array.size > SMALL:
            value.name, value.const_value = f"t{count + len(extra)}", None
            extra.append(array)
            continue
        value.name = f"c{len(graph.initializers)}"
        graph.register_initializer(value)
    for node in graph:
        node.name = None
    for i, value in enumerate(graph.inputs):
        value.name = "x" if i == 0 else f"x{i}"
    for i, value in enumerate(v for node in graph for v in node.outputs):
        value.name = f"{i}"
    for i, value in enumerate(graph.outputs):
        value.name = "y" if i == 0 else f"y{i}"
    return extra


def _drop_defaults(graph: ir.Graph) -> None:
    """Attributes that say what the operator's definition says anyway."""
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        schema = defs.get_schema(node.op_type, OPSET)
        for name, attribute in list(node.attributes.items()):
            if _is_default(node, name, attribute, schema):
                del node.attributes[name]


def _is_default(node: ir.Node, name: str, attribute: Any, schema: Any) -> bool:
    value = attribute.value
    if node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool"):
        if name in ("dilations", "strides"):
            return all(v == 1 for v in value)
        if name in ("pads", "output_padding"):
            return all(v == 0 for v in value)
        if name == "kernel_shape" and node.op_type.startswith("Conv"):
            return True  # follows from the weight
    default = schema.attributes[name].default_value if name in schema.attributes else None
    if default is None or default.type == onnx.AttributeProto.UNDEFINED:
        return False
    expected = onnx.helper.get_attribute_value(default)
    expected = expected.decode() if isinstance(expected, bytes) else expected
    return bool(np.float32(value) == np.float32(expected)) if isinstance(expected, float) else bool(value == expected)


def _bare(proto: onnx.ModelProto) -> bytes:
    """Only what a runtime needs: nodes, small constants, one input, the outputs, the operator set."""
    bare = onnx.ModelProto(ir_version=min(proto.ir_version, 10))
    bare.opset_import.add(domain="", version=OPSET)
    graph = bare.graph
    graph.name = "g"
    for node in proto.graph.node:
        copy = graph.node.add(op_type=node.op_type, input=node.input, output=node.output)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            copy.attribute.add().CopyFrom(attribute)
    graph.initializer.extend(proto.graph.initializer)
    for value, mine in [(v, graph.input) for v in proto.graph.input] + [(v, graph.output) for v in proto.graph.output]:
        kept = mine.add(name=value.name)
        kept.type.CopyFrom(value.type)
    return bytes(bare.SerializeToString(deterministic=True))
