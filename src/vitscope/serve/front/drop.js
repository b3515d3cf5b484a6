/** A place for pictures: to drop them on, to choose them, each with a small view and a way to take it away. */

import { h } from "./dom.js";

const KINDS = ".png,.jpg,.jpeg,.webp,.gif,.bmp,.tif,.tiff";

export class Drop {
  /**
   * @param {{label: string, words: string, most: number, onchange: function()}} about
   */
  constructor({ label, words, most, onchange }) {
    this.most = most;
    this.onchange = onchange;
    this.files = [];
    this.answered = false;
    this.input = h("input", {
      type: "file",
      multiple: true,
      accept: KINDS,
      "aria-label": label,
      onchange: () => (this.add(this.input.files), (this.input.value = "")),
    });
    this.list = h("ul", { class: "chosen", "aria-label": `chosen: ${label}` });
    this.zone = h("label", { class: "drop" }, this.input, h("span", {}, words));
    this.element = h("div", {}, this.zone, this.list);
    for (const kind of ["dragenter", "dragover"]) this.zone.addEventListener(kind, (event) => this.#over(event, true));
    this.zone.addEventListener("dragleave", (event) => this.#over(event, false));
    this.zone.addEventListener("drop", (event) => (this.#over(event, false), this.add(event.dataTransfer.files)));
  }

  /** Take files in; only the last `most` stay. After they were answered, new ones take their place. */
  add(files) {
    this.files = [...(this.answered ? [] : this.files), ...files].slice(-this.most);
    this.answered = false;
    this.#show();
  }

  #over(event, on) {
    event.preventDefault();
    this.zone.classList.toggle("over", on);
  }

  #show() {
    this.list.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
    this.list.replaceChildren(
      ...this.files.map((file) =>
        h(
          "li",
          {},
          h("img", {
            src: URL.createObjectURL(file),
            alt: "",
            onerror: (event) => event.target.classList.add("unseen"),
          }),
          h("span", {}, file.name),
          h(
            "button",
            { type: "button", "aria-label": `take away ${file.name}`, onclick: () => this.#remove(file) },
            "✕",
          ),
        ),
      ),
    );
    this.onchange();
  }

  #remove(file) {
    this.files = this.files.filter((one) => one !== file);
    this.#show();
  }
}
