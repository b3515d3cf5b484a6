/** A text field that finds classes by name or number, and lists them: ARIA's combobox with a list box. */

import { h } from "./dom.js";

const LISTED = 12;
let made = 0;

export class Combobox {
  /**
   * @param {{label: string, placeholder: string, onpick: function(?number)}} about null is picked when it is emptied
   */
  constructor({ label, placeholder, onpick }) {
    this.onpick = onpick;
    this.entries = [];
    this.found = [];
    this.active = -1;
    this.picked = null;
    const id = `classes-${made++}`;
    this.list = h("ul", { class: "options", id, role: "listbox", "aria-label": label, hidden: true });
    this.input = h("input", {
      type: "text",
      role: "combobox",
      placeholder,
      autocomplete: "off",
      spellcheck: "false",
      "aria-label": label,
      "aria-expanded": "false",
      "aria-controls": id,
      "aria-autocomplete": "list",
      oninput: () => this.#search(),
      onfocus: () => (this.input.select(), this.#search(true)),
      onblur: () => this.#leave(),
      onkeydown: (event) => this.#key(event),
    });
    this.element = h("div", { class: "combobox" }, this.input, this.list);
  }

  /** The classes that can be found, in the order in which they are listed: index, name, note. */
  offer(entries) {
    this.entries = entries.map((one) => ({ ...one, sought: `${one.index} ${one.name}`.toLowerCase() }));
  }

  /** Show a class as picked, without telling; null for none. */
  set(index) {
    this.picked = index;
    const entry = this.entries.find((one) => one.index === index);
    this.input.value = entry ? entry.name : "";
  }

  #search(all = false) {
    const words = all ? [] : this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (entry) => words.every((word) => entry.sought.includes(word));
    const typed = this.input.value.trim().toLowerCase();
    const rank = (entry) => (entry.name.toLowerCase() === typed || String(entry.index) === typed ? 0 : 1);
    this.found = this.entries
      .filter(fits)
      .sort((a, b) => rank(a) - rank(b))
      .slice(0, LISTED);
    this.#open(words.length ? 0 : -1);
    if (!all && !words.length) this.#pick(null);
    else if (!all && this.found.length && rank(this.found[0]) === 0) this.#choose(this.found[0], false);
  }

  #open(active) {
    this.active = active;
    const option = (entry, i) =>
      h(
        "li",
        {
          role: "option",
          id: `${this.list.id}-${i}`,
          "aria-selected": String(i === active),
          onpointerdown: (event) => (event.preventDefault(), this.#choose(entry, true)),
        },
        h("span", {}, entry.name),
        h("small", {}, entry.note),
      );
    this.list.replaceChildren(
      ...(this.found.length ? this.found.map(option) : [h("li", { class: "none" }, "no class is called so")]),
    );
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.#point();
  }

  #point() {
    [...this.list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === this.active)));
    if (this.active < 0) this.input.removeAttribute("aria-activedescendant");
    else this.input.setAttribute("aria-activedescendant", `${this.list.id}-${this.active}`);
    this.list.children[this.active]?.scrollIntoView({ block: "nearest" });
  }

  #close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  #choose(entry, done) {
    if (done) {
      this.input.value = entry.name;
      this.#close();
    }
    this.#pick(entry.index);
  }

  #pick(index) {
    this.picked = index;
    this.onpick(index);
  }

  /** What was typed but not picked is taken back. */
  #leave() {
    this.#close();
    this.set(this.picked);
  }

  #key(event) {
    const open = !this.list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!open) return this.#search(true);
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.active = (this.active + step + this.found.length) % Math.max(this.found.length, 1);
      this.#point();
    } else if (event.key === "Enter" && open && this.found[Math.max(this.active, 0)]) {
      this.#choose(this.found[Math.max(this.active, 0)], true);
    } else if (event.key === "Escape" && open) {
      this.#close();
    } else return;
    event.preventDefault();
  }
}
