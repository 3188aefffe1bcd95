// Context coding: small whole numbers, each told by the chances that its neighbours suggest (docs/format.md, section 5,
// whose names these are). Whole numbers only; what may exceed 32 bits is floored as a double, exactly below 2^53.

import { FileError, crc32, product } from "./bytes.js";

const WHAT = "context stream";
const MAX_ELEMENTS = 2 ** 26;
const TOP = 3071;
const MODELS = 7;
const KINDS = 22;
const FIRST = [0, 1444, 2212, 2980, 3044, 3556, 4708];
const DIGITS = 5476 * KINDS;
const FLAGS = DIGITS + 17 * 256;
const LIMIT = (1 << 22) - 1;

/** CRC-32 of all tables as little-endian int32, one behind the other. */
const CHECK = 0xc5897158;

const squash = (t) => Math.max(Math.floor(65536 / (1 + Math.exp(-t / 256))), 1);

function tables() {
  const of = (size, value) => Int32Array.from({ length: size }, (_, i) => value(i));
  const found = {
    STRETCH: of(4096, (j) => Math.round(256 * Math.log((j + 0.5) / (4095.5 - j)))),
    SQUASH: of(2 * TOP + 2, (i) => (i > 2 * TOP ? 0 : squash(i - TOP))),
    TRUST: of(1024, (n) => (n ? Math.floor((256 * (5 * n + 4)) / (5 * n + 6)) : 0)),
    RATE: of(1024, (n) => Math.floor(655360 / (10 * n + 16))),
    LEVEL: of(4096, (x) => {
      const octave = Math.max(29 - Math.clz32(x), 0);
      return 4 * octave + (x >> octave);
    }),
    SHARE: of(64, (i) => (i ? Math.floor(2 ** 20 / i) : 0)),
  };
  const all = Int32Array.from(Object.values(found).flatMap((table) => [...table]));
  if (crc32(new Uint8Array(all.buffer)) !== CHECK) throw new Error("the logarithms of this browser are not exact");
  return found;
}

const { STRETCH, SQUASH, TRUST, RATE, LEVEL, SHARE } = tables();

/** Numbers in row-major order, and bit 0 of the first byte. */
export function readContext(data, shape) {
  const way = data.length ? data[0] : 0;
  const elements = product(shape);
  if (way > 7) throw new FileError(`${WHAT}: first byte ${way}: written by a newer version; update netpress`);
  if (elements > MAX_ELEMENTS || (data.length > 1 && !elements)) {
    throw new FileError(`${WHAT}: ${data.length} bytes for a tensor of ${elements} elements`);
  }
  if (!elements) return [new Int32Array(0), way & 1];
  const [rows, columns, taps, across] = dims(shape, way);
  const coder = new Coder(data, columns);
  const used = way & 4 ? [coder.flags(rows), coder.flags(columns)] : [everything(rows), everything(columns)];
  const numbers = new Numbers(coder, used[0].length, used[1].length, taps, across).read();
  if (data.length > coder.at || data[data.length - 1] === 0) {
    throw new FileError(`${WHAT}: at most ${coder.at} bytes expected, the last not zero, got ${data.length}`);
  }
  return [spread(numbers, used, [rows, columns, taps], way & 2), way & 1];
}

const everything = (size) => Int32Array.from({ length: size }, (_, i) => i);

/** Rows, columns, taps, and how many taps lie side by side. */
function dims(shape, way) {
  if (shape.length < 2) return [1, product(shape), 1, 1];
  const [rows, columns] = way & 2 ? [shape[1], shape[0]] : shape;
  return [rows, columns, product(shape.slice(2)), shape.length > 2 ? Math.max(shape[shape.length - 1], 1) : 1];
}

/** Put the numbers of the rows and columns that hold any into the whole tensor. */
function spread(numbers, [r, c], [rows, columns, taps], turned) {
  const out = new Int32Array(rows * columns * taps);
  for (let i = 0; i < r.length; i++) {
    for (let j = 0; j < c.length; j++) {
      const place = turned ? c[j] * rows + r[i] : r[i] * columns + c[j];
      const from = (i * c.length + j) * taps;
      for (let tap = 0; tap < taps; tap++) out[place * taps + tap] = numbers[from + tap];
    }
  }
  return out;
}

class Coder {
  constructor(data) {
    this.data = data;
    this.range = 2 ** 32;
    this.at = 5;
    this.code = [1, 2, 3, 4].reduce((code, at) => code * 256 + (data[at] ?? 0), 0);
    this.slots = new Uint32Array(FLAGS + 4).fill(2 ** 31);
    this.weights = new Float64Array(KINDS * MODELS).fill(11000);
    this.votes = new Int32Array(MODELS);
    this.chosen = new Int32Array(MODELS);
  }

  bit(chance) {
    const bound = Math.floor(this.range / 65536) * (65536 - chance);
    let bit = 0;
    if (this.code < bound) this.range = bound;
    else {
      bit = 1;
      this.code -= bound;
      this.range -= bound;
    }
    while (this.range < 0x1000000) {
      this.code = this.code * 256 + (this.at < this.data.length ? this.data[this.at] : 0);
      this.at++;
      this.range *= 256;
    }
    return bit;
  }

  learn(at, bit) {
    const seen = this.slots[at] & 1023;
    const chance = this.slots[at] >>> 10;
    const moved = chance + Math.floor((((bit << 22) - chance) * RATE[seen]) / 65536);
    this.slots[at] = Math.min(moved, LIMIT) * 1024 + seen + (seen < 1000 ? 1 : 0);
  }

  plain(at) {
    const bit = this.bit(Math.min(Math.max(this.slots[at] >>> 16, 32), 65503));
    this.learn(at, bit);
    return bit;
  }

  mixed(kind) {
    let total = 0;
    const first = kind * MODELS;
    for (let i = 0; i < MODELS; i++) {
      const slot = this.slots[this.chosen[i] + kind];
      this.votes[i] = (STRETCH[slot >>> 20] * TRUST[slot & 1023]) >> 8;
      total += this.weights[first + i] * this.votes[i];
    }
    const chance = SQUASH[TOP + Math.min(Math.max(Math.floor(total / 65536), -TOP), TOP)];
    const bit = this.bit(chance);
    const miss = ((bit << 16) - chance) * 3;
    for (let i = 0; i < MODELS; i++) {
      this.weights[first + i] += (this.votes[i] * miss + (1 << 17)) >> 18;
      this.learn(this.chosen[i] + kind, bit);
    }
    return bit;
  }

  /** Indices of the rows or columns that hold anything. */
  flags(count) {
    const out = [];
    let before = 3;
    for (let i = 0; i < count; i++) {
      const bit = this.plain(FLAGS + before);
      if (bit) out.push(i);
      before = ((before << 1) & 2) + bit;
    }
    return Int32Array.from(out);
  }

  /** A number, as if a positive one were likelier. */
  number() {
    if (!this.mixed(0)) return 0;
    const against = this.mixed(1);
    let length = 0;
    while (length < 16 && this.mixed(2 + 10 * against + Math.min(length, 9))) length++;
    let size = 1;
    for (let i = 0; i < length; i++) size = 2 * size + this.plain(DIGITS + 256 * length + Math.min(size, 255));
    return against ? -size : size;
  }
}

const level = (x, most) => Math.min(LEVEL[Math.min(x, 4095)], most);
const signed = (x) => (x >= 0 ? 9 + level(x, 9) : 9 - level(-x, 9));

class Numbers {
  constructor(coder, rows, columns, taps, across) {
    Object.assign(this, { coder, rows, columns, taps, across });
    this.values = new Int32Array(rows * columns * taps);
    this.counts = new Int32Array(columns + 2); // with a zero on both sides
    this.steps = new Float64Array(64 * 8);
    for (let tap = 0; tap < 64; tap++) this.steps.set([25000, 25000, -12500], 8 * tap);
    this.near = new Float64Array(8);
    this.mean = 0;
  }

  read() {
    let n = 0;
    for (let row = 0; row < this.rows; row++) {
      this.inRow = 0;
      for (let column = 0; column < this.columns; column++) {
        this.total = 0;
        this.inKernel = 0;
        for (let tap = 0; tap < this.taps; tap++) this.one(n++, row, column, tap);
      }
    }
    return this.values;
  }

  one(n, row, column, tap) {
    const energy = this.look(n, row, column, Math.floor(tap / this.across), tap % this.across);
    const steps = 8 * Math.min(tap, 63);
    const expected = energy ? this.expect(steps) : 0;
    this.choose(row, column, tap, expected);
    const found = this.coder.number();
    const value = expected >= 0 ? found : -found;
    this.values[n] = value;
    if (energy) this.correct(steps, value * 16 - expected, energy);
    const size = Math.min(Math.abs(value), 255);
    this.total += size;
    this.mean += (size * 256 - this.mean) >> 5;
    if (value) {
      this.inRow++;
      this.inKernel++;
      this.counts[1 + column]++;
    }
  }

  /** Write the eight neighbours; the sum of their squares. */
  look(n, row, column, y, x) {
    const { near, values, taps, across } = this;
    if (taps > 1) {
      near[0] = x > 0 ? values[n - 1] : 0;
      near[1] = y > 0 ? values[n - across] : 0;
      near[2] = y > 0 && x > 0 ? values[n - across - 1] : 0;
      near[3] = y > 0 && x < across - 1 ? values[n - across + 1] : 0;
      near[4] = x > 1 ? values[n - 2] : 0;
      near[5] = y > 1 ? values[n - 2 * across] : 0;
    }
    near[6] = column > 0 ? values[n - taps] : 0;
    near[7] = row > 0 ? values[n - this.columns * taps] : 0;
    let energy = 0;
    for (let i = 0; i < 8; i++) energy += near[i] * near[i];
    return energy;
  }

  expect(steps) {
    let total = 0;
    for (let i = 0; i < 8; i++) total += this.steps[steps + i] * this.near[i];
    return Math.min(Math.max(Math.floor(total / 4096), -(2 ** 20)), 2 ** 20);
  }

  correct(steps, miss, energy) {
    const step = Math.floor((miss * 65536) / (energy + 64));
    for (let i = 0; i < 8; i++) {
      const moved = this.steps[steps + i] + Math.floor((step * this.near[i]) / 512);
      this.steps[steps + i] = Math.min(Math.max(moved, -(2 ** 18)), 2 ** 18);
    }
  }

  /** Choose the slot of each predictor. */
  choose(row, column, tap, expected) {
    const { near, counts, mean, taps } = this;
    const size = Math.abs(expected);
    let pair = 4 * (level(Math.abs(near[6]), 9) * 19 + level(Math.abs(near[7]), 9));
    let around = 0;
    let likely = 0;
    if (taps > 1) {
      const turn = expected >= 0 ? 1 : -1;
      const beside = Math.abs(near[2]) + Math.abs(near[3]);
      pair = 4 * (signed(turn * near[0]) * 19 + signed(turn * near[1])) + Math.min(tap, 3);
      around = level(2 * (Math.abs(near[0]) + Math.abs(near[1])) + beside, 31);
      likely = level(size, 63);
    }
    const here = counts[1 + column];
    const wide = 2 * here + counts[column] + counts[2 + column];
    const before = level(row * taps, 31);
    const kernel = tap ? Math.floor((this.total * SHARE[Math.min(tap, 63)]) / 65536) : mean >> 4;
    const inside = 12 * level(here, 11) + level(this.inRow, 11);
    this.slot(0, pair);
    this.slot(1, 24 * around + level(size >> 2, 23));
    this.slot(2, 24 * level(kernel, 31) + level(mean >> 3, 23));
    this.slot(3, likely);
    this.slot(4, 32 * level(here, 15) + before);
    this.slot(5, 8 * inside + Math.min(this.inKernel, 7));
    this.slot(6, 32 * level(wide, 23) + before);
  }

  slot(i, context) {
    this.coder.chosen[i] = (FIRST[i] + context) * KINDS;
  }
}
