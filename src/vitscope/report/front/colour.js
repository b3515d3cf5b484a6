/** Colours of a map, and how much of the photograph they cover: as view/overlay.py draws them. */

import { enlarged, quantile } from "./numbers.js";

const STEPS = 257;
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

/** A value's share of the colours: 0..1, signed -1..1. */
export function shareOf(value, { low, high }, signed) {
  if (!(high > low)) return 0;
  const share = signed ? value / high : (value - low) / (high - low);
  return Math.min(Math.max(share, signed ? -1 : 0), 1);
}

/** The colour of a share as [r, g, b]. */
export function colourOf(share, signed, table) {
  const place = 3 * Math.round((signed ? (share + 1) / 2 : share) * (STEPS - 1));
  return table.subarray(place, place + 3);
}

/**
 * Draw a map on a canvas, which takes the size that it needs: the cells, or smooth.
 * The more evidence, the more it covers; no evidence covers nothing.
 */
export function paint(canvas, map, limits, { signed, table, opacity, smooth }) {
  const ratio = Math.max(1, Math.floor(SIDE / Math.max(map.rows, map.cols)));
  const drawn = smooth ? enlarged(map, map.rows * ratio, map.cols * ratio) : map;
  canvas.width = drawn.cols;
  canvas.height = drawn.rows;
  canvas.classList.toggle("cells", !smooth);
  const context = canvas.getContext("2d");
  const image = context.createImageData(drawn.cols, drawn.rows);
  const rise = signed ? RISE_SIGNED : RISE;
  for (let i = 0; i < drawn.values.length; i++) {
    const share = shareOf(drawn.values[i], limits, signed);
    const colour = colourOf(share, signed, table);
    image.data.set(colour, 4 * i);
    image.data[4 * i + 3] = 255 * opacity * Math.abs(share) ** rise;
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
