/** Methods by family, in words. */

const FAMILIES = {
  papers: "papers of vitscope",
  attention: "attention",
  "attention-gradient": "attention × gradient",
  cam: "class activation maps",
  relevance: "relevance",
  "input-gradient": "gradients at the pixels",
  perturbation: "altered pictures",
  trivial: "baselines",
};

/** [words, methods] of each family that is there, in the order of the methods. */
export function byFamily(methods) {
  const found = new Map();
  for (const method of methods) {
    const words = FAMILIES[method.family] || method.family;
    found.set(words, [...(found.get(words) || []), method]);
  }
  return [...found];
}
