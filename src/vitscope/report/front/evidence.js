/** The evidence of every class, or of some: maps of classes, and what a patch or a region says of each. */

import { extremes, Packed } from "./numbers.js";

/** From a record's `lens` and the page's shared `weight` and `classes`. */
export class Evidence {
  constructor(lens, shared) {
    [this.rows, this.cols] = lens.grid;
    this.form = lens.form;
    this.names = shared.classes;
    if (lens.form === "factors") {
      this.effects = new Packed(lens.effects);
      this.weight = shared.weight.unpacked ??= new Packed(shared.weight);
      this.classes = [...shared.classes.keys()];
    } else {
      this.maps = new Packed(lens.maps);
      this.classes = lens.classes || [...shared.classes.keys()];
    }
    this.place = new Map(this.classes.map((index, place) => [index, place]));
  }

  /** In words. */
  describe() {
    const count = this.classes.length;
    const what = this.form === "factors" ? "the patches' effects and the classifier" : "maps";
    const which = count === this.names.length ? `all ${count} classes` : `the ${count} classes with the highest logits`;
    return `CDAM of ${which}, from ${what} in 16 bits.`;
  }

  /** Whether a class's map is known. */
  has(index) {
    return this.place.has(index);
  }

  /** The signed map of a class. */
  map(index) {
    const values =
      this.form === "factors" ? this.#product(this.weight.row(index)) : this.maps.row(this.place.get(index));
    return { rows: this.rows, cols: this.cols, values: Float32Array.from(values) };
  }

  /** What speaks for one class rather than another. */
  contrast(first, second) {
    const found = this.map(first);
    const other = this.map(second).values;
    found.values.forEach((value, i) => (found.values[i] = value - other[i]));
    return found;
  }

  /** The evidence that patches (places on the grid) together give each known class. */
  sum(patches) {
    if (this.form === "factors") {
      const effect = new Float32Array(this.effects.width);
      for (const patch of patches) this.effects.row(patch).forEach((value, i) => (effect[i] += value));
      return Float32Array.from(this.classes, (index) => dot(this.weight, index, effect));
    }
    const { levels, width } = this.maps;
    return Float32Array.from(this.classes, (_, place) => {
      let total = 0;
      for (const patch of patches) total += levels[place * width + patch];
      return total * this.maps.unit(place);
    });
  }

  /** The k classes that patches speak for most (sign 1) or against most (-1): index, name and value. */
  opinions(patches, k, sign = 1) {
    const sums = this.sum(patches);
    return extremes(sums, k, sign)
      .filter((place) => sign * sums[place] > 0)
      .map((place) => ({ index: this.classes[place], name: this.names[this.classes[place]], value: sums[place] }));
  }

  #product(direction) {
    const values = new Float32Array(this.rows * this.cols);
    for (let patch = 0; patch < values.length; patch++) values[patch] = dot(this.effects, patch, direction);
    return values;
  }
}

function dot(packed, i, vector) {
  const { levels, width } = packed;
  let total = 0;
  for (let f = 0, at = i * width; f < width; f++, at++) total += levels[at] * vector[f];
  return total * packed.unit(i);
}
