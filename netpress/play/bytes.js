// What all parts of the decoder share: the error, numbers of several bytes, the checksum, text.

/** A file that is damaged, hostile, or written by a newer version. */
export class FileError extends Error {
  constructor(message) {
    super(message);
    this.name = "FileError";
  }
}

export const NEWER = "written by a newer version; update netpress";

/** Run `work` and put the place in front of a FileError from within. */
export function naming(where, work) {
  try {
    return work();
  } catch (error) {
    if (error instanceof FileError) throw new FileError(`${where}: ${error.message}`);
    throw error;
  }
}

/** A number in base 128 at byte `at`, as BigInt, and the byte behind it. */
export function bigVarint(data, at) {
  let value = 0n;
  for (let i = 0; i < 9 && at + i < data.length; i++) {
    const byte = data[at + i];
    value |= BigInt(byte & 0x7f) << BigInt(7 * i);
    if (byte < 0x80) {
      if (i && !byte) throw new FileError(`byte ${at}: a length is not written in its shortest form`);
      return [value, at + i + 1];
    }
  }
  throw new FileError(`byte ${at}: a length is cut or longer than 9 bytes`);
}

/** The same as a plain number: exact up to 2^53, beyond that larger than whatever it is compared with. */
export function varint(data, at) {
  const [value, end] = bigVarint(data, at);
  return [Number(value), end];
}

/** The bytes of a number in base 128. */
export function varintBytes(value) {
  const out = [];
  while (value > 0x7f) {
    out.push((value % 128) | 0x80);
    value = Math.floor(value / 128);
  }
  out.push(value);
  return Uint8Array.from(out);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  let c = i;
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  return c;
});

/** CRC-32, as in zip and PNG. */
export function crc32(data) {
  let c = 0xffffffff;
  for (let i = 0; i < data.length; i++) c = CRC_TABLE[(c ^ data[i]) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

export const uint16 = (data, at) => data[at] | (data[at + 1] << 8);
export const uint32 = (data, at) => (uint16(data, at) | (uint16(data, at + 2) << 16)) >>> 0;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Strict UTF-8, or a FileError. */
export function text(data, where) {
  try {
    return UTF8.decode(data);
  } catch {
    throw new FileError(`${where}: expected UTF-8`);
  }
}

export const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

/** At most 60 characters of a value, for messages. */
export function brief(value) {
  const shown = String(JSON.stringify(value, (_, v) => (typeof v === "bigint" ? String(v) : v)));
  return shown.length <= 60 ? shown : `${shown.slice(0, 57)}...`;
}

/** Byte arrays, one behind the other. */
export function concat(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
