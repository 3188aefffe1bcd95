// Chains of codecs: their names, and the streams that they consist of (docs/format.md, section 4).

import { decodeBits } from "./bits.js";
import { FileError, NEWER, brief, varint } from "./bytes.js";
import { decodeHuffman } from "./huffman.js";
import { decodeRans } from "./rans.js";

const CHAIN = new RegExp(
  "^(?:(?<raw>raw)|(?:(?<place>mask|rel[3-8]|whole|steps)\\+)?" +
    "(?<first>bits|huffman|rans|context|logistic)(?:\\+(?<second>bits|huffman|rans))?)(?<end>\\+half|\\+grid)?$",
);
const DECODERS = { bits: decodeBits, huffman: decodeHuffman, rans: decodeRans };

export const isWhole = (how) => how.place === "whole" || how.place === "steps";
export const looksAround = (how) => how.first === "context" || how.first === "logistic";

/** Read a chain's name, for a form. */
export function parseChain(chain, form) {
  const found = CHAIN.exec(chain);
  if (!found) throw new FileError(`chain ${brief(chain)}: ${NEWER}`);
  const { raw, place = "", second = "", end = "" } = found.groups;
  const how = { place, first: raw ?? found.groups.first, half: end === "+half", grid: end === "+grid" };
  const two = place.startsWith("rel") && form !== "free";
  let fits = (how.first === "raw") === (form === "free" && !place) && !(how.grid && form !== "shared");
  if (isWhole(how)) fits = form === "free" && !how.half;
  if (how.first === "context") fits &&= (place === "" || place === "mask") && !second;
  if (how.first === "logistic") fits &&= place === "" && !second;
  if ((second && !two) || !fits) throw new FileError(`chain ${brief(chain)} does not fit form ${brief(form)}`);
  return { ...how, second: second || (two ? how.first : "") };
}

/** A stream of `count` symbols below `alphabet`. */
export function decode(data, alphabet, count, coder) {
  if (alphabet <= 1 || !count) {
    if (data.length || (count && !alphabet)) {
      throw new FileError(`expected an empty stream for ${count} of ${alphabet} symbols, got ${data.length} bytes`);
    }
    return new Int32Array(count);
  }
  return DECODERS[coder](data, alphabet, count);
}

/** Indices of what is not zero. */
export function nonzero(values) {
  let count = 0;
  for (const value of values) count += value !== 0;
  const out = new Int32Array(count);
  for (let i = 0, k = 0; i < values.length; i++) if (values[i]) out[k++] = i;
  return out;
}

/** Positions written as gaps at byte `start`, and the byte behind them. */
export function readGaps(data, start, how, elements) {
  const width = Number(how.place[3]);
  const [count, after] = varint(data, start);
  const [size, at] = varint(data, after);
  if (count > elements || size > data.length - at) {
    throw new FileError(`${count} gaps in ${size} bytes: more than ${elements} entries or ${data.length} bytes`);
  }
  const symbols = decode(data.subarray(at, at + size), 1 << width, count, how.first);
  return [fromGaps(symbols, (1 << width) - 1, elements), at + size];
}

function fromGaps(symbols, top, elements) {
  let kept = 0;
  let end = 0;
  for (const symbol of symbols) {
    kept += symbol !== top;
    end += symbol + (symbol !== top);
  }
  if (symbols.length && (symbols[symbols.length - 1] === top || end > elements)) {
    throw new FileError(`gaps end at entry ${end - 1} of ${elements}, or with a filler`);
  }
  const out = new Int32Array(kept);
  let place = 0;
  let k = 0;
  for (const symbol of symbols) {
    place += symbol;
    if (symbol !== top) out[k++] = place++;
  }
  return out;
}
