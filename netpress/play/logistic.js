// Logistic coding: dense whole numbers, each by a curve around what its neighbours suggest; then rANS
// (docs/format.md, section 5). What may exceed 32 bits is floored as a double.

import { FileError, crc32, product, uint16, varint } from "./bytes.js";

const WHAT = "logistic stream";
const MAX_ELEMENTS = 2 ** 26;
const WEIGHTS = 10;
const LOW = 65536;

const of = (size, value) => Int32Array.from({ length: size }, (_, i) => value(i));
const CURVE = of(4096, (i) => Math.floor(65536 / (1 + Math.exp((2048 - i) / 128))));
const INVERSE = of(4096, (i) => Math.round(128 * Math.log((i + 0.5) / (4095.5 - i)))); // a guess: no result needs it
const OVER = of(4096, (s) => (s ? Math.floor(2 ** 21 / s) : 0));
const SHARE = of(66, (i) => (i > 1 ? Math.floor(65536 / i) : 0));
/** CRC-32 of the curve as little-endian int32. */
const CHECK = 0xf355ac7d;
if (crc32(new Uint8Array(CURVE.buffer)) !== CHECK) throw new Error("the exponentials of this browser are not exact");

/** Numbers in row-major order. */
export function readLogistic(data, shape) {
  const elements = product(shape);
  if (!elements || elements > MAX_ELEMENTS || data.length < 7) {
    throw new FileError(`${WHAT}: ${data.length} bytes for a tensor of ${elements} elements`);
  }
  const [rows, columns, taps, across] = dims(shape);
  const [folded, after] = varint(data, 1);
  const [count, at] = varint(data, after);
  const least = folded % 2 ? -(folded + 1) / 2 : folded / 2;
  const end = at + WEIGHTS + (taps > 1 ? Math.min(taps, 64) : 0);
  if (!data[0] || count < 1 || count > 4096 || Math.abs(least) > 65536) {
    throw new FileError(`${WHAT}: ${count} numbers from ${least} on: written by a newer version; update netpress`);
  }
  if (data.length < end + 4 || (data.length - end) % 2) {
    throw new FileError(`${WHAT}: ${end + 4} bytes or more expected, in words, got ${data.length}`);
  }
  const weights = Int8Array.from(data.subarray(at, at + WEIGHTS));
  const factors = new Uint8Array(64).fill(64);
  factors.set(data.subarray(at + WEIGHTS, end));
  const settings = { least, count, weights, factors, often: Math.floor(65536 / data[0]) };
  return new Numbers(settings, [rows, columns, taps, across]).read(data.subarray(end));
}

/** Rows, columns, taps, and how many taps lie side by side. */
function dims(shape) {
  if (shape.length < 2) return [1, product(shape), 1, 1];
  return [shape[0], shape[1], product(shape.slice(2)), shape.length > 2 ? shape[shape.length - 1] : 1];
}

/** floor(a b / 2^16) for a up to 2^47 and b up to 2^20. */
function scaled(a, b) {
  const high = Math.floor(a / 65536);
  return high * b + Math.floor(((a - high * 65536) * b) / 65536);
}

class Numbers {
  constructor(settings, [rows, columns, taps, across]) {
    Object.assign(this, settings, { rows, columns, taps, across });
    this.values = new Int32Array(rows * columns * taps);
    this.near = new Int32Array(4);
    this.sums = new Float64Array(columns);
    this.mean = 0;
    this.start = 0; // of the part that `find` found, and where it ends
    this.end = 0;
  }

  read(words) {
    const { rows, columns, taps, across, values } = this;
    let state = (uint16(words, 0) | (uint16(words, 2) << 16)) >>> 0;
    let at = 4;
    let n = 0;
    for (let row = 0; row < rows; row++) {
      const share = row ? Math.floor(2 ** 24 / (row * taps)) : 0;
      for (let column = 0; column < columns; column++) {
        this.kernel = 0;
        for (let tap = 0; tap < taps; tap++) {
          this.look(n, row, column, Math.floor(tap / across), tap % across);
          const slot = state & 0xffff;
          const value = this.find(slot, this.expected(), this.spread(tap, column, share));
          state = (this.end - this.start) * (state >>> 16) + slot - this.start;
          if (state < LOW) {
            if (at >= words.length) this.fail();
            state = state * 65536 + uint16(words, at);
            at += 2;
          }
          values[n++] = value;
          this.add(column, Math.abs(value));
        }
      }
    }
    if (at !== words.length || state !== LOW) this.fail();
    return values;
  }

  fail() {
    throw new FileError(`${WHAT}: does not end where its ${this.values.length} numbers end`);
  }

  look(n, row, column, y, x) {
    const { near, values, taps, across } = this;
    if (taps > 1) {
      near[0] = x > 0 ? values[n - 1] : 0;
      near[1] = y > 0 ? values[n - across] : 0;
      near[2] = y > 0 && x > 0 ? values[n - across - 1] : 0;
      near[3] = y > 0 && x < across - 1 ? values[n - across + 1] : 0;
      return;
    }
    near[0] = column > 0 ? values[n - 1] : 0;
    near[1] = row > 0 ? values[n - this.columns] : 0;
    near[2] = column > 1 ? values[n - 2] : 0;
    near[3] = row > 1 ? values[n - 2 * this.columns] : 0;
  }

  /** The value that the neighbours suggest, in 1/64. */
  expected() {
    const { near, weights } = this;
    return (weights[0] * near[0] + weights[1] * near[1] + weights[2] * near[2] + weights[3] * near[3]) >> 1;
  }

  /** How far numbers lie from it, in sixteenths. */
  spread(tap, column, share) {
    const { near, weights } = this;
    const row = this.mean >> 4;
    const down = share ? Math.floor((this.sums[column] * share) / 2 ** 20) : row;
    const around = scaled(16 * this.kernel + row + down, SHARE[Math.min(tap, 63) + 2]);
    const beside = 16 * (2 * Math.abs(near[0]) + 2 * Math.abs(near[1]) + Math.abs(near[2]) + Math.abs(near[3]));
    const both = Math.min(Math.floor((row * down * this.often) / 2 ** 18), 65536);
    const sizes = weights[4] * around + weights[5] * row + weights[6] * down;
    const total = sizes + weights[7] * beside + weights[8] * both + weights[9] * 16;
    return Math.min(Math.max(Math.floor((total * this.factors[Math.min(tap, 63)]) / 8192), 1), 4095);
  }

  add(column, size) {
    this.kernel += size;
    this.sums[column] += size;
    this.mean += (size * 256 - this.mean) >> 5;
  }

  /** The chance, of 2^16, of all numbers below one. */
  below(value, expected, spread) {
    const rank = value - this.least;
    if (rank <= 0) return 0;
    if (rank >= this.count) return 65536;
    const z = Math.floor(((64 * value - 32 - expected) * OVER[spread]) / 65536);
    return rank + Math.floor((CURVE[2048 + Math.min(Math.max(z, -2048), 2047)] * (65536 - this.count)) / 65536);
  }

  /** The number whose part of 2^16 holds a slot: a guess, then farther and farther beside it. */
  find(slot, expected, spread) {
    let low = this.least;
    let high = low + this.count;
    let probe = (Math.floor((INVERSE[slot >> 4] * spread) / 32) + expected + 32) >> 6;
    probe = Math.min(Math.max(probe, low), high - 1);
    let edge = this.below(probe, expected, spread);
    const up = edge <= slot;
    this.start = up ? edge : 0;
    this.end = up ? 65536 : edge;
    if (up) low = probe;
    else high = probe;
    for (let step = 1; high - low > 1; step *= 2) {
      probe = up ? low + step : high - step;
      if (probe <= low || probe >= high) probe = (low + high) >> 1;
      edge = this.below(probe, expected, spread);
      if (edge <= slot) {
        low = probe;
        this.start = edge;
      } else {
        high = probe;
        this.end = edge;
      }
    }
    return low;
  }
}
