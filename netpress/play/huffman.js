// Canonical Huffman codes of at most 16 bits (docs/format.md, section 5).

import { TableReader, bitLength, checkAlphabet } from "./bits.js";
import { FileError } from "./bytes.js";

const WHAT = "Huffman stream";
const MAX_LENGTH = 16;

/** `count` symbols below `alphabet`, both above 0. */
export function decodeHuffman(data, alphabet, count) {
  checkAlphabet(WHAT, alphabet);
  const [symbols, lengths, size] = readTable(data, alphabet);
  const payload = data.subarray(size);
  if (symbols.length === 1) {
    if (payload.length) throw new FileError(`${WHAT}: ${size} bytes expected, got ${data.length}`);
    return new Int32Array(count).fill(symbols[0]);
  }
  if (payload.length * 8 < count || payload.length > 2 * count) {
    throw new FileError(`${WHAT}: ${count} codes cannot take ${payload.length} bytes`);
  }
  return decodePayload(payload, symbols, lengths, count);
}

function readTable(data, alphabet) {
  const reader = new TableReader(WHAT, data, alphabet);
  const symbols = reader.presence(alphabet);
  const lengths = [];
  let length = bitLength(symbols.length - 1);
  let space = 0;
  for (let i = 0; symbols.length > 1 && i < symbols.length; i++) {
    const folded = reader.golomb(0);
    length += folded % 2 ? (folded + 1) / 2 : -folded / 2;
    if (length < 1 || length > MAX_LENGTH) {
      throw new FileError(`${WHAT}: code lengths 1..${MAX_LENGTH} expected, got ${length}`);
    }
    lengths.push(length);
    space += 1 << (MAX_LENGTH - length);
  }
  if (symbols.length > 1 && space !== 1 << MAX_LENGTH) {
    throw new FileError(`${WHAT}: its code lengths do not fit together (${space} of ${1 << MAX_LENGTH})`);
  }
  return [symbols, lengths, reader.close()];
}

function decodePayload(payload, symbols, lengths, count) {
  const longest = Math.max(...new Set(lengths));
  const order = symbols.map((_, i) => i).sort((a, b) => lengths[a] - lengths[b] || a - b);
  const symbolOf = new Int32Array(1 << longest);
  const lengthOf = new Uint8Array(1 << longest);
  let slot = 0;
  for (const i of order) {
    const end = slot + (1 << (longest - lengths[i]));
    symbolOf.fill(symbols[i], slot, end);
    lengthOf.fill(lengths[i], slot, end);
    slot = end;
  }
  const out = new Int32Array(count);
  const bits = 8 * payload.length;
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at >= bits) throw new FileError(`${WHAT}: ends ${count - i} symbols early`);
    const byte = at >> 3;
    const three = (payload[byte] << 16) | (payload[byte + 1] << 8) | payload[byte + 2]; // past the end: 0
    const window = (three >> (24 - longest - (at & 7))) & ((1 << longest) - 1);
    out[i] = symbolOf[window];
    at += lengthOf[window];
  }
  if (Math.ceil(at / 8) !== payload.length || payload[payload.length - 1] & ((1 << (bits - at)) - 1)) {
    throw new FileError(`${WHAT}: ends at bit ${at} of ${bits}, or with bits that are not zero`);
  }
  return out;
}
