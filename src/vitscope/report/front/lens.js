/** The class lens: any class's map at once, one class rather than another, and what a patch or a region speaks for. */

import { Combobox } from "./combobox.js";
import { h } from "./dom.js";
import { Evidence } from "./evidence.js";
import { digits, probabilities } from "./numbers.js";

const LISTED = 5;

export class Lens {
  /**
   * @param {{onchange: function(), onbrush: function(boolean), onclear: function()}} listeners
   */
  constructor({ onchange, onbrush, onclear }) {
    this.onchange = onchange;
    const field = (label, placeholder, key) =>
      new Combobox({ label, placeholder, onpick: (index) => this.#pick(key, index) });
    this.first = field("class", "type a class", "of");
    this.second = field("rather than", "any other class", "than");
    this.brush = h(
      "button",
      { type: "button", "aria-pressed": "false", onclick: () => this.#toggle(onbrush) },
      "brush a region",
    );
    this.forget = h("button", { type: "button", hidden: true, onclick: onclear }, "clear the region");
    this.patch = h("div", { class: "opinions" });
    this.region = h("div", { class: "opinions" });
    this.note = h("p", { class: "faint" });
    this.body = h(
      "div",
      {},
      h(
        "div",
        { class: "fields" },
        h("label", { class: "field" }, h("span", {}, "class"), this.first.element),
        h("label", { class: "field" }, h("span", {}, "rather than"), this.second.element),
      ),
      this.patch,
      h("div", { class: "bar" }, this.brush, this.forget),
      this.region,
    );
    this.element = h("div", { class: "lens" }, this.body, this.note);
  }

  /** Take a picture's evidence up: its record and what the page shares. */
  show(record, shared) {
    this.evidence = record.lens.form === "none" ? null : new Evidence(record.lens, shared);
    this.body.hidden = !this.evidence;
    this.note.textContent = this.evidence
      ? `${this.evidence.describe()} It reads the last block's tokens, which may have moved information between patches before.`
      : `There is none here: ${record.lens.reason}.`;
    if (!this.evidence) return;
    const logits = record.logits_unpacked;
    const likely = probabilities(logits, record.provenance.activation);
    const order = this.evidence.classes.slice().sort((a, b) => logits[b] - logits[a]);
    const entries = order.map((index) => ({
      index,
      name: shared.classes[index],
      note: `${index} · ${likely ? `p = ${digits(likely[index])}` : `value ${digits(logits[index])}`}`,
    }));
    this.first.offer(entries);
    this.second.offer(entries);
    const index = record.explained ? record.explained.index : order[0];
    this.choose(this.evidence.has(index) ? index : order[0], null);
    this.speak(null);
    this.rank(new Set());
  }

  /** Ask for a class, and for what speaks for it rather than another. */
  choose(of, than) {
    this.of = of;
    this.than = than;
    this.first.set(of);
    this.second.set(than);
  }

  /** What is asked for, in words. */
  get title() {
    const name = (index) => this.evidence.names[index];
    return this.than === null ? name(this.of) : `${name(this.of)} rather than ${name(this.than)}`;
  }

  /** The map that is asked for. */
  get map() {
    return this.than === null ? this.evidence.map(this.of) : this.evidence.contrast(this.of, this.than);
  }

  /** List what a patch (its place on the evidence's grid) speaks for and against; null for none. */
  speak(patch) {
    if (!this.evidence) return;
    this.#list(
      this.patch,
      patch === null ? [] : [patch],
      "This patch speaks",
      "Point at a patch to see which classes it speaks for and against.",
    );
  }

  /** Rank the classes that a set of patches supports. */
  rank(patches) {
    if (!this.evidence) return;
    this.forget.hidden = !patches.size;
    const words = patches.size === 1 ? "The brushed patch speaks" : `These ${patches.size} patches together speak`;
    this.#list(
      this.region,
      [...patches],
      words,
      "Brush a region, or hold Shift and drag, to rank the classes that it supports.",
    );
  }

  #list(host, patches, words, nothing) {
    if (!patches.length) return host.replaceChildren(h("p", { class: "faint" }, nothing));
    const sides = [
      ["for", 1],
      ["against", -1],
    ].map(([side, sign]) => [side, this.evidence.opinions(patches, LISTED, sign)]);
    const most = Math.max(...sides.flatMap(([, found]) => found.map((one) => Math.abs(one.value))), 1e-30);
    const item = (one, side) =>
      h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            class: side,
            style: `--share: ${(100 * Math.abs(one.value)) / most}%`,
            "data-class": one.index,
            onclick: () => this.#take(one.index),
          },
          h("span", {}, one.name),
          h("small", {}, digits(one.value)),
        ),
      );
    host.replaceChildren(
      ...sides.map(([side, found]) =>
        h(
          "div",
          {},
          h("h4", {}, `${words} ${side}`),
          found.length
            ? h(
                "ol",
                {},
                found.map((one) => item(one, side)),
              )
            : h("p", { class: "faint" }, "no class"),
        ),
      ),
    );
  }

  #take(index) {
    this.choose(index, this.than === index ? null : this.than);
    this.onchange();
  }

  #pick(key, index) {
    if (key === "of" && index === null) return;
    this[key] = index;
    if (this.than === this.of) this.choose(this.of, null);
    this.onchange();
  }

  #toggle(onbrush) {
    const on = this.brush.getAttribute("aria-pressed") !== "true";
    this.brush.setAttribute("aria-pressed", String(on));
    onbrush(on);
  }
}
