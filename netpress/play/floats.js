// Values as bits: 16, 32 and 64 bits wide, turned into one another as numpy does, NaN and all.

import { FileError } from "./bytes.js";

/** Type of a restored tensor -> bytes of an element. */
export const WIDTHS = {
  float16: 2, float32: 4, float64: 8, bool: 1, int8: 1, int16: 2, int32: 4, int64: 8, uint8: 1, uint16: 2, uint32: 4,
  uint64: 8,
};
const LIMITS = {};
for (const bits of [8, 16, 32, 64]) {
  LIMITS[`int${bits}`] = [-(2n ** BigInt(bits - 1)), 2n ** BigInt(bits - 1) - 1n];
  LIMITS[`uint${bits}`] = [0n, 2n ** BigInt(bits) - 1n];
}

/** Least and greatest number of an integer type, or undefined. */
export const integerLimits = (dtype) => LIMITS[dtype];

const FLOAT = new Float32Array(1);
const BITS = new Uint32Array(FLOAT.buffer);

/** The number that 32 bits stand for. */
export function floatOf(bits) {
  BITS[0] = bits;
  return FLOAT[0];
}

/** The bits of a number, which a float32 holds. */
export function bitsOf(value) {
  FLOAT[0] = value;
  return BITS[0];
}

/** Bits of a float16 as those of the same float32. */
export function widen(half) {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >> 10) & 31;
  const fraction = half & 0x3ff;
  if (exponent === 31) return (sign | 0x7f800000 | (fraction << 13)) >>> 0;
  if (exponent) return (sign | ((exponent + 112) << 23) | (fraction << 13)) >>> 0;
  return (sign | bitsOf(fraction * 2 ** -24)) >>> 0;
}

/** Bits of a float32 as those of the nearest float16, ties to even. */
function narrow(bits) {
  const sign = (bits >>> 16) & 0x8000;
  const size = bits & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7c00 | (((size & 0x7fffff) >> 13) || 1);
  if (size >= 0x477ff000) return sign | 0x7c00;
  if (size < 0x38800000) return sign | evenly(floatOf(size) * 2 ** 24);
  return sign | evenly((size - 0x38000000) / 8192);
}

function evenly(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
}

/** 32-bit values from bytes: float32, or float16 widened; as bits. */
export function readFloats(data, count, half) {
  const width = half ? 2 : 4;
  if (data.length !== count * width) {
    throw new FileError(`expected ${count * width} bytes for ${count} values, got ${data.length}`);
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const out = new Uint32Array(count);
  for (let i = 0; i < count; i++) out[i] = half ? widen(view.getUint16(2 * i, true)) : view.getUint32(4 * i, true);
  return out;
}

/** Bits of a float32, converted to another type, into bytes at `at`. */
export function writeConverted(view, at, bits, dtype) {
  if (dtype === "float32") view.setUint32(at, bits, true);
  else if (dtype === "float16") view.setUint16(at, narrow(bits), true);
  else if (dtype === "float64") writeDouble(view, at, bits);
  else if (dtype === "bool") view.setUint8(at, bits & 0x7fffffff ? 1 : 0);
  else writeInteger(view, at, floatOf(bits), dtype);
}

function writeDouble(view, at, bits) {
  if ((bits & 0x7fffffff) <= 0x7f800000) return view.setFloat64(at, floatOf(bits), true);
  view.setUint32(at + 4, (bits & 0x80000000) | 0x7ff80000 | ((bits & 0x7fffff) >>> 3), true);
  return view.setUint32(at, bits << 29, true);
}

function writeInteger(view, at, value, dtype) {
  const [least, most] = LIMITS[dtype];
  const whole = Number.isFinite(value) ? BigInt(Math.trunc(value)) : most + 1n;
  if (whole < least || whole > most) throw new FileError(`the value ${value} of a table does not fit ${dtype}`);
  writeWhole(view, at, whole, WIDTHS[dtype]);
}

/** A BigInt into `width` little-endian bytes. */
export function writeWhole(view, at, value, width) {
  for (let i = 0; i < width; i++) view.setUint8(at + i, Number((value >> BigInt(8 * i)) & 255n));
}
