// Symbols of fixed width, and the bit code of the other coders' tables (docs/format.md, section 5).

import { FileError } from "./bytes.js";

const MAX_ALPHABET = 65536;
const LONGEST_NUMBER = 17;

/** Refuse an alphabet that no encoder writes. */
export function checkAlphabet(what, alphabet) {
  if (alphabet < 1 || alphabet > MAX_ALPHABET) {
    throw new FileError(`${what}: alphabet 1..${MAX_ALPHABET} expected, got ${alphabet}`);
  }
}

/** Number of binary digits. */
export const bitLength = (value) => (value ? 32 - Math.clz32(value) : 0);

/** `count` symbols below `alphabet`. */
export function decodeBits(data, alphabet, count) {
  checkAlphabet("bit-packed stream", alphabet);
  const values = unpackBits(data, bitLength(alphabet - 1), count);
  for (const value of values) {
    if (value >= alphabet) throw new FileError(`bit-packed stream: symbols below ${alphabet} expected, got ${value}`);
  }
  return values;
}

/** `count` numbers of `width` bits each, 0 to 16. */
export function unpackBits(data, width, count) {
  const size = Math.ceil((count * width) / 8);
  if (data.length !== size) {
    const wanted = `${size} bytes expected for ${count} x ${width} bits`;
    throw new FileError(`bit-packed stream: ${wanted}, got ${data.length}`);
  }
  if (size && data[size - 1] & ((1 << (8 * size - count * width)) - 1)) {
    throw new FileError("bit-packed stream: zeros expected after the last symbol");
  }
  const out = new Int32Array(count);
  const mask = (1 << width) - 1;
  let held = 0;
  let bits = 0;
  let at = 0;
  for (let i = 0; i < count; i++) {
    while (bits < width) {
      held = ((held << 8) | data[at++]) & 0xffffff;
      bits += 8;
    }
    bits -= width;
    out[i] = (held >>> bits) & mask;
  }
  return out;
}

/** Reads the bits of a table from the front of a stream. */
export class TableReader {
  constructor(what, data, alphabet) {
    this.what = what;
    this.data = data;
    this.end = 8 * Math.min(data.length, 64 + 5 * alphabet);
    this.at = 0;
  }

  bit(at) {
    return (this.data[at >> 3] >> (7 - (at & 7))) & 1;
  }

  golomb(order) {
    let one = this.at;
    while (one < this.end && !this.bit(one)) one++;
    const end = 2 * one - this.at + order + 1;
    if (one >= this.end || end > this.end || one - this.at + order > LONGEST_NUMBER) {
      throw new FileError(`${this.what}: its table breaks off or is damaged at bit ${this.at}`);
    }
    let value = 0;
    for (let i = one; i < end; i++) value = 2 * value + this.bit(i);
    this.at = end;
    return value - (1 << order);
  }

  /** Which symbols occur, ascending; at least one. */
  presence(alphabet) {
    const present = [];
    let total = this.golomb(0);
    let runs = 1;
    while (total < alphabet) {
      const run = this.golomb(0) + 1;
      if (runs++ % 2) for (let s = total; s < Math.min(total + run, alphabet); s++) present.push(s);
      total += run;
    }
    if (total !== alphabet || runs < 2) {
      throw new FileError(`${this.what}: its table counts ${total} symbols, ${alphabet} expected`);
    }
    return present;
  }

  /** How many bytes the table took. */
  close() {
    const size = Math.ceil(this.at / 8);
    for (let i = this.at; i < 8 * size; i++) {
      if (this.bit(i)) throw new FileError(`${this.what}: zeros expected after the table's bit ${this.at}`);
    }
    return size;
  }
}
