/**
 * Numbers out of text, and what pictures of maps need of them.
 * A map is {rows, cols, values}; a packed array {dtype, shape, data, scale} as packing.py writes it.
 */

const LEVELS = 32767;
const RAISED = Object.fromEntries([..."-0123456789"].map((letter, i) => [letter, "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"[i]]));

function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

/** A packed array whose rows (entries of the leading axis) become numbers when they are asked for. */
export class Packed {
  constructor({ dtype, shape, data, scale }) {
    const buffer = bytes(data).buffer;
    this.shape = shape;
    this.length = shape[0];
    this.width = shape.slice(1).reduce((product, size) => product * size, 1);
    this.levels = dtype === "float32" ? new Float32Array(buffer) : new Int16Array(buffer);
    this.scale = scale ? new Float32Array(bytes(scale).buffer) : null;
  }

  /** What a level of row i is worth. */
  unit(i) {
    return this.scale ? this.scale[i] / LEVELS : 1;
  }

  /** Row i as numbers. */
  row(i) {
    const part = this.levels.subarray(i * this.width, (i + 1) * this.width);
    if (!this.scale) return part;
    const unit = this.unit(i);
    return Float32Array.from(part, (level) => level * unit);
  }

  /** All of it, as it lies. */
  all() {
    if (!this.scale) return this.levels;
    const found = new Float32Array(this.levels.length);
    for (let i = 0; i < this.length; i++) found.set(this.row(i), i * this.width);
    return found;
  }
}

/** A packed (rows cols) array as a map. */
export function mapOf(packed) {
  const array = new Packed(packed);
  return { rows: array.shape[0], cols: array.shape[1], values: array.all() };
}

/** The q quantile of the magnitudes, linear between neighbours. */
export function quantile(values, q) {
  const sorted = Float64Array.from(values, Math.abs).sort();
  const place = q * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

/** The maps of blocks 0..k added up; `blocks` is a Packed (blocks rows cols). */
export function accumulated(blocks, k) {
  const [, rows, cols] = blocks.shape;
  const values = new Float32Array(rows * cols);
  for (let block = 0; block <= k; block++) {
    const one = blocks.row(block);
    for (let i = 0; i < values.length; i++) values[i] += one[i];
  }
  return { rows, cols, values };
}

function taps(cells, pixels) {
  const low = new Int32Array(pixels);
  const high = new Int32Array(pixels);
  const share = new Float32Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const place = Math.min(Math.max(((i + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
    low[i] = Math.floor(place);
    high[i] = Math.min(low[i] + 1, cells - 1);
    share[i] = place - low[i];
  }
  return { low, high, share };
}

/** A map on more pixels, bilinear between the cells' centres, the border cells going on to the edge. */
export function enlarged({ rows, cols, values }, height, width) {
  const y = taps(rows, height);
  const x = taps(cols, width);
  const found = new Float32Array(height * width);
  for (let i = 0; i < height; i++) {
    const above = y.low[i] * cols;
    const below = y.high[i] * cols;
    const down = y.share[i];
    for (let j = 0; j < width; j++) {
      const right = x.share[j];
      const top = values[above + x.low[j]] * (1 - right) + values[above + x.high[j]] * right;
      const bottom = values[below + x.low[j]] * (1 - right) + values[below + x.high[j]] * right;
      found[i * width + j] = top * (1 - down) + bottom * down;
    }
  }
  return { rows: height, cols: width, values: found };
}

/** The places of the k largest numbers, the largest first; with sign -1 of the k smallest, the smallest first. */
export function extremes(values, k, sign = 1) {
  const places = Array.from(values.keys());
  places.sort((a, b) => sign * (values[b] - values[a]) || a - b);
  return places.slice(0, k);
}

/** Probabilities of logits by "softmax" or "sigmoid"; null where the outputs have none. */
export function probabilities(logits, activation) {
  if (activation === "softmax") return softmax(logits);
  return activation === "sigmoid" ? Float64Array.from(logits, (one) => 1 / (1 + Math.exp(-one))) : null;
}

function softmax(logits) {
  const highest = logits.reduce((most, one) => Math.max(most, one), -Infinity);
  const powers = Float64Array.from(logits, (one) => Math.exp(one - highest));
  const total = powers.reduce((sum, one) => sum + one, 0);
  return powers.map((one) => one / total);
}

/** A number for people: three significant digits, two beside a power of ten. */
export function digits(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size === 0) return "0";
  if (size >= 0.001 && size < 100000) return sign + Number(size.toPrecision(3));
  const [factor, power] = size.toExponential(1).split("e");
  return `${sign}${factor}·10${[...power.replace("+", "")].map((letter) => RAISED[letter]).join("")}`;
}
