// node play_decoder_node.mjs FOLDER CASES ANSWERS: what play_decoder.js does, from file to file.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, cases, answers] = process.argv.slice(2);
const { decodeAll } = await import(pathToFileURL(`${folder}/play_decoder.js`));
const found = await decodeAll(`${pathToFileURL(folder)}/`, JSON.parse(readFileSync(cases, "utf8")));
writeFileSync(answers, JSON.stringify(found, (_, value) => (typeof value === "bigint" ? String(value) : value)));
