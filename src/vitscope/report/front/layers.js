/** What is drawn: a method's map, at a block where it grows, or a class's map from the lens; with its colour bar. */

import { limitsOf, paintBar } from "./colour.js";
import { h } from "./dom.js";
import { accumulated, digits, mapOf, Packed } from "./numbers.js";

/** The name of the lens among the methods. */
export const LENS = "@lens";

/**
 * Everything that a map's drawing needs.
 * @param {{record, state, tables, lens, evolution}} viewer
 * @param {string} label of a method, or `LENS`
 */
export function layerOf({ record, state, tables, lens, evolution }, label) {
  const method = record.methods.find((one) => one.label === label);
  const found =
    label === LENS ? { title: `class lens: ${lens.title}`, map: lens.map, whole: null } : grown(method, evolution);
  const { title, map, whole } = found;
  const signed = label === LENS || method.signed;
  const table = signed ? tables.diverging.get(state.diverging) : tables.sequential.get(state.sequential);
  const look = { signed, table, opacity: state.opacity, smooth: state.smooth };
  return { title, method, ...map, map, limits: limitsOf(map, { signed, whole, end: state.end }), look };
}

/** A method's map as far as its evolution is shown, and what its colours are held against. */
function grown(method, evolution) {
  const { label } = method;
  const total = (method.total ??= mapOf(method.values));
  if (!method.blocks) return { title: label, map: total, whole: null };
  const blocks = (method.parts ??= new Packed(method.blocks));
  const { block, own } = evolution.method === method ? evolution.state : { block: blocks.length, own: false };
  if (own) {
    const map = { rows: total.rows, cols: total.cols, values: blocks.row(block - 1) };
    return { title: `${label}, block ${block} alone`, map, whole: { values: blocks.all() } };
  }
  if (block === blocks.length) return { title: label, map: total, whole: total };
  return { title: `${label}, blocks 1 to ${block}`, map: accumulated(blocks, block - 1), whole: total };
}

/** The colour bar of a layer, with its ends in numbers. */
export function barOf({ title, limits, look }) {
  const [from, to] = [digits(limits.low), digits(limits.high)];
  const canvas = h("canvas", { role: "img", "aria-label": `colours from ${from} to ${to}` });
  paintBar(canvas, look.signed, look.table);
  const low = look.signed ? "against" : limits.low === 0 ? "no evidence" : "least";
  const high = look.signed ? "for" : "most";
  const ends = h("div", { class: "ends" }, h("span", {}, `${low} ${from}`), h("span", {}, `${to} ${high}`));
  return h("figure", {}, h("figcaption", {}, title), canvas, ends);
}
