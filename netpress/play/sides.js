// Side data: scales of sign patterns, steps of integer grids (docs/format.md, section 4).

import { unpackBits } from "./bits.js";
import { FileError, bigVarint } from "./bytes.js";
import { bitsOf, floatOf, readFloats } from "./floats.js";

const MIN_STEP = 2 ** -126;
const MAX_STEP = 2 ** 119;

/** How many codes there are. */
export const alphabetOf = (side) => (side.bits ? 1 << side.bits : 2);

/** Side data at byte `start`, and the byte behind it. */
export function readSide(data, start, form, shape, half) {
  let [flags, at] = bigVarint(data, start);
  const axes = [];
  flags >>= 1n;
  for (let axis = 0; flags >> BigInt(axis); axis++) if ((flags >> BigInt(axis)) & 1n) axes.push(axis);
  if (axes.length && axes[axes.length - 1] >= shape.length) {
    throw new FileError(`scales along axis ${axes[axes.length - 1]} of a tensor with ${shape.length}`);
  }
  let bits = 0;
  let zero = 0;
  if (form === "affine") {
    if (data.length < at + 2) throw new FileError(`bits and zero point do not fit into ${data.length} bytes`);
    [bits, zero] = [data[at], data[at + 1]];
    at += 2;
  }
  const count = axes.reduce((size, axis) => size * shape[axis], 1);
  const end = at + count * (half ? 2 : 4);
  if (end > data.length) throw new FileError(`${count} scales do not fit into ${data.length} bytes`);
  const scales = Float32Array.from(readFloats(data.subarray(at, end), count, half), floatOf);
  checkSide(form, bits, zero, scales);
  return [{ axes, bits, zero, scales, place: placing(shape, axes) }, end];
}

function checkSide(form, bits, zero, scales) {
  if (form === "signs") {
    if (!scales.every(Number.isFinite)) throw new FileError("expected finite scales, got NaN or an infinity");
    return;
  }
  if (bits < 2 || bits > 8 || zero >= 1 << bits) {
    throw new FileError(`expected 2 to 8 bits and a zero point below 2^bits, got ${bits}, ${zero}`);
  }
  const wrong = scales.find((step) => !(step >= MIN_STEP && step <= MAX_STEP));
  if (wrong !== undefined) throw new FileError(`expected steps within 2^-126 .. 2^119, got ${wrong}`);
}

/** A function from a flat position to the place of its scale. */
function placing(shape, axes) {
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const steps = axes.map((axis, i) => axes.slice(i + 1).reduce((size, other) => size * shape[other], 1));
  const parts = axes.map((axis, i) => [strides[axis], shape[axis], steps[i]]);
  return (position) => {
    let place = 0;
    for (const [stride, size, step] of parts) place += (Math.floor(position / stride) % size) * step;
    return place;
  };
}

/** The float32 bits that a code at a position stands for; never those of -0. */
export function meaning(side) {
  const { bits, zero, scales, place } = side;
  if (bits) return (code, position) => bitsOf((code - zero) * scales[place(position)]);
  return (code, position) => bitsOf(code ? scales[place(position)] + 0 : 0 - scales[place(position)]);
}

/** A table of `size` values on a grid at byte `start`: bits of the values, and the byte behind. */
export function readGrid(data, start, size) {
  const [side, at] = readSide(data, start, "affine", [1], false);
  if (side.axes.length) throw new FileError("a table has one step, got one per axis");
  const end = at + Math.ceil((size * side.bits) / 8);
  if (end > data.length) throw new FileError(`a table of ${size} values does not fit into ${data.length} bytes`);
  const codes = unpackBits(data.subarray(at, end), side.bits, size);
  const value = meaning(side);
  return [{ ...side, codes }, Uint32Array.from(codes, (code) => value(code, 0)), end];
}
