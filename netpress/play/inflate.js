// Raw deflate with a preset dictionary, stopped as soon as more comes out than is allowed.

import { FileError, concat } from "./bytes.js";
import { Inflate } from "./vendor/pako_inflate.mjs";

/** The unpacked bytes, at most `most`, and how many packed bytes these took. */
export function inflate(packed, dictionary, most, where) {
  const coder = new Inflate({ raw: true, windowBits: 15, dictionary, chunkSize: 16384 });
  const chunks = [];
  let size = 0;
  coder.onData = (chunk) => {
    chunks.push(chunk);
    size += chunk.length;
    if (size > most) throw new FileError(`${where}: cut, or more than ${most} bytes unpacked`);
  };
  coder.onEnd = () => {};
  coder.push(packed, true);
  if (coder.err) throw new FileError(`${where}: damaged: ${coder.msg || "it ends early"}`);
  return [concat(chunks), packed.length - coder.strm.avail_in];
}
