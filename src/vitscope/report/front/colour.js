/** Colours of a map, and how much of the photograph they cover: as view/overlay.py draws them. */

import { enlarged, quantile } from "./numbers.js";

const STEPS = 257;
const INKS = 2049; // odd, so that zero has an entry of its own in the middle
const RISE = 0.6;
const RISE_SIGNED = 0.85;
const SIDE = 448;

/** Palettes by kind and name, from base64 tables of 257 RGB triples. */
export function tablesOf(palettes) {
  const decode = (group) =>
    new Map(
      Object.entries(group).map(([name, text]) => [
        name,
        Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)),
      ]),
    );
  return { sequential: decode(palettes.sequential), diverging: decode(palettes.diverging) };
}

/**
 * The ends of the colours: low is drawn as nothing, high as most.
 * A map that grows is held against its last state, `whole`, from zero; any other from its own smallest value.
 */
export function limitsOf(map, { signed, whole = null, end = 1 }) {
  const scale = whole || map;
  const high = quantile(scale.values, end) || quantile(scale.values, 1);
  if (signed) return { low: -high, high };
  if (whole) return { low: 0, high };
  const low = map.values.reduce((least, value) => Math.min(least, value), Infinity);
  return { low: Math.min(Math.max(low, -high), high), high };
}

/** The colour of a share, 0..1 or signed -1..1, as [r, g, b]. */
function colourOf(share, signed, table) {
  const place = 3 * Math.round((signed ? (share + 1) / 2 : share) * (STEPS - 1));
  return table.subarray(place, place + 3);
}

/** The colours of all shares, from the lowest to the highest, as a canvas keeps them: RGBA, covering as `overlay` does. */
function inks({ signed, table, opacity }) {
  const found = new Uint8ClampedArray(4 * INKS);
  const rise = signed ? RISE_SIGNED : RISE;
  for (let i = 0; i < INKS; i++) {
    const place = i / (INKS - 1);
    const share = signed ? 2 * place - 1 : place;
    found.set(colourOf(share, signed, table), 4 * i);
    found[4 * i + 3] = 255 * opacity * Math.abs(share) ** rise;
  }
  return new Uint32Array(found.buffer);
}

/**
 * Draw a map on a canvas, which takes the size that it needs: the cells, or smooth.
 * The more evidence, the more it covers; no evidence covers nothing.
 */
export function paint(canvas, map, limits, look) {
  const ratio = Math.max(1, Math.floor(SIDE / Math.max(map.rows, map.cols)));
  const drawn = look.smooth ? enlarged(map, map.rows * ratio, map.cols * ratio) : map;
  canvas.width = drawn.cols;
  canvas.height = drawn.rows;
  canvas.classList.toggle("cells", !look.smooth);
  const context = canvas.getContext("2d");
  const image = context.createImageData(drawn.cols, drawn.rows);
  const pixels = new Uint32Array(image.data.buffer);
  const ink = inks(look);
  const { low, high } = limits;
  for (let i = 0; i < pixels.length && high > low; i++) {
    const place = Math.round(((drawn.values[i] - low) / (high - low)) * (INKS - 1));
    pixels[i] = ink[Math.min(Math.max(place, 0), INKS - 1)];
  }
  context.putImageData(image, 0, 0);
}

/** A colour bar from low to high. */
export function paintBar(canvas, signed, table) {
  canvas.width = STEPS;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  const image = context.createImageData(STEPS, 1);
  for (let i = 0; i < STEPS; i++) {
    image.data.set(table.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
