// The image that both networks see: drawn, chosen, dropped, or set; always pixels of the size that they take.

const SHOWN = 280; // pixels of the canvas, about

export class Picture {
  /** @param {HTMLCanvasElement} canvas; @param {number[]} shape channels, rows, columns; @param changed called after */
  constructor(canvas, shape, changed) {
    [this.channels, this.rows, this.columns] = shape;
    this.scale = Math.max(1, Math.floor(SHOWN / Math.max(this.rows, this.columns)));
    this.canvas = canvas;
    this.changed = changed;
    canvas.width = this.columns * this.scale;
    canvas.height = this.rows * this.scale;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.pixels = new Uint8Array(this.channels * this.rows * this.columns);
    this.cursor = [this.columns / 2, this.rows / 2];
    this.drawing = this.channels === 1;
    if (this.drawing) this.listen();
    else canvas.classList.add("shown");
    this.clear();
  }

  clear() {
    this.pen.fillStyle = "#000";
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.pixels.fill(0);
    this.changed("");
  }

  invert() {
    this.set(this.pixels.map((value) => 255 - value), "Inverted.");
  }

  /** Show these pixels, channel by channel, and let the networks see them. */
  set(pixels, note = "") {
    if (pixels.length !== this.pixels.length) {
      throw new Error(`expected ${this.pixels.length} pixels, got ${pixels.length}`);
    }
    this.pixels.set(pixels);
    this.show();
    return this.changed(note);
  }

  show() {
    const area = this.rows * this.columns;
    const image = new ImageData(this.columns, this.rows);
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = this.pixels[this.channels === 3 ? c * area + i : i];
      image.data[4 * i + 3] = 255;
    }
    const small = document.createElement("canvas");
    [small.width, small.height] = [this.columns, this.rows];
    small.getContext("2d").putImageData(image, 0, 0);
    this.pen.imageSmoothingEnabled = false;
    this.pen.drawImage(small, 0, 0, this.canvas.width, this.canvas.height);
  }

  /** An image file: its middle, scaled, in the channels that the networks take. */
  async load(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      return this.changed(`${file.name || "This"} is no image that this browser reads.`);
    }
    const side = Math.min(bitmap.width / this.columns, bitmap.height / this.rows);
    const [w, h] = [side * this.columns, side * this.rows];
    const small = document.createElement("canvas");
    [small.width, small.height] = [this.columns, this.rows];
    const pen = small.getContext("2d");
    pen.fillRect(0, 0, this.columns, this.rows);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, this.columns, this.rows);
    const rgba = pen.getImageData(0, 0, this.columns, this.rows).data;
    const colour = rgba.some((value, i) => i % 4 < 2 && value !== rgba[i + 1]);
    return this.set(this.fromRgba(rgba), this.converted(file.name, bitmap, w, h, colour));
  }

  fromRgba(rgba) {
    const area = this.rows * this.columns;
    if (this.channels === 3) {
      return Uint8Array.from({ length: 3 * area }, (_, i) => rgba[4 * (i % area) + Math.floor(i / area)]);
    }
    const grey = (i) => Math.round(0.299 * rgba[i] + 0.587 * rgba[i + 1] + 0.114 * rgba[i + 2]);
    return Uint8Array.from({ length: area }, (_, i) => grey(4 * i));
  }

  converted(name, bitmap, w, h, colour) {
    const done = [];
    if (Math.round(w) < bitmap.width || Math.round(h) < bitmap.height) done.push("cropped to its middle");
    if (w !== this.columns) done.push(`scaled to ${this.columns} × ${this.rows}`);
    if (colour && this.channels === 1) done.push("turned grey");
    if (!colour && this.channels === 3) done.push("its grey in all three channels");
    return `${name || "Image"}, ${bitmap.width} × ${bitmap.height}: ${done.join(", ") || "as it is"}.`;
  }

  // --- drawing, for networks of grey images ---

  listen() {
    let last = null;
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      return [x * this.columns, y * this.rows];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      last = place(event);
      this.stroke(last, last);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const next = place(event);
      this.stroke(last, next);
      last = next;
    });
    for (const kind of ["pointerup", "pointercancel"]) this.canvas.addEventListener(kind, () => (last = null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Arrows move the pen and draw; with Shift they only move it. */
  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = this.cursor;
    this.cursor = [
      Math.min(Math.max(x + step[0], 0.5), this.columns - 0.5),
      Math.min(Math.max(y + step[1], 0.5), this.rows - 0.5),
    ];
    if (!event.shiftKey) this.stroke([x, y], this.cursor);
  }

  stroke(from, to) {
    const { pen, scale } = this;
    pen.strokeStyle = "#fff";
    pen.lineCap = "round";
    pen.lineWidth = (scale * Math.max(this.rows, this.columns)) / 12;
    pen.beginPath();
    pen.moveTo(from[0] * scale, from[1] * scale);
    pen.lineTo(to[0] * scale, to[1] * scale);
    pen.stroke();
    this.average();
    this.changed("");
  }

  /** Each pixel is the mean of its square on the canvas. */
  average() {
    const { scale, columns, rows } = this;
    const { data } = this.pen.getImageData(0, 0, columns * scale, rows * scale);
    const sums = new Float64Array(columns * rows);
    for (let y = 0; y < rows * scale; y++) {
      for (let x = 0; x < columns * scale; x++) {
        sums[Math.floor(y / scale) * columns + Math.floor(x / scale)] += data[4 * (y * columns * scale + x)];
      }
    }
    sums.forEach((sum, i) => (this.pixels[i] = Math.round(sum / (scale * scale))));
  }
}
