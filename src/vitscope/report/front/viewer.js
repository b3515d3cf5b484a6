/** The view of a run's pictures: maps over the photograph, evolution, class lens, and what was explained. */

import { about, cautions, notes } from "./about.js";
import { tablesOf } from "./colour.js";
import { choice, h, labelled } from "./dom.js";
import { Evolution } from "./evolution.js";
import { byFamily } from "./families.js";
import { barOf, layerOf, LENS } from "./layers.js";
import { Lens } from "./lens.js";
import { lookOf } from "./look.js";
import { digits, Packed } from "./numbers.js";
import { Stage } from "./stage.js";

export class Viewer {
  /** @param {object} palettes of record.palettes() */
  constructor(palettes) {
    this.tables = tablesOf(palettes);
    this.quantile = palettes.end;
    this.state = {
      first: null,
      second: null,
      mode: "one",
      wipe: 0.5,
      opacity: 0.65,
      smooth: true,
      end: palettes.end,
      sequential: [...this.tables.sequential.keys()][0],
      diverging: [...this.tables.diverging.keys()][0],
    };
    this.evolution = new Evolution({ onchange: () => this.#evolved() });
    this.lens = new Lens({
      onchange: () => this.set({ first: LENS }),
      onbrush: (on) =>
        this.stages.forEach((stage) => ((stage.brushing = on), stage.element.classList.toggle("brushing", on))),
      onclear: () => this.stages.forEach((stage) => stage.clear()),
    });
    const stage = (place) =>
      new Stage({ onpoint: (at) => this.#pointed(place, at), onbrush: (patches) => this.#brushed(place, patches) });
    this.stages = [stage(0), stage(1)];
    this.element = h("div", { class: "viewer" });
    this.#build();
  }

  /**
   * Show a run.
   * @param {{pictures: object[], shared: object}} run as content_of gives it
   */
  open({ pictures, shared }) {
    this.pictures = pictures;
    this.shared = shared;
    this.gallery.hidden = pictures.length < 2;
    this.gallery.replaceChildren(
      ...pictures.map((record, i) =>
        h(
          "li",
          {},
          h(
            "button",
            { type: "button", title: record.name, onclick: () => this.picture(i) },
            h("img", { src: record.photo, alt: "", loading: "lazy" }),
            h("span", {}, record.name),
          ),
        ),
      ),
    );
    this.picture(0);
  }

  /** Show one picture. */
  picture(index) {
    this.index = index;
    const record = (this.record = this.pictures[index]);
    record.logits_unpacked ??= record.logits ? new Packed(record.logits).all() : null;
    this.title.textContent = record.name;
    this.said.textContent = record.title;
    [...this.gallery.querySelectorAll("button")].forEach((button, i) =>
      button.setAttribute("aria-current", String(i === index)),
    );
    this.stages.forEach((stage) => stage.show(record));
    this.evolution.stop();
    this.lens.show(record, this.shared[record.shared]);
    const methods = record.methods.map((method) => method.label);
    const known = (label) => methods.includes(label) || (label === LENS && this.lens.evidence);
    const first = known(this.state.first) ? this.state.first : methods[0] || LENS;
    const second = known(this.state.second) ? this.state.second : methods.find((label) => label !== first) || first;
    this.#offer();
    const growing = record.methods.filter((method) => method.blocks);
    this.grown.hidden = !growing.length;
    this.facts.replaceChildren(about(record));
    if (growing.length) {
      const shown = growing.find((method) => method.label === first) || growing[0];
      this.growing.replaceChildren(
        ...growing.map((method) => h("option", { value: method.label, selected: method === shown }, method.label)),
      );
      this.growing.parentElement.hidden = growing.length < 2;
      this.evolution.show(shown);
    }
    this.set({ first, second });
  }

  /** Change what is shown: first, second, mode, wipe, opacity, smooth, end, sequential, diverging. */
  set(changes) {
    Object.assign(this.state, changes);
    this.#draw();
  }

  /** What is drawn at a place, 0 or 1: its title, its map's values, rows and cols, its limits. */
  shown(place = 0) {
    return this.drawn[place] || null;
  }

  #build() {
    this.gallery = h("ul", { class: "gallery", "aria-label": "pictures" });
    this.title = h("h2", {});
    this.said = h("p", { class: "said" });
    this.readout = h(
      "output",
      { class: "readout", "aria-live": "polite" },
      "Point at the picture, or move over it with the arrow keys.",
    );
    this.bars = h("div", { class: "bars" });
    this.maps = [0, 1].map((place) =>
      h("select", {
        "aria-label": ["map", "second map"][place],
        onchange: (event) => this.#choose(place, event.target.value),
      }),
    );
    this.secondField = labelled("with", this.maps[1]);
    this.wiper = h("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.005,
      value: this.state.wipe,
      "aria-label": "wipe between the maps",
      oninput: () => this.#wipe(+this.wiper.value),
    });
    this.warnings = h("div", { class: "cautions" });
    this.facts = h("div", { class: "scroll" });
    this.growing = h("select", {
      "aria-label": "method whose blocks are shown",
      onchange: (event) => this.#grow(event.target.value),
    });
    this.grown = h(
      "section",
      { class: "card" },
      h("h3", {}, "Evolution over the blocks"),
      labelled("method", this.growing),
      this.evolution.element,
    );
    const modes = choice(
      "mode",
      "Compare",
      [
        ["one", "one map"],
        ["wipe", "wipe"],
        ["side", "side by side"],
      ],
      this.state.mode,
      (mode) => this.set({ mode }),
    );
    const look = lookOf(this.state, this.tables, this.quantile, (changes) => this.set(changes));
    const pictures = h(
      "div",
      { class: "pictures" },
      h(
        "div",
        { class: "stages" },
        this.stages.map((stage) => stage.element),
      ),
      this.wiper,
      this.bars,
      this.readout,
      h("div", { class: "fields" }, labelled("map", this.maps[0]), modes, this.secondField),
      look,
      this.warnings,
    );
    const panels = h(
      "div",
      { class: "panels" },
      this.grown,
      h("section", { class: "card" }, h("h3", {}, "Class lens"), this.lens.element),
      h("section", { class: "card" }, h("h3", {}, "What was explained"), this.facts),
    );
    this.element.append(
      this.gallery,
      h("header", { class: "head" }, this.title, this.said),
      h("div", { class: "columns" }, pictures, panels),
    );
  }

  /** Fill the lists of maps: the methods by family, then the lens. */
  #offer() {
    const groups = byFamily(this.record.methods).map(([label, methods]) =>
      h(
        "optgroup",
        { label },
        methods.map((method) => h("option", { value: method.label }, method.label)),
      ),
    );
    for (const list of this.maps) {
      const lens = this.lens.evidence ? [h("option", { value: LENS }, "class lens")] : [];
      list.replaceChildren(...groups.map((group) => group.cloneNode(true)), ...lens);
    }
  }

  #choose(place, label) {
    const method = this.record.methods.find((one) => one.label === label);
    if (method?.blocks && this.evolution.method !== method) this.#follow(method);
    this.set(place ? { second: label } : { first: label });
  }

  #follow(method) {
    this.growing.value = method.label;
    this.evolution.show(method);
  }

  #grow(label) {
    this.#follow(this.record.methods.find((one) => one.label === label));
    this.#evolved();
  }

  /** The slider moved: its method is shown, if it is not already. */
  #evolved() {
    const { label } = this.evolution.method;
    const there = this.state.first === label || (this.state.mode !== "one" && this.state.second === label);
    this.set(there ? {} : { first: label });
  }

  #draw() {
    if (!this.record) return;
    const { first, second, mode, wipe } = this.state;
    this.maps[0].value = first;
    this.maps[1].value = second;
    const there = (label) =>
      label === LENS ? this.lens.evidence : this.record.methods.some((one) => one.label === label);
    this.drawn = (mode === "one" ? [first] : [first, second]).filter(there).map((label) => layerOf(this, label));
    this.stages[0].draw(mode === "side" ? this.drawn.slice(0, 1) : this.drawn, wipe);
    this.stages[1].element.hidden = mode !== "side";
    this.element.dataset.mode = mode;
    if (mode === "side") this.stages[1].draw(this.drawn.slice(1));
    this.secondField.hidden = mode === "one";
    this.wiper.hidden = mode !== "wipe";
    this.bars.replaceChildren(...this.drawn.map((one) => barOf(one)));
    const methods = this.drawn.map((one) => one.method).filter((one, i, all) => one && all.indexOf(one) === i);
    this.warnings.replaceChildren(...notes(this.record), ...cautions(methods));
    this.#read(this.stages[0].at);
  }

  #wipe(share) {
    this.state.wipe = share;
    this.stages[0].wipe(share);
  }

  /** One stage is pointed at: the other follows, the lens says what the patch speaks for. */
  #pointed(place, at) {
    const other = this.stages[1 - place];
    const same = (a, b) => a?.row === b?.row && a?.col === b?.col;
    if (this.state.mode === "side" && !same(other.at, at)) other.point(at);
    this.#read(at);
    const patch = at && this.lens.evidence ? this.#onLens(this.stages[place].grid, at.row, at.col) : null;
    this.lens.speak(patch);
  }

  #read(at) {
    if (!this.drawn.length) {
      this.readout.textContent = "There is no map of this picture; the table tells why.";
      return;
    }
    if (!at) {
      this.readout.textContent = "Point at the picture, or move over it with the arrow keys.";
      return;
    }
    const { rows, cols } = this.drawn[0];
    const values = this.drawn.map((one) => {
      const row = Math.floor(((at.row + 0.5) / rows) * one.rows);
      const col = Math.floor(((at.col + 0.5) / cols) * one.cols);
      return `${one.title}: ${digits(one.values[row * one.cols + col])}`;
    });
    this.readout.textContent = `Row ${at.row + 1}, column ${at.col + 1} · ${values.join(" · ")}`;
  }

  #brushed(place, patches) {
    const { grid } = this.stages[place];
    const on = this.lens.evidence
      ? [...patches].map((patch) => this.#onLens(grid, Math.floor(patch / grid.cols), patch % grid.cols))
      : [];
    this.lens.rank(new Set(on));
  }

  /** A patch of a stage's grid as a place on the evidence's. */
  #onLens(grid, row, col) {
    const { rows, cols } = this.lens.evidence;
    return Math.floor(((row + 0.5) / grid.rows) * rows) * cols + Math.floor(((col + 0.5) / grid.cols) * cols);
  }
}
