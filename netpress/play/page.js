// The playground's page: which networks there are, the image, both answers, the slider through the steps of the run.

import { Picture } from "./images.js";
import { hasSimd, openNetwork, timeInTurns } from "./networks.js";

const $ = (id) => document.getElementById(id);
const SHOWN_CLASSES = 5;
const TIME_AFTER_MS = 250; // without a change

const state = { run: null, simd: hasSimd(), networks: new Map(), original: null, chosen: null, picture: null, turn: 0 };
let busy = Promise.resolve(); // one network runs at a time
let timer;

function notice(text) {
  const line = document.createElement("p");
  line.className = "notice";
  line.textContent = text;
  $("notices").append(line);
}

const count = (number) => number.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const milliseconds = (ms) => `${ms < 10 ? ms.toPrecision(2) : ms.toFixed(0)}\u00a0ms`;

/** The network of a step, or null, said once, where it cannot be had. */
async function network(index) {
  if (index === null) return null;
  if (!state.networks.has(index)) {
    const { file } = state.run.steps[index];
    const opened = openNetwork(file, state.simd).catch((error) => {
      notice(`${file}: ${error.message}`);
      return null;
    });
    state.networks.set(index, opened);
  }
  return state.networks.get(index);
}

function facts(side, index, opened, ms) {
  const step = state.run.steps[index];
  const rows = [];
  if (step) rows.push(["Size", `${count(step.bytes)} bytes`]);
  if (step?.top1 != null) rows.push([`Right on ${step.split ?? "test"}`, percent(step.top1)]);
  if (opened) rows.push(["Decoded in", milliseconds(opened.decodeMs)]);
  rows.push(["One image", ms == null ? "–" : milliseconds(ms)]);
  $(`${side}-facts`).replaceChildren(
    ...rows.flatMap((row) =>
      row.map((text, i) => {
        const cell = document.createElement(i ? "dd" : "dt");
        cell.textContent = text;
        return cell;
      }),
    ),
  );
}

function classes(side, answer) {
  const rows = (answer ?? []).slice(0, SHOWN_CLASSES).map(([label, share]) => {
    const row = document.createElement("li");
    for (const [kind, text] of [["name", label], ["share", percent(share)]]) {
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = text;
      row.append(part);
    }
    const track = document.createElement("span");
    track.className = "track";
    track.setAttribute("aria-hidden", "true");
    const fill = document.createElement("span");
    fill.className = "fill";
    fill.style.width = `${100 * share}%`;
    track.append(fill);
    row.append(track);
    return row;
  });
  $(`${side}-classes`).replaceChildren(...rows);
}

function verdict(left, right) {
  const both = left && right;
  let text = "Nothing could be run: see above.";
  if (both && left[0][0] === right[0][0]) text = `Both say ${left[0][0]}.`;
  else if (both) text = `They differ: ${left[0][0]} and ${right[0][0]}.`;
  else if (left || right) text = `${left ? "The original" : "The compressed network"} says ${(left ?? right)[0][0]}.`;
  else if (!state.simd) text = "Decoded, not run: see above.";
  $("verdict").textContent = text;
  $("verdict").classList.toggle("differ", Boolean(both) && left[0][0] !== right[0][0]);
}

/** Ask both networks about the image as it is now; only the newest question is shown. */
function ask() {
  const turn = ++state.turn;
  clearTimeout(timer);
  return inTurn(async () => {
    if (turn !== state.turn) return null;
    const pair = [await network(state.original), await network(state.chosen)];
    const pixels = state.picture.pixels.slice();
    const answers = [];
    const blank = pixels.every((value) => value === 0);
    for (const one of pair) answers.push(one?.session ? await one.classify(pixels) : null);
    if (turn === state.turn) present(pair, blank ? [null, null] : answers);
    if (turn === state.turn && blank && state.simd) $("verdict").textContent = "Draw, or choose an image.";
    return { original: answers[0], compressed: answers[1] };
  });
}

/** Do it once all that was asked for before is done; what goes wrong is shown. */
function inTurn(work) {
  busy = busy.then(work).catch((error) => {
    notice(error.message);
    return null;
  });
  return busy;
}

function present(pair, answers, times = []) {
  [["left", state.original], ["right", state.chosen]].forEach(([side, index], i) => {
    facts(side, index, pair[i], times[i]);
    classes(side, answers[i]);
  });
  if (times.length) return;
  verdict(...answers);
  timer = setTimeout(() => time(pair, answers, state.turn), TIME_AFTER_MS);
}

function time(pair, answers, turn) {
  inTurn(async () => {
    if (turn !== state.turn) return;
    const times = await timeInTurns(pair, state.picture.pixels.slice());
    if (turn === state.turn) present(pair, answers, times);
  });
}

function choose(index) {
  const { steps } = state.run;
  const step = steps[index];
  state.chosen = index;
  const original = steps[state.original];
  const times = original ? (original.bytes / step.bytes).toFixed(1) : "";
  const smaller = original && index !== state.original ? `, ${times} times smaller` : "";
  const right = step.top1 == null ? "" : `, ${percent(step.top1)} right on ${step.split ?? "test"}`;
  const words = `${step.label}: ${count(step.bytes)} bytes${smaller}${right}`;
  $("step-name").textContent = `${index + 1} of ${steps.length}. ${words}`;
  $("step").setAttribute("aria-valuetext", words);
  $("right-title").textContent = index === state.original ? "The original again" : `Compressed: ${step.label}`;
  return ask();
}

function changed(note) {
  $("image-note").textContent = note;
  return state.chosen === null ? null : ask();
}

function listen(picture) {
  $("clear").addEventListener("click", () => picture.clear());
  $("invert").addEventListener("click", () => picture.invert());
  $("step").addEventListener("input", (event) => choose(Number(event.target.value)));
  $("file").addEventListener("change", (event) => {
    if (event.target.files.length) picture.load(event.target.files[0]);
    event.target.value = "";
  });
  const place = $("image");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  document.addEventListener("dragleave", () => place.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    if (event.dataTransfer.files.length) picture.load(event.dataTransfer.files[0]);
  });
}

function describe({ title, network: name, data, shape, problems }) {
  const [channels, rows, columns] = shape;
  document.title = `${title} – netpress playground`;
  $("title").textContent = title;
  const kind = channels === 1 ? "grey" : "colour";
  $("about").textContent = `${name}${data ? ` on ${data}` : ""}: ${kind} images of ${columns} × ${rows}.`;
  const drawing = "Draw with the pointer, or with the arrow keys (Shift moves without drawing). ";
  $("canvas-help").textContent = `${channels === 1 ? drawing : ""}Or drop an image on the page.`;
  problems.forEach(notice);
}

async function start() {
  const answer = await fetch("play.json");
  if (!answer.ok) throw new Error(`play.json: the server says ${answer.status}`);
  state.run = await answer.json();
  describe(state.run);
  if (!state.simd) {
    notice(
      "This browser has no WebAssembly SIMD, and the ONNX Runtime that this page brings has no build without it: " +
        "files are decoded and their numbers shown, but no network can be run. Browsers have it since 2021 " +
        "(Safari since 2023).",
    );
  }
  state.original = state.run.original;
  state.picture = new Picture($("canvas"), state.run.shape, changed);
  listen(state.picture);
  const last = state.run.steps.length - 1;
  $("step").max = String(last);
  $("step").value = String(last);
  await choose(last);
}

/** For tests and scripts: show pixels (0 to 255, channel by channel), and what both networks answer. */
window.setPixels = (pixels) => state.picture.set(Uint8Array.from(pixels));

start()
  .then(() => (document.body.dataset.ready = "yes"))
  .catch((error) => {
    $("verdict").textContent = "The page could not start.";
    notice(error.message);
  });
