// ONNX graphs as protobuf bytes: check a graph before anything runs it, and append tensors (docs/format.md, section 6).

import { FileError, brief, concat, text, varintBytes } from "./bytes.js";

const [MIN_OPSET, MAX_OPSET, MAX_IR] = [13, 26, 13];
const MAX_NODES = 1 << 17;
const MAX_FIELDS = 1 << 18;
const MAX_INTEGERS = 1 << 14;
const MAX_FLOATS = 64;
const MAX_EMBEDDED = 1 << 20;
const MAX_MODEL_BYTES = 2 ** 31 - 1;

const OPERATORS = new Set(
  `Abs Add And ArgMax AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv
  ConvInteger ConvTranspose DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand
  Flatten Floor Gather Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GroupNormalization HardSigmoid HardSwish
  Identity InstanceNormalization LRN LayerNormalization LeakyRelu Less Log LogSoftmax LpNormalization MatMul
  MatMulInteger Max MaxPool Mean Min Mish Mul Neg Not Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Range
  Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Round ScatterND Selu Shape Sigmoid
  Sign Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Transpose Unsqueeze Where`
    .split(/\s+/),
);
const ELEMENT_TYPES = {
  float32: 1, uint8: 2, int8: 3, uint16: 4, int16: 5, int32: 6, int64: 7, bool: 9, float16: 10, float64: 11,
  uint32: 12, uint64: 13,
};
const KNOWN_TYPES = new Set(Object.values(ELEMENT_TYPES));
const FLOAT_TYPES = new Set([1, 10, 11]);
const TENSOR_NAME = /^t(0|[1-9][0-9]{0,5})(?:\.(codes|scale|zero))?$/;
const BYTES = 2; // wire types: 0 is a varint
const FIXED = { 1: 8, 5: 4 };

// Field number -> may repeat. A field that is not listed is refused: external data, subgraphs, functions, ...
const MODEL = { 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0, 8: 1, 14: 1 };
const OPSET = { 1: 0, 2: 0 };
const GRAPH = { 1: 1, 2: 0, 5: 1, 10: 0, 11: 1, 12: 1, 13: 1, 16: 1 };
const NODE = { 1: 1, 2: 1, 3: 0, 4: 0, 5: 1, 6: 0, 7: 0, 9: 1 };
const ATTRIBUTE = { 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 7: 1, 8: 1, 9: 1, 13: 0, 20: 0 };
const TENSOR = { 1: 1, 2: 0, 4: 1, 5: 1, 7: 1, 8: 0, 9: 0, 10: 1, 11: 1, 12: 0 };
const VALUE_INFO = { 1: 0, 2: 0, 3: 0 };

/** The i and the part ("" for the whole tensor) of `t<i>` or `t<i>.<part>`. */
export function splitName(name) {
  const match = TENSOR_NAME.exec(name);
  if (!match) {
    const known = "expected t<i>, an input, or a node's output";
    throw new FileError(`graph: value ${brief(name)} comes from nowhere: ${known}`);
  }
  return [Number(match[1]), match[2] ?? ""];
}

/** Append tensors, `[name, {dtype, shape, bytes}]` each, to a serialised model. */
export function withInitializers(graph, tensors) {
  if (!tensors.length) return graph;
  const merged = concat(tensors.map(([name, value]) => field(5, tensorProto(name, value))));
  if (graph.length + merged.length > MAX_MODEL_BYTES - 16) {
    throw new FileError(`graph with weights: more than the ${MAX_MODEL_BYTES} bytes that fit into one model`);
  }
  return concat([graph, field(7, merged)]);
}

const field = (number, value) => concat([varintBytes(number * 8 + BYTES), varintBytes(value.length), value]);

function tensorProto(name, { dtype, shape, bytes }) {
  const dims = shape.flatMap((size) => [Uint8Array.of(8), varintBytes(size)]);
  const kind = Uint8Array.of(0x10, ELEMENT_TYPES[dtype]);
  return concat([...dims, kind, field(8, new TextEncoder().encode(name)), field(9, bytes)]);
}

/** Walk a graph before anything runs it: names of inputs, outputs, and of the tensors to append; operators; nodes. */
export function checkGraph(graph) {
  if (!graph.length) throw new FileError("graph: the file holds none; it was written without one");
  const model = message(graph, MODEL, "graph");
  const version = oneNumber(model, 1, "IR version");
  if (version < 3 || version > MAX_IR) throw new FileError(`graph: IR version ${version}, 3 to ${MAX_IR} are known`);
  checkOpset(model);
  if (!model.has(7)) throw new FileError("graph: graph is missing");
  const body = message(bytesOf(model.get(7)[0]), GRAPH, "graph");
  const nodes = body.get(1) ?? [];
  if (nodes.length > MAX_NODES) throw new FileError(`graph: ${nodes.length} nodes, at most ${MAX_NODES} allowed`);
  const budget = { elements: 0 };
  const constants = (body.get(5) ?? []).map((value) => constant(bytesOf(value), budget));
  const taken = new Set(constants);
  const inputs = valueNames(body, 11).filter((name) => !taken.has(name));
  const known = new Set([...constants, ...inputs]);
  if (!inputs.length || [...known].some((name) => TENSOR_NAME.test(name))) {
    const got = brief(inputs.slice(0, 3));
    throw new FileError(`graph: expected inputs whose names are not those of tensors, got ${got}`);
  }
  const [wanted, operators] = walkNodes(nodes, known, budget);
  const outputs = valueNames(body, 12);
  for (const name of outputs) if (!known.has(name)) wanted.add(name);
  const order = [...wanted].map((name) => [splitName(name)[0], name]);
  order.sort((a, b) => a[0] - b[0] || (a[1] < b[1] ? -1 : 1));
  const names = order.map(([, name]) => name);
  return { inputs, outputs, wanted: names, operators: [...operators].sort(), nodes: nodes.length };
}

function walkNodes(nodes, known, budget) {
  const wanted = new Set();
  const operators = new Set();
  for (const value of nodes) {
    const [operator, taken, made] = node(bytesOf(value), budget);
    operators.add(operator);
    for (const name of taken) if (!known.has(name)) wanted.add(name);
    for (const name of made) known.add(name);
    if (known.size > 4 * MAX_NODES || made.some((name) => TENSOR_NAME.test(name))) {
      const what = "too many values, or the name of a tensor";
      throw new FileError(`graph: node ${operator} makes ${brief(made.slice(0, 3))}: ${what}`);
    }
  }
  return [wanted, operators];
}

function node(data, budget) {
  const fields = message(data, NODE, "graph: node");
  const operator = string(fields.get(4));
  if (!OPERATORS.has(operator)) {
    throw new FileError(`graph: operator ${brief(operator)} is not allowed; see docs/format.md for those that are`);
  }
  refuseDomain(fields.get(7), `node ${operator}`);
  for (const value of fields.get(5) ?? []) {
    const attribute = message(bytesOf(value), ATTRIBUTE, `graph: attribute of ${operator}`);
    spend(budget, weight(attribute, [7, 8, 9]));
    if (attribute.has(5)) constant(bytesOf(attribute.get(5)[0]), budget);
  }
  const [taken, made] = [1, 2].map((number) => (fields.get(number) ?? []).map((name) => string([name])));
  return [operator, taken.filter(Boolean), made.filter(Boolean)];
}

/** Check a tensor that the graph brings along; its name. */
function constant(data, budget) {
  const fields = message(data, TENSOR, "graph: constant");
  const name = string(fields.get(8));
  const dims = (fields.get(1) ?? []).flatMap(integers);
  const kind = oneNumber(fields, 2, "element type");
  const elements = dims.includes(0) ? 0 : dims.reduce((a, b) => a * b, 1);
  const limit = FLOAT_TYPES.has(kind) ? MAX_FLOATS : MAX_INTEGERS;
  if (!KNOWN_TYPES.has(kind) || elements > limit || dims.some((size) => size > limit)) {
    const got = `${elements} elements of type ${kind}`;
    throw new FileError(`graph: constant ${brief(name)}: ${got}, at most ${limit} allowed`);
  }
  if (weight(fields, [4, 5, 7, 9, 10, 11]) > 10 * limit) {
    throw new FileError(`graph: constant ${brief(name)}: more bytes than its ${elements} elements take`);
  }
  spend(budget, Math.max(elements, 1));
  return name;
}

function weight(fields, numbers) {
  let sum = 0;
  for (const n of numbers) for (const v of fields.get(n) ?? []) sum += typeof v === "number" ? 1 : v.length;
  return sum;
}

function spend(budget, elements) {
  budget.elements += elements;
  if (budget.elements > MAX_EMBEDDED) {
    throw new FileError(`graph: constants of more than ${MAX_EMBEDDED} elements together`);
  }
}

/** A repeated integer field, packed or not; one more than any shape has is enough to refuse it. */
function integers(value) {
  if (typeof value === "number") return [value];
  const numbers = [];
  for (let at = 0; at < value.length && numbers.length <= 32; ) {
    const [number, after] = wireVarint(value, at);
    numbers.push(number);
    at = after;
  }
  return numbers;
}

function checkOpset(model) {
  const versions = (model.get(8) ?? []).map((value) => {
    const entry = message(bytesOf(value), OPSET, "graph: operator set");
    refuseDomain(entry.get(1), "the model");
    return oneNumber(entry, 2, "opset");
  });
  if (versions.length !== 1 || versions[0] < MIN_OPSET || versions[0] > MAX_OPSET) {
    const got = brief(versions.slice(0, 4));
    throw new FileError(`graph: expected one opset of ${MIN_OPSET} to ${MAX_OPSET}, got ${got}`);
  }
}

function refuseDomain(domain, where) {
  const name = string(domain);
  if (name !== "" && name !== "ai.onnx") {
    throw new FileError(`graph: ${where} uses domain ${brief(name)}; only the default domain is allowed`);
  }
}

function valueNames(body, number) {
  return (body.get(number) ?? []).map((value) => string(message(bytesOf(value), VALUE_INFO, "graph: value").get(1)));
}

/** The first value of a field as text; "" where there is none. */
function string(values) {
  return values ? text(bytesOf(values[0]), "graph: a name") : "";
}

function bytesOf(value) {
  if (typeof value === "number") throw new FileError(`graph: expected bytes, got the number ${value}`);
  return value;
}

function oneNumber(fields, number, what) {
  const value = fields.get(number)?.[0] ?? 0;
  if (typeof value !== "number") throw new FileError(`graph: ${what}: expected a number`);
  return value;
}

/** Protobuf's varint: at most 10 bytes, 64 bits kept; exact up to 2^53, above that only its size matters. */
function wireVarint(data, at) {
  let value = 0n;
  for (let i = 0; i < 10 && at + i < data.length; i++) {
    const byte = data[at + i];
    value |= BigInt(byte & 0x7f) << BigInt(7 * i);
    if (byte < 0x80) return [Number(BigInt.asUintN(64, value)), at + i + 1];
  }
  throw new FileError("graph: a number is cut or longer than 10 bytes");
}

/** Fields of one message by number; refuses unknown ones and repetitions that would hide each other. */
function message(data, fields, where) {
  const found = new Map();
  let count = 0;
  for (let at = 0; at < data.length; count++) {
    const [key, after] = wireVarint(data, at);
    const [number, value, end] = wireValue(data, after, key, where);
    at = end;
    if (count >= MAX_FIELDS) throw new FileError(`${where}: more than ${MAX_FIELDS} fields`);
    if (!Object.hasOwn(fields, number)) {
      const what = "subgraph, function, external data, ...";
      throw new FileError(`${where}: field ${number} is not allowed here (${what})`);
    }
    const values = found.get(number) ?? [];
    if (values.length && !fields[number]) throw new FileError(`${where}: field ${number} appears twice`);
    values.push(value);
    found.set(number, values);
  }
  return found;
}

function wireValue(data, at, key, where) {
  const number = Math.floor(key / 8);
  const wire = key % 8;
  if (wire === 0) {
    const [value, end] = wireVarint(data, at);
    return [number, value, end];
  }
  let size = FIXED[wire] ?? -1;
  if (wire === BYTES) [size, at] = wireVarint(data, at);
  if (size < 0 || size > data.length - at) {
    throw new FileError(`${where}: field ${number} of wire type ${wire} and ${size} bytes does not fit`);
  }
  return [number, data.subarray(at, at + size), at + size];
}
