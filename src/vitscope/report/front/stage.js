/**
 * The photograph with up to two maps over it, a wipe between them, the window that the model saw, and a pointer that
 * names patches: by mouse, touch or arrow keys. Dragging with the brush, or with Shift held, gathers patches.
 */

import { paint } from "./colour.js";
import { h, svg } from "./dom.js";

export class Stage {
  /**
   * @param {{onpoint: function(?{row, col}), onbrush: function(Set<number>)}} listeners
   */
  constructor({ onpoint, onbrush }) {
    this.onpoint = onpoint;
    this.onbrush = onbrush;
    this.brushing = false;
    this.brushed = new Set();
    this.grid = null;
    this.at = null;
    this.photo = h("img", { class: "photo", alt: "", draggable: "false" });
    this.layers = [0, 1].map((place) => h("canvas", { class: "layer", "data-layer": place, hidden: true }));
    this.window = h("div", { class: "window" }, this.layers);
    this.marks = svg("svg", { class: "marks", "aria-hidden": "true", preserveAspectRatio: "none" });
    this.divider = h("div", { class: "divider", hidden: true });
    this.window.append(this.divider);
    this.element = h(
      "div",
      { class: "stage", tabindex: "0", role: "application", "aria-roledescription": "picture with a map" },
      this.photo,
      this.window,
      this.marks,
    );
    this.element.setAttribute("aria-keyshortcuts", "ArrowUp ArrowDown ArrowLeft ArrowRight Space Escape");
    this.#listen();
  }

  /** Show a picture: its record. Maps of the picture before are gone. */
  show(record) {
    const [height, width] = record.size;
    this.photo.src = record.photo;
    this.photo.alt = `${record.name}. ${record.title}`;
    this.element.setAttribute("aria-label", `${record.name}: arrow keys move from patch to patch`);
    this.element.style.aspectRatio = `${width} / ${height}`;
    this.element.style.setProperty("--ratio", width / height);
    this.place = { top: record.window[0], left: record.window[1], height: record.window[2], width: record.window[3] };
    for (const side of ["top", "left", "height", "width"]) this.window.style[side] = `${100 * this.place[side]}%`;
    this.at = null;
    this.brushed = new Set();
    this.layers.forEach((layer) => (layer.hidden = true));
    this.#mark();
  }

  /**
   * Draw maps: none, one, or two with the wipe between them.
   * @param {Array<{map, limits, look}>} drawn as `paint` takes them
   * @param {number} wipe share of the window that shows the first
   */
  draw(drawn, wipe = 1) {
    this.layers.forEach((layer, place) => {
      layer.hidden = place >= drawn.length;
      if (!layer.hidden) paint(layer, drawn[place].map, drawn[place].limits, drawn[place].look);
    });
    if (drawn.length) this.grid = { rows: drawn[0].map.rows, cols: drawn[0].map.cols };
    this.wipe(drawn.length > 1 ? wipe : null);
    this.#mark();
  }

  /** Move the wipe; null where there is none. */
  wipe(share) {
    const [first, second] = this.layers;
    first.style.clipPath = share === null ? "" : `inset(0 ${100 * (1 - share)}% 0 0)`;
    second.style.clipPath = share === null ? "" : `inset(0 0 0 ${100 * share}%)`;
    this.divider.hidden = share === null;
    if (share !== null) this.divider.style.left = `${100 * share}%`;
  }

  /** Point at a patch, or at none. */
  point(at) {
    this.at = at;
    this.#mark();
    this.onpoint(at);
  }

  /** Forget the gathered patches. */
  clear() {
    this.brushed = new Set();
    this.#mark();
    this.onbrush(this.brushed);
  }

  #patchAt(event) {
    const box = this.window.getBoundingClientRect();
    const { rows, cols } = this.grid || {};
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const col = Math.floor(((event.clientX - box.left) / box.width) * cols);
    return row >= 0 && col >= 0 && row < rows && col < cols ? { row, col } : null;
  }

  #gather(at, add = true) {
    if (!at) return;
    const patch = at.row * this.grid.cols + at.col;
    if (add) this.brushed.add(patch);
    else this.brushed.delete(patch);
    this.#mark();
    this.onbrush(this.brushed);
  }

  #listen() {
    let dragging = null; // whether patches are added, while a button is down
    this.element.addEventListener("pointerdown", (event) => {
      const at = this.#patchAt(event);
      this.point(at);
      if (!at || !(this.brushing || event.shiftKey) || event.button > 0) return;
      event.preventDefault();
      this.element.focus({ preventScroll: true });
      this.element.setPointerCapture(event.pointerId);
      dragging = !this.brushed.has(at.row * this.grid.cols + at.col);
      this.#gather(at, dragging);
    });
    this.element.addEventListener("pointermove", (event) => {
      const at = this.#patchAt(event);
      if (!at || (at.row === this.at?.row && at.col === this.at?.col)) return; // the last patch stays, to be read
      if (dragging !== null) between(this.at || at, at).forEach((patch) => this.#gather(patch, dragging));
      this.point(at);
    });
    for (const end of ["pointerup", "pointercancel"]) this.element.addEventListener(end, () => (dragging = null));
    this.element.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!this.grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const { rows, cols } = this.grid;
    if (event.key in steps) {
      const [down, right] = steps[event.key];
      const from = this.at || { row: Math.floor(rows / 2) - down, col: Math.floor(cols / 2) - right };
      const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
      this.point({ row: within(from.row + down, rows), col: within(from.col + right, cols) });
      if (event.shiftKey) this.#gather(this.at);
    } else if (event.key === " " && this.at) {
      this.#gather(this.at, !this.brushed.has(this.at.row * cols + this.at.col));
    } else if (event.key === "Escape") {
      this.clear();
      this.point(null);
    } else return;
    event.preventDefault();
  }

  /** The window's frame, what lies outside of it, the patch that is pointed at, and the gathered ones. */
  #mark() {
    if (!this.place) return;
    const { top, left, height, width } = this.place;
    const [w, h_] = [1000, 1000];
    this.marks.setAttribute("viewBox", `0 0 ${w} ${h_}`);
    const box = { x: left * w, y: top * h_, width: width * w, height: height * h_ };
    const whole = left <= 0 && top <= 0 && left + width >= 1 && top + height >= 1;
    const outside = `M0 0H${w}V${h_}H0Z M${box.x} ${box.y}v${box.height}h${box.width}v${-box.height}Z`;
    const cell = (row, col, kind) =>
      svg("rect", {
        class: kind,
        x: box.x + (col * box.width) / this.grid.cols,
        y: box.y + (row * box.height) / this.grid.rows,
        width: box.width / this.grid.cols,
        height: box.height / this.grid.rows,
      });
    const brushed = this.grid
      ? [...this.brushed].map((patch) => cell(Math.floor(patch / this.grid.cols), patch % this.grid.cols, "brushed"))
      : [];
    this.marks.replaceChildren(
      ...(whole
        ? []
        : [
            svg("path", { class: "outside", d: outside, "fill-rule": "evenodd" }),
            svg("rect", { class: "frame", ...box }),
          ]),
      ...brushed,
      ...(this.at && this.grid
        ? [cell(this.at.row, this.at.col, "pointed back"), cell(this.at.row, this.at.col, "pointed")]
        : []),
    );
  }
}

/** The patches on the way from one to another, which a quick pointer leaves out; the last one is `to`. */
function between(from, to) {
  const steps = Math.max(Math.abs(to.row - from.row), Math.abs(to.col - from.col), 1);
  return Array.from({ length: steps }, (_, i) => ({
    row: Math.round(from.row + ((to.row - from.row) * (i + 1)) / steps),
    col: Math.round(from.col + ((to.col - from.col) * (i + 1)) / steps),
  }));
}
