/** How a map grows from block to block: a slider that plays, the share of each block, and the sum of what was said. */

import { choice, h, svg } from "./dom.js";
import { digits } from "./numbers.js";

const PACE = 450;

export class Evolution {
  /**
   * @param {{onchange: function({block: number, own: boolean})}} listeners
   */
  constructor({ onchange }) {
    this.onchange = onchange;
    this.timer = null;
    this.own = false;
    this.slider = h("input", {
      type: "range",
      min: 1,
      step: 1,
      "aria-label": "block",
      oninput: () => this.#go(+this.slider.value),
    });
    this.button = h("button", {
      type: "button",
      class: "play",
      onclick: () => (this.timer ? this.stop() : this.#play()),
    });
    this.output = h("output", {});
    this.chart = svg("svg", { class: "flow", role: "img" });
    this.note = h("p", { class: "faint" });
    this.kind = choice(
      "evolution-kind",
      "Map",
      [
        ["sum", "added up"],
        ["own", "this block's own"],
      ],
      "sum",
      (value) => {
        this.own = value === "own";
        this.#tell();
      },
    );
    this.element = h(
      "div",
      { class: "evolution" },
      h("div", { class: "bar" }, this.button, this.slider, this.output),
      this.kind,
      this.chart,
      this.note,
    );
    this.stop();
  }

  /** Show a method with maps a block, at its last block. */
  show(method) {
    this.stop();
    this.method = method;
    this.blocks = method.blocks.shape[0];
    this.slider.max = this.blocks;
    this.slider.value = this.blocks;
    this.chart.setAttribute("aria-label", `Share of each of ${this.blocks} blocks in the evidence of ${method.label}`);
    this.#draw();
    this.#label();
  }

  /** The block, from 1, and whether its own map is shown. */
  get state() {
    return { block: +this.slider.value, own: this.own };
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "▶";
    this.button.setAttribute("aria-label", "play");
  }

  #play() {
    this.button.textContent = "❚❚";
    this.button.setAttribute("aria-label", "pause");
    const next = () => {
      this.slider.value = (+this.slider.value % this.blocks) + 1;
      this.#tell();
    };
    next();
    this.timer = setInterval(next, PACE);
  }

  #go(block) {
    this.stop();
    this.slider.value = block;
    this.#tell();
  }

  #label() {
    const { block, own } = this.state;
    this.output.textContent = `block ${block} of ${this.blocks}`;
    this.slider.setAttribute("aria-valuetext", own ? `block ${block} alone` : `blocks 1 to ${block} added up`);
    this.chart.querySelectorAll(".block").forEach((bar, i) => {
      bar.classList.toggle("now", i + 1 === block);
      bar.classList.toggle("in", own ? i + 1 === block : i < block);
    });
    const flow = this.method.flow;
    if (!flow) return void (this.note.textContent = "");
    const sum = flow.share.slice(0, block).reduce((total, share) => total + share, 0);
    this.note.textContent =
      `Block ${block} has ${percent(flow.share[block - 1])} of the evidence, blocks 1 to ${block} have ${percent(sum)}. ` +
      `Half of it is there after ${digits(flow.half)} blocks.`;
  }

  #tell() {
    this.#label();
    this.onchange(this.state);
  }

  /** Bars for the blocks' shares, a line for what has come together so far; each block can be clicked. */
  #draw() {
    const flow = this.method.flow;
    if (!flow) return this.chart.replaceChildren();
    const [width, height, left, foot, head] = [600, 190, 48, 24, 10];
    const step = (width - left) / this.blocks;
    const y = (share) => height - foot - share * (height - foot - head);
    const most = Math.max(...flow.share);
    this.chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const lines = [0, 0.5, 1].flatMap((share) => [
      svg("line", { class: "gridline", x1: left, x2: width, y1: y(share), y2: y(share) }),
      svg("text", { class: "tick", x: left - 6, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
    ]);
    let sum = 0;
    const points = [];
    const every = Math.ceil(this.blocks / 16);
    const bars = flow.share.map((share, i) => {
      const x = left + i * step;
      sum += share;
      points.push(`${x + step / 2},${y(sum)}`);
      return svg(
        "g",
        { class: "block", onclick: () => this.#go(i + 1) },
        svg("title", {}, `block ${i + 1}: ${percent(share)}, so far ${percent(sum)}`),
        svg("rect", { class: "hit", x, y: 0, width: step, height }),
        svg("rect", {
          class: "share",
          x: x + step * 0.15,
          width: step * 0.7,
          y: y(share),
          height: height - foot - y(share),
        }),
        i % every === 0 || i === this.blocks - 1
          ? svg("text", { class: "tick", x: x + step / 2, y: height - 7, "text-anchor": "middle" }, String(i + 1))
          : null,
      );
    });
    const legend = svg(
      "text",
      { class: "tick", x: left + 8, y: head + 12 },
      "line: evidence so far · bars: each block's share",
    );
    const line = svg("polyline", { class: "sum", points: points.join(" ") });
    this.chart.replaceChildren(...lines, ...bars, line, ...(most < 0.9 ? [legend] : []));
  }
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 && share > 0 && share < 1 ? 1 : 0)} %`;
}
