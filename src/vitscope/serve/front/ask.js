/** What is asked: pictures, model, methods, and of what; as the form that the API takes. */

import { h, labelled, select } from "./dom.js";
import { Drop } from "./drop.js";
import { byFamily } from "./families.js";

export class Ask {
  /**
   * @param {{models: object[], limits: object, onask: function(FormData)}} about
   */
  constructor({ models, limits, onask }) {
    this.models = new Map(models.map((model) => [model.name, model]));
    this.limits = limits;
    this.onask = onask;
    const onchange = () => this.#ready();
    this.images = new Drop({
      label: "pictures to explain",
      words: "Drop pictures here, paste one, or click to choose.",
      most: limits.pictures,
      onchange,
    });
    this.concept = new Drop({
      label: "pictures of a concept",
      words: "Pictures that show what is to be looked for.",
      most: limits.concept_pictures,
      onchange,
    });
    this.model = select(
      { onchange: () => this.#offer() },
      [...this.models.keys()].map((name) => [name, name]),
    );
    this.classes = h("datalist", { id: "class-names" });
    this.target = h("input", { type: "text", list: "class-names", maxlength: 500, autocomplete: "off" });
    this.methods = h("div", { class: "methods" });
    this.count = h("span", { class: "faint" });
    this.button = h("button", { type: "submit", class: "primary" }, "Explain");
    this.element = h(
      "form",
      { class: "card ask", onsubmit: (event) => (event.preventDefault(), this.send()) },
      this.images.element,
      h(
        "div",
        { class: "fields" },
        this.models.size > 1 ? labelled("model", this.model) : null,
        labelled("target", this.target),
        this.button,
      ),
      this.classes,
      h("details", {}, h("summary", {}, "Methods ", this.count), this.methods),
      h("details", {}, h("summary", {}, "A concept instead of a class"), this.concept.element),
    );
    document.addEventListener("paste", (event) => this.#paste(event));
    this.#offer();
  }

  /** Why nothing can be sent, or "". */
  why() {
    if (!this.images.files.length) return "choose a picture first";
    if (!this.#chosen().length) return "choose at least one method";
    const bytes = [...this.images.files, ...this.concept.files].reduce((sum, file) => sum + file.size, 0);
    const most = this.limits.body_bytes;
    if (bytes > most - 2 ** 14)
      return `${megabytes(bytes)} of pictures are too much, at most ${megabytes(most)} are taken; choose fewer or smaller ones`;
    return "";
  }

  /** Send the form, to `onask`. */
  send() {
    const form = new FormData();
    for (const file of this.images.files) form.append("images", file, file.name);
    for (const file of this.concept.files) form.append("concept", file, file.name);
    form.append("model", this.model.value);
    form.append("methods", this.#chosen().join(","));
    form.append("target", this.concept.files.length ? "" : this.target.value.trim());
    this.onask(form);
  }

  #chosen() {
    return [...this.methods.querySelectorAll("input:checked")].map((box) => box.value);
  }

  #ready() {
    const concept = this.concept.files.length > 0;
    this.target.disabled = concept;
    this.target.placeholder = concept ? "the concept's pictures" : this.placeholder;
    const count = this.#chosen().length;
    this.count.textContent = `(${count} chosen)`;
  }

  /** What the model knows: its classes, and the methods that are defined for it. */
  #offer() {
    const model = this.models.get(this.model.value);
    const asked = new Set(model.default_methods.split(","));
    this.placeholder = model.classes.length
      ? "the predicted class; or a class, or “A rather than B”"
      : model.texts
        ? "any words"
        : "none: the model has no classes";
    this.classes.replaceChildren(...model.classes.map((name) => h("option", { value: name })));
    this.methods.replaceChildren(
      ...byFamily(model.methods).map(([family, methods]) =>
        h(
          "fieldset",
          {},
          h("legend", {}, family),
          methods.map((method) => this.#box(method, asked.has(method.name))),
        ),
      ),
    );
    this.#ready();
  }

  #box(method, checked) {
    const title = `${method.title}. ${method.caution} Costs in forwards: ${method.cost}`;
    return h(
      "label",
      { title },
      h("input", { type: "checkbox", value: method.name, checked, onchange: () => this.#ready() }),
      method.name,
    );
  }

  #paste(event) {
    const files = [...(event.clipboardData?.files || [])].filter((file) => file.type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    this.images.add(files);
  }
}

function megabytes(bytes) {
  return `${(bytes / 2 ** 20).toFixed(1)} MB`;
}
