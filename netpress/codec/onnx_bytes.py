"""ONNX graphs as protobuf bytes: append tensors, and check a graph before anything runs it; without the onnx package.

The wire format is Protocol Buffers' (https://protobuf.dev/programming-guides/encoding/): a message is a row of
(field number * 8 + wire type, value). Two serialised messages put one after the other read as their merger: that is
how `with_initializers` adds tensors to a graph that it does not parse. Field numbers are those of onnx.proto (IR 10).
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netpress.codec.varint import write_varint
from netpress.errors import FileError

Array = NDArray[np.generic]

MIN_OPSET, MAX_OPSET = 13, 26
MAX_IR = 13
MAX_NODES = 1 << 17
MAX_FIELDS = 1 << 18
"""Fields of one message, repetitions included."""
MAX_INTEGERS = 1 << 14
"""Elements of one integer constant inside the graph (indices, shapes, axes)."""
MAX_FLOATS = 64
"""Elements of one floating-point constant inside the graph (limits of a clip, scales of a resize)."""
MAX_EMBEDDED = 1 << 20
"""Elements of all constants inside the graph together."""
MAX_MODEL_BYTES = (1 << 31) - 1
"""Protocol Buffers' own limit."""

OPERATORS = frozenset(  # a table of words reads better than 90 quoted ones
    """
    Abs Add And ArgMax AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv
    ConvInteger ConvTranspose DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand
    Flatten Floor Gather Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GroupNormalization HardSigmoid HardSwish
    Identity InstanceNormalization LRN LayerNormalization LeakyRelu Less Log LogSoftmax LpNormalization MatMul
    MatMulInteger Max MaxPool Mean Min Mish Mul Neg Not Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Range
    Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Round ScatterND Selu Shape Sigmoid
    Sign Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
)
"""What convolutional networks need; all of the default domain."""

RACING = "ScatterND"
"""Where it adds, ONNX Runtime (1.31.1, 1.32.0) lets threads add to one place at a time and loses sums: two threads on a
busy machine gave wrong answers in up to 10 of 14 passes, one thread in none. Graphs that have it run in one."""

_ELEMENT_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
_TYPE_NAMES = {number: name for name, number in _ELEMENT_TYPES.items()}
_TENSOR_NAME = re.compile(r"t(0|[1-9][0-9]{0,5})(\.codes|\.scale|\.zero)?")

# Wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field number -> may repeat. A field that is not listed is refused: external data (13, 14 of a tensor), subgraphs
# (6, 11 of an attribute), functions (25 of a model), training (20), sparse tensors, references to other attributes.
_MODEL = {1: False, 2: False, 3: False, 4: False, 5: False, 6: False, 7: False, 8: True, 14: True}
_OPSET = {1: False, 2: False}
_GRAPH = {1: True, 2: False, 5: True, 10: False, 11: True, 12: True, 13: True, 16: True}
_NODE = {1: True, 2: True, 3: False, 4: False, 5: True, 6: False, 7: False, 9: True}
_ATTRIBUTE = {1: False, 2: False, 3: False, 4: False, 5: False, 7: True, 8: True, 9: True, 13: False, 20: False}
_TENSOR = {1: True, 2: False, 4: True, 5: True, 7: True, 8: False, 9: False, 10: True, 11: True, 12: False}
_VALUE_INFO = {1: False, 2: False, 3: False}


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a checked graph says of itself.

    Args:
        inputs: names of the values to be fed.
        outputs: names of the results.
        wanted: names of the tensors that must be appended: `t<i>`, `t<i>.codes`, `t<i>.scale`, `t<i>.zero`; in order
            of i, each once.
        operators: the operators used, sorted.
        nodes: number of nodes.
        opset: version of the default operator set.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    wanted: tuple[str, ...]
    operators: tuple[str, ...]
    nodes: int
    opset: int


def tensor_index(name: str) -> int:
    """The i of `t<i>` or `t<i>.<part>`.

    >>> tensor_index("t12.scale")
    12

    Raises:
        FileError: another name.
    """
    match = _TENSOR_NAME.fullmatch(name)
    if match is None:
        raise FileError(f"graph: value {name[:40]!r} comes from nowhere: expected t<i>, an input, or a node's output")
    return int(match[1])


def with_initializers(graph: bytes, tensors: Mapping[str, Array]) -> bytes:
    """Append tensors to a serialised model.

    >>> with_initializers(b"", {"t0": np.array([1, 2], np.int8)}).hex()
    '3a0e2a0c08021003420274304a020102'

    Args:
        graph: an ONNX ModelProto.
        tensors: name -> value.

    Returns:
        An ONNX ModelProto with these initialisers behind those it has.

    Raises:
        FileError: a type ONNX does not have here, or more than 2 GiB in all.
    """
    merged = [_field(5, _tensor_proto(name, value)) for name, value in tensors.items()]
    size = sum(len(part) for part in merged)
    if len(graph) + size > MAX_MODEL_BYTES - 16:
        raise FileError(f"graph with weights: {len(graph) + size} bytes, at most {MAX_MODEL_BYTES} fit into one model")
    return b"".join([graph, write_varint(7 << 3 | _BYTES), write_varint(size), *merged]) if merged else graph


def check(graph: bytes) -> GraphFacts:
    """Walk a graph before anything runs it; refuse whatever a convolutional network does not need.

    Args:
        graph: an ONNX ModelProto, without the weights.

    Raises:
        FileError: damaged bytes, an operator or domain that is not allowed, subgraphs, functions, external data, large
            constants, values that come from nowhere.
    """
    if not graph:
        raise FileError("graph: the file holds none; it was written without one")
    model = _message(graph, _MODEL, "graph")
    if not 3 <= _one_int(model, 1, "IR version") <= MAX_IR:
        raise FileError(f"graph: IR version {_one_int(model, 1, 'IR version')}, 3 to {MAX_IR} are known")
    opset = _opset(model)
    body = _message(_one(model, 7, "graph"), _GRAPH, "graph")
    nodes = body.get(1, [])
    if len(nodes) > MAX_NODES:
        raise FileError(f"graph: {len(nodes)} nodes, at most {MAX_NODES} allowed")
    budget = _Budget()
    constants = [_constant(_bytes(value), budget) for value in body.get(5, [])]
    inputs = [name for name in _value_names(body, 11) if name not in constants]
    known, wanted, operators = set(constants) | set(inputs), set[str](), set[str]()
    if not inputs or any(_TENSOR_NAME.fullmatch(name) for name in known):
        raise FileError(f"graph: expected inputs whose names are not those of tensors, got {inputs[:3]}")
    for value in nodes:
        operator, taken, made = _node(_bytes(value), budget)
        operators.add(operator)
        wanted |= set(taken) - known
        known |= set(made)
        if len(known) > 4 * MAX_NODES or any(_TENSOR_NAME.fullmatch(name) for name in made):
            raise FileError(f"graph: node {operator} makes {made[:3]}: too many values, or the name of a tensor")
    outputs = _value_names(body, 12)
    wanted |= set(outputs) - known
    ordered = sorted(wanted, key=lambda name: (tensor_index(name), name))
    return GraphFacts(tuple(inputs), tuple(outputs), tuple(ordered), tuple(sorted(operators)), len(nodes), opset)


class _Budget:
    """Counts the elements of constants."""

    def __init__(self) -> None:
        self.elements = 0

    def spend(self, elements: int) -> None:
        self.elements += elements
        if self.elements > MAX_EMBEDDED:
            raise FileError(f"graph: constants of more than {MAX_EMBEDDED} elements together")


_Value = int | bytes | memoryview
_Fields = dict[int, list[_Value]]


def _field(number: int, value: bytes) -> bytes:
    return write_varint(number << 3 | _BYTES) + write_varint(len(value)) + value


def _tensor_proto(name: str, value: Array) -> bytes:
    if value.dtype.name not in _ELEMENT_TYPES:
        raise FileError(f"tensor {name}: type {value.dtype} cannot stand in a graph")
    # Unpacked dims: every reader takes both.
    dims = b"".join(b"\x08" + write_varint(size) for size in value.shape)
    kind = b"\x10" + write_varint(_ELEMENT_TYPES[value.dtype.name])
    raw = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
    return dims + kind + _field(8, name.encode()) + _field(9, raw)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if at + index >= len(data):
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (1 << 64) - 1, at + index + 1
    raise FileError("graph: a number is cut or longer than 10 bytes")


def _walk(data: memoryview, where: str) -> Iterator[tuple[int, _Value]]:
    """The fields of one message, in order."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        value: _Value
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if not 0 <= size <= len(data) - at:
            raise FileError(f"{where}: field {number} of wire type {wire} and {size} bytes does not fit")
        yield number, data[at : at + size]
        at += size


def _message(data: bytes | memoryview, fields: Mapping[int, bool], where: str) -> _Fields:
    """Fields of one message by number; refuses unknown ones and repetitions that would hide each other."""
    found: _Fields = {}
    for index, (number, value) in enumerate(_walk(memoryview(data), where)):
        if index >= MAX_FIELDS:
            raise FileError(f"{where}: more than {MAX_FIELDS} fields")
        if number not in fields:
            raise FileError(f"{where}: field {number} is not allowed here (subgraph, function, external data, ...)")
        values = found.setdefault(number, [])
        if values and not fields[number]:
            raise FileError(f"{where}: field {number} appears twice")
        values.append(value)
    return found


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise FileError(f"graph: expected bytes, got the number {value}")
    return memoryview(value)


def _str(value: _Value) -> str:
    try:
        return bytes(_bytes(value)).decode()
    except UnicodeDecodeError:
        raise FileError("graph: a name is not UTF-8") from None


def _one(fields: _Fields, number: int, what: str) -> memoryview:
    if number not in fields:
        raise FileError(f"graph: {what} is missing")
    return _bytes(fields[number][0])


def _one_int(fields: _Fields, number: int, what: str) -> int:
    value = fields.get(number, [0])[0]
    if not isinstance(value, int):
        raise FileError(f"graph: {what}: expected a number")
    return value


def _opset(model: _Fields) -> int:
    versions = []
    for value in model.get(8, []):
        entry = _message(_bytes(value), _OPSET, "graph: operator set")
        _refuse_domain(entry.get(1), "the model")
        versions.append(_one_int(entry, 2, "opset"))
    if len(versions) != 1 or not MIN_OPSET <= versions[0] <= MAX_OPSET:
        raise FileError(f"graph: expected one opset of {MIN_OPSET} to {MAX_OPSET}, got {versions[:4]}")
    return versions[0]


def _refuse_domain(domain: list[_Value] | None, where: str) -> None:
    name = _str(domain[0]) if domain else ""
    if name not in ("", "ai.onnx"):
        raise FileError(f"graph: {where} uses domain {name[:40]!r}; only the default domain is allowed")


def _value_names(body: _Fields, number: int) -> list[str]:
    entries = (_message(_bytes(value), _VALUE_INFO, "graph: value") for value in body.get(number, []))
    return [_str(entry.get(1, [b""])[0]) for entry in entries]


def _node(data: memoryview, budget: _Budget) -> tuple[str, list[str], list[str]]:
    """Operator, names taken, names made."""
    fields = _message(data, _NODE, "graph: node")
    operator = _str(fields.get(4, [b""])[0])
    if operator not in OPERATORS:
        raise FileError(f"graph: operator {operator[:40]!r} is not allowed; see docs/format.md for those that are")
    _refuse_domain(fields.get(7), f"node {operator}")
    for value in fields.get(5, []):
        attribute = _message(_bytes(value), _ATTRIBUTE, f"graph: attribute of {operator}")
        budget.spend(sum(1 if isinstance(v, int) else len(v) for n in (7, 8, 9) for v in attribute.get(n, [])))
        if 5 in attribute:
            _constant(_bytes(attribute[5][0]), budget)
    names = [[_str(name) for name in fields.get(number, [])] for number in (1, 2)]
    return operator, [name for name in names[0] if name], [name for name in names[1] if name]


def _constant(data: memoryview, budget: _Budget) -> str:
    """Check a tensor that the graph brings along; its name."""
    fields = _message(data, _TENSOR, "graph: constant")
    name = _str(fields.get(8, [b""])[0])
    dims = [size for value in fields.get(1, []) for size in _integers(value)]
    kind = _TYPE_NAMES.get(_one_int(fields, 2, "element type"))
    elements = math.prod(dims)
    limit = MAX_FLOATS if kind in ("float16", "float32", "float64") else MAX_INTEGERS
    if kind is None or elements > limit or any(size > limit for size in dims):
        raise FileError(f"graph: constant {name[:40]!r}: {kind} of {elements} elements, at most {limit} allowed")
    if sum(1 if isinstance(v, int) else len(v) for n in (4, 5, 7, 9, 10, 11) for v in fields.get(n, [])) > 10 * limit:
        raise FileError(f"graph: constant {name[:40]!r}: more bytes than its {elements} elements take")
    budget.spend(max(elements, 1))
    return name


def _integers(value: _Value) -> list[int]:
    """A repeated integer field, packed or not."""
    if isinstance(value, int):
        return [value]
    data, at, numbers = memoryview(value), 0, list[int]()
    while at < len(data) and len(numbers) <= 32:
        number, at = _varint(data, at)
        numbers.append(number)
    return numbers
