// A network from its `.press` file: decoded by press.js, run by ONNX Runtime Web in one thread.

import { DICTIONARIES } from "./dictionaries.js";
import { checkGraph, loads, modelBytes } from "./press.js";

// A module whose only function returns a vector: valid where the browser has WebAssembly SIMD.
const SIMD_MODULE = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];

/** Whether networks can be run here; they can be decoded anywhere. */
export function hasSimd() {
  return typeof WebAssembly === "object" && WebAssembly.validate(Uint8Array.from(SIMD_MODULE));
}

let runtime; // a promise, once it is wanted: 14 MB

function onnxRuntime() {
  runtime ??= import("./vendor/ort.wasm.bundle.min.mjs").then((ort) => {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };
    ort.env.logLevel = "error";
    return ort;
  });
  return runtime;
}

/** Fetch and decode a file; open it for running where that is possible. */
export async function openNetwork(address, simd) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: the server says ${answer.status}`);
  const data = new Uint8Array(await answer.arrayBuffer());
  const start = performance.now();
  const press = loads(data, { dictionaries: DICTIONARIES });
  const model = modelBytes(press);
  const network = new Network(press, data.length, performance.now() - start);
  if (simd) await network.open(model);
  return network;
}

class Network {
  constructor(press, bytes, decodeMs) {
    Object.assign(this, { header: press.header, bytes, decodeMs, session: null });
    this.input = checkGraph(press.graph).inputs[0];
  }

  async open(model) {
    this.ort = await onnxRuntime();
    this.session = await this.ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  }

  /** Logits of one image, `pixels` 0 to 255, channel by channel. */
  async run(pixels) {
    const x = new this.ort.Tensor("float32", normalise(pixels, this.header), [1, ...this.header.inputShape]);
    const found = await this.session.run({ [this.input]: x });
    return found[this.session.outputNames[0]].data;
  }

  /** All classes with their probabilities, the most probable first. */
  async classify(pixels) {
    const logits = Array.from(await this.run(pixels));
    const top = Math.max(...logits);
    const powers = logits.map((z) => Math.exp(z - top));
    const sum = powers.reduce((a, b) => a + b, 0);
    const { classes } = this.header;
    const rows = powers.map((p, i) => [classes[i] ?? String(i), p / sum]);
    return rows.sort((a, b) => b[1] - a[1]);
  }
}

/** (pixel / 255 - mean) / std in float32, as netpress.runtime does. */
export function normalise(pixels, { inputShape, mean, std }) {
  const area = inputShape[1] * inputShape[2];
  const f = Math.fround;
  return Float32Array.from(pixels, (pixel, i) => {
    const channel = Math.floor(i / area);
    let x = f(pixel / 255);
    if (mean.length) x = f(x - f(mean[mean.length > 1 ? channel : 0]));
    if (std.length) x = f(x / f(std[std.length > 1 ? channel : 0]));
    return x;
  });
}

const BLOCKS = 7;
const BLOCK_MS = 4;

/** Median milliseconds of one image for each network, in turns; null where one cannot run. */
export async function timeInTurns(networks, pixels) {
  const times = networks.map(() => []);
  const counts = networks.map(() => 1);
  for (let block = -1; block < BLOCKS; block++) {
    for (const [i, network] of networks.entries()) {
      if (!network?.session) continue;
      const start = performance.now();
      for (let k = 0; k < counts[i]; k++) await network.run(pixels);
      const each = (performance.now() - start) / counts[i];
      if (block < 0) counts[i] = Math.min(Math.max(Math.ceil(BLOCK_MS / Math.max(each, 0.05)), 1), 64);
      else times[i].push(each); // the first round warms up and says how many runs a block needs
    }
  }
  return times.map((found) => (found.length ? found.sort((a, b) => a - b)[BLOCKS >> 1] : null));
}
