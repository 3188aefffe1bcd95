// Interleaved rANS (docs/format.md, section 5). States stay below 2^32, so that plain numbers hold them exactly.

import { TableReader, bitLength, checkAlphabet } from "./bits.js";
import { FileError, uint16, uint32 } from "./bytes.js";

const WHAT = "rANS stream";
const LOW = 65536;
const MAX_LANES_LOG2 = 12;
const MAX_STEPS = 1 << 20;

/** `count` symbols below `alphabet`, both above 0. */
export function decodeRans(data, alphabet, count) {
  checkAlphabet(WHAT, alphabet);
  if (!data.length) throw new FileError(`${WHAT}: empty, but ${count} symbols of ${alphabet} expected`);
  if (data[0] === 0x0f) {
    const symbol = data.length === 3 ? uint16(data, 1) : alphabet;
    if (symbol >= alphabet) throw new FileError(`${WHAT}: 3 bytes and a symbol below ${alphabet} expected`);
    return new Int32Array(count).fill(symbol);
  }
  const lanesLog2 = data[0] & 15;
  const precision = (data[0] >> 4) + 1;
  const lanes = 2 ** lanesLog2;
  if (lanesLog2 > MAX_LANES_LOG2 || count > MAX_STEPS * lanes) {
    throw new FileError(`${WHAT}: first byte ${data[0]} is not known, or not allowed for ${count} symbols`);
  }
  const [symbols, frequencies, size] = readTable(data.subarray(1), alphabet, precision);
  const wordsAt = 1 + size + 4 * lanes;
  if (data.length < wordsAt || (data.length - wordsAt) % 2) {
    throw new FileError(`${WHAT}: ${wordsAt} bytes and whole words expected, got ${data.length}`);
  }
  const states = new Uint32Array(lanes);
  for (let i = 0; i < lanes; i++) {
    states[i] = uint32(data, 1 + size + 4 * i);
    if (states[i] < LOW) throw new FileError(`${WHAT}: start states of ${LOW} or more expected, got ${states[i]}`);
  }
  return run(states, data.subarray(wordsAt), slots(symbols, frequencies, precision), precision, count);
}

function readTable(data, alphabet, precision) {
  const reader = new TableReader(WHAT, data, alphabet);
  const symbols = reader.presence(alphabet);
  const frequencies = [];
  let before = Math.floor(2 ** precision / symbols.length);
  let rest = 2 ** precision;
  for (let i = 1; i < symbols.length; i++) {
    before = reader.golomb(Math.max(0, bitLength(before) - 1)) + 1;
    rest -= before;
    frequencies.push(before);
  }
  if (symbols.length < 2 || rest < 1) {
    throw new FileError(`${WHAT}: frequencies of 2 or more symbols adding up to ${2 ** precision} expected`);
  }
  frequencies.push(rest);
  return [symbols, frequencies, reader.close()];
}

/** For each slot: symbol, frequency, and slot - c. */
function slots(symbols, frequencies, precision) {
  const symbolOf = new Int32Array(1 << precision);
  const frequencyOf = new Int32Array(1 << precision);
  const biasOf = new Int32Array(1 << precision);
  let slot = 0;
  symbols.forEach((symbol, i) => {
    for (let bias = 0; bias < frequencies[i]; bias++, slot++) {
      symbolOf[slot] = symbol;
      frequencyOf[slot] = frequencies[i];
      biasOf[slot] = bias;
    }
  });
  return [symbolOf, frequencyOf, biasOf];
}

function run(states, words, [symbolOf, frequencyOf, biasOf], precision, count) {
  const out = new Int32Array(count);
  const mask = (1 << precision) - 1;
  const lanes = states.length;
  let at = 0;
  for (let i = 0, lane = 0; i < count; i++) {
    const state = states[lane];
    const slot = state & mask;
    let next = frequencyOf[slot] * (state >>> precision) + biasOf[slot];
    if (next < LOW) {
      if (at >= words.length) throw new FileError(`${WHAT}: ends ${count - i} symbols early`);
      next = next * 65536 + uint16(words, at);
      at += 2;
    }
    states[lane] = next;
    out[i] = symbolOf[slot];
    if (++lane === lanes) lane = 0;
  }
  if (at !== words.length || states.some((state) => state !== LOW)) {
    throw new FileError(`${WHAT}: does not end where its symbols end`);
  }
  return out;
}
