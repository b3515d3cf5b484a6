/** How maps are drawn: opacity, where the colours end, palettes, smooth or patch by patch. */

import { choice, h, labelled, select } from "./dom.js";

/**
 * The fields, folded away.
 * @param {object} state what they begin with
 * @param {{sequential: Map, diverging: Map}} tables
 * @param {number} quantile where colours end unless told
 * @param {function(object)} set is told what changes
 */
export function lookOf(state, tables, quantile, set) {
  const range = h("input", {
    type: "range",
    min: 0,
    max: 1,
    step: 0.01,
    value: state.opacity,
    oninput: () => set({ opacity: +range.value }),
  });
  const ends = [
    [String(quantile), `${100 * quantile} % quantile`],
    ["1", "largest value"],
  ];
  const drawn = [
    ["smooth", "smooth"],
    ["cells", "exact patches"],
  ];
  const palette = (kind) => {
    const names = [...tables[kind].keys()].map((name) => [name, name.replace("_r", "")]);
    return select({ onchange: (event) => set({ [kind]: event.target.value }) }, names, state[kind]);
  };
  const end = select({ onchange: (event) => set({ end: +event.target.value }) }, ends, String(quantile));
  return h(
    "details",
    { class: "look" },
    h("summary", {}, "Colours and scale"),
    h(
      "div",
      { class: "fields" },
      labelled("opacity", range),
      labelled("colours end at", end),
      labelled("palette", palette("sequential")),
      labelled("palette of signed maps", palette("diverging")),
      choice("smooth", "Drawn", drawn, "smooth", (value) => set({ smooth: value === "smooth" })),
    ),
  );
}
