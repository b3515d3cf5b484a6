/** What was explained, in a table; and what the reader of each map must know. */

import { h } from "./dom.js";
import { digits } from "./numbers.js";

/** The cautions of the maps that are shown. */
export function cautions(methods) {
  return methods.map((method) =>
    h(
      "div",
      { class: "caution" },
      h("strong", {}, method.label),
      method.year ? ` ${method.title}, ${method.year} (${method.paper}). ` : ` ${method.title}. `,
      method.cautions.join(" "),
    ),
  );
}

/** What was noted when the image was read. */
export function notes(record) {
  return (record.notes || []).map((line) => h("div", { class: "caution" }, line));
}

/** Model, preprocessing, target and versions of a record. */
export function about(record) {
  const { provenance, explained, prediction } = record;
  const { model, preprocessing, versions } = provenance;
  const [height, width] = record.size;
  const crop = record.window.map((share) => `${digits(100 * share)} %`);
  const entry = (one) =>
    one && `${one.name} (${one.index})${one.probability === null ? " =" : `, p = ${digits(one.probability)}, logit`} ${digits(one.logit)}`;
  const rows = [
    ["picture", `${record.name}, ${width} × ${height} pixels`],
    [
      "the model sees",
      `from ${crop[0]} below the top and ${crop[1]} from the left, ${crop[3]} of the width and ${crop[2]} of the height`,
    ],
    [
      "model",
      [model.model, model.name, model.weights, model.weights_key]
        .filter((one, i, all) => one && all.indexOf(one) === i)
        .join(" · "),
    ],
    ["patches", provenance.grid.join(" × ")],
    [
      "preprocessing",
      Object.entries(preprocessing)
        .map(([key, value]) => `${key} ${plain(value)}`)
        .join(", "),
    ],
    ["target", record.asked],
    ["explained", entry(explained)],
    ["prediction", entry(prediction)],
    ["probabilities", prediction ? provenance.activation : null],
    [
      "versions",
      [...Object.entries(versions).map(([key, value]) => `${key} ${value}`), `Python ${provenance.python}`].join(", "),
    ],
    ...record.methods.map((method) => [
      method.label,
      Object.entries(method.options)
        .map(([key, value]) => `${key} = ${plain(value)}`)
        .join(", ") || "no options",
    ]),
    ...record.failures.map((one) => ["no map", `${one.methods.join(", ")}: ${one.reason}`]),
  ];
  return h(
    "table",
    { class: "facts" },
    h(
      "tbody",
      {},
      rows
        .filter(([, value]) => value)
        .map(([key, value]) => h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, value))),
    ),
  );
}

function plain(value) {
  return Array.isArray(value)
    ? value.map(plain).join(", ")
    : typeof value === "number"
      ? String(Number(value.toPrecision(6)))
      : String(value);
}
