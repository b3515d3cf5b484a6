/** Elements in short: h("button", {class: "x", onclick: f}, "text", child). */

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element; texts are texts, never markup. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** A labelled control: the label's words, then the control. */
export function labelled(words, control) {
  if (!control.hasAttribute("aria-label")) control.setAttribute("aria-label", words);
  return h("label", { class: "field" }, h("span", {}, words), control);
}

/** A select of [value, words] pairs, in groups where a pair's second entry is a list of pairs. */
export function select(attributes, options, chosen) {
  const option = ([value, words]) => h("option", { value, selected: value === chosen }, words);
  const group = ([label, entries]) => h("optgroup", { label }, entries.map(option));
  return h(
    "select",
    attributes,
    options.map((one) => (Array.isArray(one[1]) ? group(one) : option(one))),
  );
}

/** A switch between few things: radio buttons that look like one bar. */
export function choice(name, legend, options, chosen, onchange) {
  const buttons = options.map(([value, words]) =>
    h(
      "label",
      {},
      h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onchange(value) }),
      h("span", {}, words),
    ),
  );
  return h("fieldset", { class: "choice" }, h("legend", {}, legend), buttons);
}
