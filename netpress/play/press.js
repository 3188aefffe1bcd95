// Reads `.press` files of versions 1 and 2, as docs/format.md defines them: every bound is checked before anything is
// allocated, every checksum compared, and whatever deviates refused with a FileError. No dependency but pako's inflate.
//
//     const press = loads(bytes, { dictionaries });      // header, coded tensors, graph
//     const weights = restore(press.tensors[0]);         // little-endian bytes, bit for bit
//     const model = modelBytes(press);                   // a complete ONNX model

import { FileError, NEWER, brief, crc32, naming, product, uint32, varint } from "./bytes.js";
import { parse, parseSmall } from "./header.js";
import { inflate } from "./inflate.js";
import { checkGraph, splitName, withInitializers } from "./onnx.js";
import * as stored from "./stored.js";
import { WIDTHS } from "./floats.js";

export { FileError } from "./bytes.js";
export { checkGraph } from "./onnx.js";

const MAGIC = [0x89, 0x4e, 0x50, 0x52, 0x0d, 0x0a, 0x1a, 0x0a];
const CRC_BYTES = 4;
const START = MAGIC.length + 1; // of what follows the version
const DEFAULT_LIMIT = 2 ** 32;
const FREE_EXPANSION = 64 * 2 ** 20;
const MAX_EXPANSION = 4096;
const MAX_HEADER = 4 * 2 ** 20;
const MAX_GRAPH = 16 * 2 ** 20;
const MAX_SMALL = 2 ** 20;

/**
 * Read a file.
 *
 * @param {Uint8Array} data the whole file
 * @param {object} options
 *   dictionaries: number of the version -> preset dictionary (`netpress.play.dictionaries` writes them);
 *   limitBytes: refuse a file whose restored tensors would take more
 * @returns {{header: object, tensors: object[], graph: Uint8Array}}
 */
export function loads(data, { dictionaries, limitBytes = DEFAULT_LIMIT }) {
  if (MAGIC.some((byte, i) => data[i] !== byte)) {
    const text = data[1] === 0x4e && data[2] === 0x50 && data[3] === 0x52;
    throw new FileError(`byte 0: ${text ? "damaged by a transfer in text mode" : "not a .press file"}`);
  }
  const version = data[MAGIC.length] ?? 0;
  if (version === 1) return loadsChunked(data, dictionaries[1], limitBytes);
  if (version === 2) return loadsSmall(data, dictionaries[2], limitBytes);
  throw new FileError(`byte 8: format version ${version}: cut, or ${NEWER}`);
}

/** The values of a tensor as little-endian bytes. */
export function restore(tensor) {
  return within(tensor, () => stored.restore(tensor));
}

/** The file's graph with its tensors restored into it: bytes of a complete ONNX model. */
export function modelBytes(press) {
  const values = checkGraph(press.graph).wanted.map((name) => {
    const [index, part] = splitName(name);
    const tensor = press.tensors[index];
    if (!tensor) throw new FileError(`graph: wants tensor ${name}, the file holds ${press.tensors.length}`);
    if (part) return [name, within(tensor, () => stored.quantized(tensor))[part]];
    return [name, { dtype: tensor.dtype, shape: tensor.shape, bytes: restore(tensor) }];
  });
  return withInitializers(press.graph, values);
}

/** Name the tensor where its payload is damaged, or larger than this machine can hold. */
function within(tensor, work) {
  return naming(`tensor ${brief(tensor.name)} at byte ${tensor.offset}`, () => {
    try {
      return work();
    } catch (error) {
      if (error instanceof RangeError) throw new FileError("larger than this machine can hold");
      throw error;
    }
  });
}

function checkCrc(data, start, end, what) {
  const expected = uint32(data, end);
  const got = crc32(data.subarray(start, end));
  if (got !== expected) {
    const sums = `checksum ${got.toString(16)}, expected ${expected.toString(16)}`;
    throw new FileError(`${what} at byte ${start}: damaged: ${sums}`);
  }
}

/** Bytes of each tensor when restored; refuses more together than allowed. */
function restoredSizes(rows, fileBytes, limitBytes) {
  const limit = Math.min(limitBytes, Math.max(FREE_EXPANSION, MAX_EXPANSION * fileBytes));
  let total = 0;
  return rows.map((row) =>
    naming(`tensor ${brief(row.name)}`, () => {
      const size = stored.restoredBytes(row);
      row.shape = row.shape.map(Number); // now known to be small
      total += Math.max(size, 4 * product(row.shape));
      if (total > limit) {
        throw new FileError(`restored size ${total} bytes so far, more than the limit of ${limit}`);
      }
      return size;
    }),
  );
}

const tensorOf = (row, data, offset) => ({
  name: row.name, shape: row.shape, form: row.form, dtype: row.dtype, chain: row.chain, data, offset,
});

// --- version 1: a checksum per chunk ---

function preamble(data) {
  let at = START + 1;
  if (data.length < at) throw new FileError(`byte ${data.length}: the file ends within its first ${at} bytes`);
  if (data[START] !== 1) throw new FileError(`byte 9: dictionary ${data[START]}: ${NEWER}`);
  const sizes = [];
  for (const cap of [MAX_HEADER, MAX_HEADER, MAX_GRAPH, MAX_GRAPH]) {
    const [size, after] = varint(data, at);
    if (size > cap) throw new FileError(`byte 10: header or graph of ${size} bytes, at most ${cap} allowed`);
    sizes.push(size);
    at = after;
  }
  if (at + sizes[0] + sizes[2] + 2 * CRC_BYTES > data.length) {
    const both = `header and graph of ${sizes[0]} and ${sizes[2]} bytes`;
    throw new FileError(`byte ${data.length}: ${both} do not fit: file cut`);
  }
  return [sizes, at];
}

function exactly(packed, size, dictionary, where) {
  if (!packed.length && !size) return packed;
  const [raw, used] = inflate(packed, dictionary, size, where);
  if (raw.length !== size || used !== packed.length) {
    throw new FileError(`${where}: expected exactly ${size} bytes unpacked, got ${raw.length} or leftovers`);
  }
  return raw;
}

function loadsChunked(data, dictionary, limitBytes) {
  const [[headerBytes, rawHeader, graphBytes, rawGraph], start] = preamble(data);
  let at = start + headerBytes;
  checkCrc(data, 0, at, "header");
  const raw = exactly(data.subarray(start, at), rawHeader, dictionary, `header at byte ${start}`);
  const [header, rows, sizes] = naming(`byte ${start}`, () => {
    const [about, found] = parse(raw);
    const restored = restoredSizes(found, data.length, limitBytes);
    return [about, found, found.map((row, i) => row.size ?? restored[i])];
  });
  at += CRC_BYTES;
  const end = sizes.reduce((sum, size) => sum + size + CRC_BYTES, at + graphBytes + CRC_BYTES);
  if (end !== data.length) {
    const got = `expected a file of ${end} bytes, got ${data.length}`;
    throw new FileError(`byte ${Math.min(end, data.length)}: ${got}: cut or extended`);
  }
  checkCrc(data, at, at + graphBytes, "graph");
  const graph = exactly(data.subarray(at, at + graphBytes), rawGraph, dictionary, `graph at byte ${at}`);
  at += graphBytes + CRC_BYTES;
  const tensors = rows.map((row, i) => {
    checkCrc(data, at, at + sizes[i], `tensor ${brief(row.name)}`);
    const tensor = tensorOf(row, data.slice(at, at + sizes[i]), at);
    at += sizes[i] + CRC_BYTES;
    return tensor;
  });
  return { header, tensors, graph };
}

// --- version 2: one stream, one checksum, no length that can be derived ---

function loadsSmall(data, dictionary, limitBytes) {
  const end = data.length - CRC_BYTES;
  if (end < START) {
    throw new FileError(`byte ${data.length}: the file ends within its first ${START + CRC_BYTES} bytes`);
  }
  checkCrc(data, 0, end, "file");
  const where = `header and graph at byte ${START}`;
  const [raw, used] = inflate(data.subarray(START, end), dictionary, MAX_SMALL, where);
  const split = raw.indexOf(0);
  if (split < 0) throw new FileError(`${where}: expected a zero byte between header and graph, got none`);
  const [header, rows] = naming(`byte ${START}`, () => {
    const found = parseSmall(raw.subarray(0, split));
    restoredSizes(found[1], data.length, limitBytes);
    return found;
  });
  let [sizes, at] = readLengths(data.subarray(0, end), START + used, rows);
  const tensors = rows.map((row, i) => {
    const payload = new Uint8Array(row.prefix.length + sizes[i]);
    payload.set(row.prefix);
    payload.set(data.subarray(at, at + sizes[i]), row.prefix.length);
    const tensor = tensorOf(row, payload, at);
    at += sizes[i];
    return tensor;
  });
  return { header, tensors, graph: raw.slice(split + 1) };
}

/** The size of a chunk that follows from its row: values as they are. */
function knownSize({ form, chain, dtype, shape }) {
  if (form !== "free" || (chain !== "raw" && chain !== "raw+half")) return null;
  return (chain === "raw" ? WIDTHS[dtype] : 2) * product(shape);
}

/** Bytes of every chunk, and where the first one begins; together they reach to the checksum exactly. */
function readLengths(data, start, rows) {
  const sizes = rows.map(knownSize);
  let largest = -1;
  const most = (i) => (i < 0 ? -1 : product(rows[i].shape));
  sizes.forEach((size, i) => {
    if (size === null && most(i) > most(largest)) largest = i;
  });
  let at = start;
  for (let i = 0; i < rows.length; i++) {
    if (sizes[i] === null && i !== largest) [sizes[i], at] = varint(data, at);
  }
  const rest = data.length - at - sizes.reduce((sum, size) => sum + (size ?? 0), 0);
  if (rest < 0 || (rest && largest < 0)) {
    const got = data.length - at - rest;
    throw new FileError(`byte ${at}: expected tensors of ${data.length - at} bytes together, got ${got}`);
  }
  if (largest >= 0) sizes[largest] = rest;
  return [sizes, at];
}
