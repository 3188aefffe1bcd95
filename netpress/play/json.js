// JSON as the header of a `.press` file may hold it: every limit is checked before values are made, whole numbers stay
// apart from others (4 is a size, 4.0 is not), and no key appears twice.

import { FileError, text } from "./bytes.js";

const MAX_DEPTH = 32;
const MAX_VALUES = 1 << 19;
const MAX_TEXT = 1000;
const MAX_INT_DIGITS = 18;

/** A number that was not written as a whole one. */
export class Real {
  constructor(value) {
    this.value = value;
  }

  toJSON() {
    return this.value;
  }
}

/** Whether a value is a whole number: a plain number where that is exact, else a BigInt. */
export const isInteger = (value) => typeof value === "number" || typeof value === "bigint";

/** Read UTF-8 bytes. Whole numbers become numbers (BigInt beyond 2^53), others `Real`, objects have no prototype. */
export function parseJson(raw) {
  const source = text(raw, "header");
  if (/\\u[dD][89a-fA-F]/.test(source)) throw new FileError("header: half of a surrogate pair in a string");
  checkSize(source);
  const reader = new Reader(source);
  const value = reader.value();
  reader.space();
  if (reader.at < source.length) reader.fail("something behind its end");
  return value;
}

function checkSize(source) {
  let depth = 0;
  let deepest = 0;
  let values = 0;
  for (let i = 0; i < source.length; i++) {
    const c = source[i];
    if (c === '"') {
      for (i++; i < source.length && source[i] !== '"'; i++) if (source[i] === "\\") i++;
    } else if (c === "[" || c === "{") {
      values++;
      deepest = Math.max(deepest, ++depth);
    } else if (c === "]" || c === "}") depth--;
    else if (c === ",") values++;
  }
  if (deepest > MAX_DEPTH || values > MAX_VALUES) {
    const allowed = `at most ${MAX_DEPTH} and ${MAX_VALUES} allowed`;
    throw new FileError(`header: nested ${deepest} deep with ${values} values, ${allowed}`);
  }
}

const NUMBER = /(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
const PIECE = /[^"\\\u0000-\u001f]+/y;
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
const WORDS = [["true", true], ["false", false], ["null", null]];

class Reader {
  constructor(source) {
    this.source = source;
    this.at = 0;
  }

  fail(what) {
    throw new FileError(`header: not JSON: ${what} at character ${this.at}`);
  }

  space() {
    while (" \t\n\r".includes(this.source[this.at] ?? "x")) this.at++;
  }

  take(sign) {
    this.space();
    if (this.source[this.at] !== sign) return false;
    this.at++;
    return true;
  }

  value() {
    this.space();
    const c = this.source[this.at];
    if (c === "[") return this.list();
    if (c === "{") return this.object();
    if (c === '"') return this.string();
    for (const [word, meaning] of WORDS) {
      if (this.source.startsWith(word, this.at)) {
        this.at += word.length;
        return meaning;
      }
    }
    return this.number();
  }

  list() {
    const out = [];
    this.at++;
    if (this.take("]")) return out;
    do out.push(this.value());
    while (this.take(","));
    if (!this.take("]")) this.fail("expected a comma or the end of a list");
    return out;
  }

  object() {
    const out = Object.create(null);
    this.at++;
    if (this.take("}")) return out;
    do {
      this.space();
      if (this.source[this.at] !== '"') this.fail("expected a key");
      const key = this.string();
      if (!this.take(":")) this.fail("expected a colon");
      const value = this.value();
      if (Object.hasOwn(out, key)) throw new FileError("header: a key appears twice in one object");
      out[key] = value;
    } while (this.take(","));
    if (!this.take("}")) this.fail("expected a comma or the end of an object");
    return out;
  }

  string() {
    const parts = [];
    this.at++;
    for (;;) {
      PIECE.lastIndex = this.at;
      const piece = PIECE.exec(this.source);
      if (piece) {
        parts.push(piece[0]);
        this.at += piece[0].length;
      }
      const c = this.source[this.at];
      if (c === '"') {
        this.at++;
        return parts.join("");
      }
      if (c !== "\\") this.fail("expected the rest of a string");
      parts.push(this.escape());
    }
  }

  escape() {
    const c = this.source[this.at + 1];
    if (c in ESCAPES) {
      this.at += 2;
      return ESCAPES[c];
    }
    const digits = this.source.slice(this.at + 2, this.at + 6);
    if (c !== "u" || !/^[0-9a-fA-F]{4}$/.test(digits)) this.fail("unknown escape");
    this.at += 6;
    return String.fromCharCode(parseInt(digits, 16));
  }

  number() {
    NUMBER.lastIndex = this.at;
    const match = NUMBER.exec(this.source);
    if (!match) this.fail("expected a value");
    this.at += match[0].length;
    if (match[2] === undefined && match[3] === undefined) return this.integer(match[1]);
    const value = match[0].length <= MAX_TEXT ? Number(match[0]) : Infinity;
    if (!Number.isFinite(value)) throw new FileError(`header: ${match[0].slice(0, 30)} is no finite number`);
    return new Real(value);
  }

  integer(digits) {
    if (digits.length > MAX_INT_DIGITS) {
      throw new FileError(`header: integer of ${digits.length} digits, at most ${MAX_INT_DIGITS} allowed`);
    }
    const value = Number(digits) + 0; // -0 is 0
    return Number.isSafeInteger(value) ? value : BigInt(digits);
  }
}
