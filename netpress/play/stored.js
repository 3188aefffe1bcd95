// One tensor: from its payload to its values, bit for bit (docs/format.md, section 4).

import { FileError, NEWER, bigVarint, brief, product, varint } from "./bytes.js";
import { decode, isWhole, looksAround, nonzero, parseChain, readGaps } from "./chains.js";
import { readContext } from "./context.js";
import { WIDTHS, floatOf, integerLimits, readFloats, writeConverted, writeWhole } from "./floats.js";
import { readLogistic } from "./logistic.js";
import { alphabetOf, meaning, readGrid, readSide } from "./sides.js";

const FORMS = ["free", "shared", "signs", "affine"];
const MAX_ELEMENTS = 2 ** 31;
const MAX_AXES = 32;
const MAX_TABLE = 65536;
const MAX_LOW = 2n ** 61n;

/** Check what a header says of a tensor; bytes of the restored tensor. */
export function restoredBytes({ shape, form, dtype, chain }) {
  if (!FORMS.includes(form) || !Object.hasOwn(WIDTHS, dtype)) {
    throw new FileError(`form ${brief(form)} of type ${brief(dtype)}: ${NEWER}`);
  }
  if ((form === "signs" || form === "affine") && dtype !== "float32") {
    throw new FileError(`form ${form} is for float32, got ${dtype}`);
  }
  if (isWhole(parseChain(chain, form)) && !integerLimits(dtype)) {
    throw new FileError(`chain ${chain} is for integers, got ${dtype}`);
  }
  let elements = 1;
  for (const size of shape) elements = elements > MAX_ELEMENTS ? elements : elements * Math.max(Number(size), 1);
  if (shape.length > MAX_AXES || elements > MAX_ELEMENTS) {
    throw new FileError(`shape ${brief(shape)}: at most ${MAX_AXES} axes and ${MAX_ELEMENTS} elements allowed`);
  }
  return product(shape) * WIDTHS[dtype];
}

/** Read a tensor's payload: its support (null: everywhere), and codes or values inside it. */
export function unpack(tensor) {
  const { data, shape, form, dtype } = tensor;
  restoredBytes(tensor);
  const how = parseChain(tensor.chain, form);
  const elements = product(shape);
  if (isWhole(how)) return { whole: readWhole(data, how, elements, dtype), positions: null };
  if (form === "free") {
    const [positions, at] = readFreeSupport(data, how, shape, elements);
    const count = positions ? positions.length : elements;
    return { values: checkValues(data.subarray(at), count, dtype, how.half), positions, how };
  }
  const front = readFront(data, how, form, shape);
  const [positions, codes] = readCodes(data.subarray(front.at), how, front, shape, elements);
  return { ...front, positions, codes };
}

/** The tensor's little-endian bytes, +0 outside the support. */
export function restore(tensor) {
  const found = unpack(tensor);
  const width = WIDTHS[tensor.dtype];
  const elements = product(tensor.shape);
  const out = new Uint8Array(elements * width);
  const view = new DataView(out.buffer);
  const { positions } = found;
  if (found.whole) {
    found.whole.forEach((value, i) => writeWhole(view, i * width, value, width));
  } else if (found.values) {
    placeValues(out, view, found, width);
  } else {
    const { table, side, codes } = found;
    const value = table ? (code) => table[code] : meaning(side);
    for (let i = 0; i < codes.length; i++) {
      const position = positions ? positions[i] : i;
      writeConverted(view, position * width, value(codes[i], position), tensor.dtype);
    }
  }
  return out;
}

function placeValues(out, view, { values, positions, how }, width) {
  if (how.half) {
    const bits = readFloats(values, values.length / 2, true);
    bits.forEach((value, i) => view.setUint32(4 * (positions ? positions[i] : i), value, true));
  } else if (positions) {
    positions.forEach((position, i) => out.set(values.subarray(i * width, (i + 1) * width), position * width));
  } else {
    out.set(values);
  }
}

/** What `DequantizeLinear` takes of a tensor on a grid: int8 codes, float32 scale, int8 zero point, as bytes. */
export function quantized(tensor) {
  const { side, table, codes, positions } = unpack(tensor);
  if (!side || !side.bits || side.axes.length > 1) {
    throw new FileError(`form ${tensor.form}: expected integers with one step, or with steps along one axis`);
  }
  const middle = 1 << (side.bits - 1);
  const flat = new Int8Array(product(tensor.shape)).fill(side.zero - middle);
  for (let i = 0; i < codes.length; i++) {
    flat[positions ? positions[i] : i] = (table ? side.codes[codes[i]] : codes[i]) - middle;
  }
  const dims = side.axes.length ? [side.scales.length] : [];
  const scale = new Uint8Array(4 * side.scales.length);
  const view = new DataView(scale.buffer);
  side.scales.forEach((step, i) => view.setFloat32(4 * i, step, true));
  const zero = new Int8Array(side.scales.length).fill(side.zero - middle);
  const int8 = (values, shape) => ({ dtype: "int8", shape, bytes: new Uint8Array(values.buffer) });
  return {
    codes: int8(flat, tensor.shape),
    scale: { dtype: "float32", shape: dims, bytes: scale },
    zero: int8(zero, dims),
  };
}

function checkValues(data, count, dtype, half) {
  const width = half ? 2 : WIDTHS[dtype];
  if (half && dtype !== "float32") throw new FileError(`half is for float32, got ${dtype}`);
  if (data.length !== count * width) {
    throw new FileError(`expected ${count * width} bytes for ${count} values, got ${data.length}`);
  }
  if (dtype === "bool" && data.some((value) => value > 1)) throw new FileError("a truth value is neither 0 nor 1");
  return data;
}

function readWhole(data, how, count, dtype) {
  const [folded, after] = bigVarint(data, 0);
  const [size, at] = varint(data, after);
  const low = folded & 1n ? (folded + 1n) / 2n : -(folded / 2n);
  const [least, most] = integerLimits(dtype);
  if (size < 1 || size > 65536 || low <= -MAX_LOW || low >= MAX_LOW) {
    throw new FileError(`whole numbers from ${low} on that span ${size}: at most 65536 from within 2^61 allowed`);
  }
  if (low < least || low + BigInt(size) - 1n > most) {
    throw new FileError(`whole numbers ${low} to ${low + BigInt(size) - 1n} do not fit ${dtype}`);
  }
  const symbols = decode(data.subarray(at), size, count, how.first);
  if (how.place === "steps") {
    for (let i = 1; i < count; i++) symbols[i] = (symbols[i - 1] + symbols[i]) % size;
  }
  return Array.from(symbols, (symbol) => low + BigInt(symbol));
}

function readFreeSupport(data, how, shape, elements) {
  if (!how.place) return [null, 0];
  if (how.place !== "mask") return readGaps(data, 0, how, elements);
  const [size, at] = varint(data, 0);
  if (size > data.length - at) throw new FileError(`a mask of ${size} bytes does not fit into ${data.length}`);
  const stream = data.subarray(at, at + size);
  if (looksAround(how)) return [readAround(stream, how, 0, 1, shape)[0], at + size];
  return [nonzero(decode(stream, 2, elements, how.first)), at + size];
}

/** Table or scales, how many codes there are, and where these begin. */
function readFront(data, how, form, shape) {
  if (form !== "shared") {
    const [side, at] = readSide(data, 0, form, shape, how.half);
    return { side, size: alphabetOf(side), at };
  }
  const [size, at] = varint(data, 0);
  const width = how.half ? 2 : 4;
  if (size > MAX_TABLE || (how.grid ? 0 : size * width) > data.length - at) {
    throw new FileError(`a table of ${size} values does not fit into ${data.length} bytes, or exceeds ${MAX_TABLE}`);
  }
  if (how.grid) {
    const [side, table, end] = readGrid(data, at, size);
    return { table, side, size, at: end };
  }
  const end = at + size * width;
  return { table: readFloats(data.subarray(at, end), size, how.half), size, at: end };
}

function readCodes(data, how, front, shape, elements) {
  const { size } = front;
  if (looksAround(how)) return readAround(data, how, zeroOf(front, how.place === "mask"), size, shape);
  if (!how.place) return [null, decode(data, size, elements, how.first)];
  if (how.place === "mask") {
    const symbols = decode(data, size + 1, elements, how.first);
    const positions = nonzero(symbols);
    return [positions, Int32Array.from(positions, (position) => symbols[position] - 1)];
  }
  const [positions, at] = readGaps(data, 0, how, elements);
  return [positions, decode(data.subarray(at), size, positions.length, how.second)];
}

/** The code that stands for zero, or would. */
function zeroOf({ table, side }, masked) {
  if (!table) return side.bits ? side.zero : 1;
  const values = Array.from(table, floatOf);
  if (masked) return values.filter((value) => value < 0).length;
  const sizes = values.map((value) => (Number.isNaN(value) ? Infinity : Math.abs(value)));
  return sizes.reduce((best, size, i) => (size < sizes[best] ? i : best), 0);
}

/** Positions and codes of a stream of numbers around zero. */
function readAround(data, how, zero, size, shape) {
  const [numbers, close] = how.first === "context" ? readContext(data, shape) : [readLogistic(data, shape), 0];
  const masked = how.place === "mask";
  if (close && !masked) throw new FileError(`${how.first} stream: bit 0 is for tensors with a support`);
  const positions = masked ? nonzero(numbers) : null;
  const count = masked ? positions.length : numbers.length;
  const codes = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const number = numbers[masked ? positions[i] : i];
    codes[i] = number + zero - (masked && !close && number > 0 ? 1 : 0);
    if (codes[i] < 0 || codes[i] >= size) {
      throw new FileError(`${how.first} stream: codes below ${size} expected, got ${codes[i]}`);
    }
  }
  return [positions, codes];
}
