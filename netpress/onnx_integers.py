"""Passes over ONNX graphs of networks whose activations are integers: what runtimes need to find integer kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

_WEIGHTED = ("Conv", "Gemm", "MatMul")


def integer_weights(graph: ir.Graph, integers: Mapping[str, int | None], sources: Mapping[str, str]) -> dict[str, str]:
    """Let layers whose input comes from a grid take their weight as integers. Changes `graph`.

        weight  ->  DequantizeLinear(weight.codes, weight.scale, weight.zero)

    Args:
        graph: of an exported model.
        integers: initialisers that may go in as integers -> axis of their steps, None for one step.
        sources: initialiser -> its name in the stored graph.

    Returns:
        The new initialisers -> their names in the stored graph.
    """
    made: dict[str, str] = {}
    for node in list(graph):
        weight = node.inputs[1] if node.op_type in _WEIGHTED and len(node.inputs) > 1 else None
        name = None if weight is None else weight.name
        if name is None or name not in integers or not _from_grid(node.inputs[0]):
            continue
        parts = []
        for part in ("codes", "scale", "zero"):
            own = f"{name}.{part}"
            if own not in graph.initializers:
                made[own] = f"{sources[name]}.{part}"
                graph.register_initializer(ir.Value(name=own, const_value=ir.tensor(np.zeros((), np.int8))))
            parts.append(graph.initializers[own])
        axis = integers[name]
        decoded = ir.node("DequantizeLinear", parts, {} if axis is None else {"axis": axis})
        graph.insert_before(node, decoded)
        node.replace_input_with(1, decoded.outputs[0])
    for own in made:
        graph.initializers[own].const_value = None  # from here on no pass can look at a weight
    return made


def _from_grid(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def pool_means(graph: ir.Graph) -> None:
    """Means over height and width that read a grid become global average pools, which have an integer kernel."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2 or not _from_grid(node.inputs[0]):
            continue
        shape, axes = node.outputs[0].shape, _numbers(node.inputs[1])
        kept = node.attributes.get("keepdims")
        if (kept is not None and not kept.as_int()) or shape is None or len(shape) != 4 or axes is None:
            continue
        if {axis % 4 for axis in axes} == {2, 3}:
            pool = ir.node("GlobalAveragePool", [node.inputs[0]])
            graph.insert_before(node, pool)
            result = node.outputs[0]
            pool.outputs[0].name, pool.outputs[0].shape, pool.outputs[0].type = result.name, result.shape, result.type
            ir.convenience.replace_all_uses_with(result, pool.outputs[0], replace_graph_outputs=True)
            graph.remove(node, safe=True)


def _numbers(value: ir.Value | None) -> list[int] | None:
    """A constant list, also where the exporter reshapes it first."""
    while value is not None and value.const_value is None:
        producer = value.producer()
        if producer is None:
            return None
        if producer.op_type == "Constant" and "value" in producer.attributes:
            return [int(n) for n in producer.attributes["value"].as_tensor().numpy().reshape(-1)]
        if producer.op_type == "Constant" and "value_ints" in producer.attributes:
            return [int(n) for n in producer.attributes["value_ints"].as_ints()]
        if producer.op_type not in ("Reshape", "Cast", "Identity"):
            return None
        value = producer.inputs[0]
    return (
        None if value is None or value.const_value is None else [int(n) for n in value.const_value.numpy().reshape(-1)]
    )
