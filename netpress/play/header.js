// The header of a `.press` file: what the network is, and one row per tensor (docs/format.md, section 3).

import { FileError, brief } from "./bytes.js";
import { Real, isInteger, parseJson } from "./json.js";

const SOURCES = ["zoo", "torchvision", "timm", "own"];
const MAX_AXES = 32;
const MAX_TENSORS = 1 << 16;
const MAX_TEXT = 1000;
const ARCH_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+:-]{0,199}$/;
const PREFIX = /^(?:[0-9a-f]{2}){0,16}$/;
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;

/** Header and rows of version 1. */
export function parse(raw) {
  const [header, values] = about(list(parseJson(raw), "header"));
  const rows = values.map(row);
  checkNames(header, rows);
  return [header, rows];
}

/** Header and rows of version 2, whose rows have a kind. */
export function parseSmall(raw) {
  const fields = list(parseJson(raw), "header");
  if ((fields.length < 2 || fields.length > 8) && fields.length !== 10) {
    throw new FileError(`header: expected 2 to 8 entries, or 10, got ${fields.length}`);
  }
  const [header, values] = about(fields.slice(0, 8));
  const [given, places] = fields.length === 10 ? fields.slice(8) : [[], []];
  const kinds = list(given, "header, kinds").map(kind);
  if (list(places, "header, kind of each tensor").length !== values.length) {
    throw new FileError(`header: ${places.length} kinds for ${values.length} tensors`);
  }
  const rows = values.map((value, i) => rowOfKind(value, places[i], kinds));
  checkNames(header, rows);
  return [header, rows];
}

function about(given) {
  if (given.length < 2 || given.length > 8) {
    throw new FileError(`header: expected 2 to 8 entries, got ${given.length}`);
  }
  const fields = [...given, ...[[], [], [], [], {}, {}].slice(given.length - 2)];
  const aliases = object(fields[6], "header, aliases");
  for (const [name, target] of Object.entries(aliases)) {
    printable(name, "alias");
    printable(target, "alias");
  }
  const header = {
    arch: arch(list(fields[0], "header, network")),
    inputShape: shape(fields[1], "header, input shape"),
    mean: numbers(fields[2], "header, mean"),
    std: numbers(fields[3], "header, std"),
    classes: list(fields[5], "header").map((label) => printable(label, "header, class", 0)),
    aliases,
    meta: object(fields[7], "header, meta"),
  };
  return [header, list(fields[4], "header, tensors")];
}

function list(value, where) {
  if (!Array.isArray(value)) throw new FileError(`${where}: expected a list, got ${brief(value)}`);
  return value;
}

function object(value, where) {
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Real) {
    throw new FileError(`${where}: expected an object, got ${brief(value)}`);
  }
  return value;
}

function integer(value, where) {
  if (!isInteger(value)) throw new FileError(`${where}: expected a whole number, got ${brief(value)}`);
  return value;
}

function printable(value, where, least = 1) {
  const length = typeof value === "string" ? [...value].length : -1;
  if (length < least || length > MAX_TEXT || UNPRINTABLE.test(value)) {
    throw new FileError(`${where}: expected printable text of at most ${MAX_TEXT} characters, got ${brief(value)}`);
  }
  return value;
}

function shape(value, where) {
  const sizes = list(value, where);
  if (sizes.length > MAX_AXES || sizes.some((size) => !isInteger(size) || size < 0)) {
    throw new FileError(`${where}: expected at most ${MAX_AXES} sizes >= 0, got ${brief(value)}`);
  }
  return sizes;
}

function numbers(value, where) {
  const found = list(value, where);
  if (found.some((number) => !isInteger(number) && !(number instanceof Real))) {
    throw new FileError(`${where}: expected numbers, got ${brief(value)}`);
  }
  return found.map((number) => (number instanceof Real ? number.value : Number(number)));
}

function arch(value) {
  if (value.length < 2 || value.length > 4) {
    throw new FileError(`header, network: expected 2 to 4 entries, got ${value.length}`);
  }
  const [source, name, settings, edits] = [...value, ...[{}, []].slice(value.length - 2)];
  if (!SOURCES.includes(source)) {
    throw new FileError(`header, network: source ${brief(source)} is none of ${SOURCES.join(", ")}`);
  }
  if (!ARCH_NAME.test(printable(name, "header, network name"))) {
    throw new FileError(`header, network name: letters, digits and _ . + : - allowed, got ${brief(name)}`);
  }
  object(settings, "header, network settings");
  return { source, name, settings, edits: list(edits, "header, edits").map(edit) };
}

function edit(value) {
  const found = list(value, "header, edit");
  if (found.length < 2) {
    throw new FileError(`header, edit: expected [operation, module path, numbers...], got ${brief(found)}`);
  }
  printable(found[0], "header, edit operation");
  printable(found[1], "header, edit module path", 0);
  return found;
}

function row(value, index) {
  const where = `header, tensor ${index}`;
  const found = list(value, where);
  if (found.length < 2 || found.length > 6) {
    throw new FileError(`${where}: expected 2 to 6 entries, got ${found.length}`);
  }
  const name = printable(found[0], `${where}, name`);
  let size = null;
  if (found.length > 2) size = Number(integer(found[2], `${where}, bytes`));
  if (size !== null && size < 0) throw new FileError(`tensor ${brief(name)}: expected a size >= 0, got ${size} bytes`);
  const words = found.slice(3).map((word) => printable(word, `${where}, form`));
  const [chain, form, dtype] = [...words, ...["raw", "free", "float32"].slice(words.length)];
  return { name, shape: shape(found[1], `${where}, shape`), size, chain, form, dtype, prefix: new Uint8Array(0) };
}

/** A row that has neither name nor shape yet. */
function kind(value) {
  const found = list(value, "header, kind");
  if (found.length < 1 || found.length > 4) {
    throw new FileError(`header, kind: expected 1 to 4 entries, got ${found.length}`);
  }
  const words = found.map((word) => printable(word, "header, kind", 0));
  const [chain, form, prefix, dtype] = [...words, ...["free", "", "float32"].slice(words.length - 1)];
  if (!PREFIX.test(prefix)) {
    throw new FileError(`header, kind: expected at most 16 bytes in hex, got ${brief(prefix)}`);
  }
  const bytes = Uint8Array.from(prefix.match(/../g) ?? [], (digits) => parseInt(digits, 16));
  return { name: "", shape: [], size: null, chain, form, dtype, prefix: bytes };
}

function rowOfKind(value, place, kinds) {
  const found = list(value, "header, tensor");
  integer(place, "header, kind of a tensor");
  if (found.length !== 2 || place < 0 || place >= kinds.length) {
    throw new FileError(`header, tensor: expected [name, shape] and one of ${kinds.length} kinds, got ${brief(found)}`);
  }
  const name = printable(found[0], "header, tensor name");
  return { ...kinds[place], name, shape: shape(found[1], `tensor ${brief(name)}, shape`) };
}

function checkNames(header, rows) {
  if (rows.length > MAX_TENSORS) throw new FileError(`header: ${rows.length} tensors, at most ${MAX_TENSORS} allowed`);
  const names = new Set();
  for (const { name } of rows) {
    if (names.has(name)) throw new FileError(`header: tensor ${brief(name)} appears twice`);
    names.add(name);
  }
  for (const [alias, name] of Object.entries(header.aliases)) {
    if (names.has(alias) || !names.has(name)) {
      const rule = "the second, and only it, must be a tensor";
      throw new FileError(`header: alias ${brief(alias)} -> ${brief(name)}: ${rule}`);
    }
  }
}
