"""What was found where in a model, and which methods apply: `vitscope.describe(model)`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from vitscope.any_network import Inputs
from vitscope.errors import ModelError
from vitscope.explainer import Explainer
from vitscope.methods import as_method, list_methods, what_is_read, why_undefined
from vitscope.models import Anatomy
from vitscope.network.spec import Site
from vitscope.recording import described


@dataclass(frozen=True)
class Description:
    """A model's parts as vitscope sees them; its text is what `repr` and `print` show.

    Attributes:
        facts: name, family, tokens, grid, blocks, head, preprocessing, ready for JSON.
        methods: method -> "" where it applies, else why it does not.
        paths: method that applies -> "fast", by closed forms, or "general", by attention calls and located tokens.
    """

    facts: dict[str, Any]
    methods: dict[str, str]
    paths: dict[str, str]

    def __str__(self) -> str:
        width = max(map(len, (*self.facts, "methods")))
        lines = [
            f"{key.replace('_', ' ') if index == 0 else '':<{width}}  {_text(line)}"
            for key, value in self.facts.items()
            for index, line in enumerate(value if isinstance(value, tuple) else [value])
        ]
        names = max(map(len, self.methods), default=0)
        for index, (name, reason) in enumerate(self.methods.items()):
            head = "methods" if index == 0 else ""
            lines.append(
                f"{head:<{width}}  {name:<{names}}  {'no: ' + reason if reason else 'yes, ' + self.paths[name]}"
            )
        return "\n".join(lines)

    __repr__ = __str__


def describe(
    model: nn.Module | str | Explainer,
    weights: str | os.PathLike[str] | None = None,
    weights_key: str | None = None,
    *,
    images: Tensor | None = None,
    inputs: Inputs | None = None,
) -> Description:
    """Describe a model: input, output, attention sites or blocks, preprocessing, and which methods apply or why not.

    A model given by name without weights is built with random ones; no weights are downloaded (of "hf/OWNER/NAME" the
    config files are, and "hub/..." fetches its code). The description is held against one pass over a random picture;
    `self_check` is the largest relative error found.

    Args:
        model: as for an Explainer, or an Explainer.
        weights, weights_key: as for an Explainer, for a name.
        images: a float tensor (b ...) on which the attention sites are found; a random one of the size of the
            preprocessing otherwise.
        inputs: further arguments of the model's forward, by name.

    Raises:
        ModelError: no adapter knows the model, its description does not fit it, or weights are given for no name.
    """
    if isinstance(model, Explainer) and not (weights is None and weights_key is None):
        given = f"weights_key={weights_key} is" if weights is None else f"weights={weights} are"
        raise ModelError(f"{given} for a model given by name, and an Explainer has its own weights; leave this out")
    explainer = (
        model if isinstance(model, Explainer) else Explainer(model, weights, pretrained=False, weights_key=weights_key)
    )
    anatomy = explainer.anatomy
    facts: dict[str, Any] = {"model": anatomy.name, "family": anatomy.family}
    if anatomy.described:
        facts["input"] = f"{anatomy.input_size[0]} x {anatomy.input_size[1]} pixels" + (
            ", other sizes too" if anatomy.flexible_size else ""
        )
        facts |= _of_placement(anatomy, explainer.preprocessing.size)
    facts |= _of_blocks(anatomy) if anatomy.blocks else _of_network(explainer, images, inputs)
    facts["methods_read"] = what_is_read(anatomy)
    if anatomy.described:
        facts |= {"outputs": anatomy.outputs, "activation": explainer.activation}
    facts["preprocessing"] = explainer.preprocessing.describe()
    if anatomy.blocks:
        facts["self_check"] = f"{explainer.description_error:.1e} relative error against the model's own numbers"
    elif anatomy.windows:
        facts["self_check"] = "what is put back into the image is what keys receive"
    methods = {facts.name: as_method(facts.name) for facts in list_methods()}
    reasons = {name: why_undefined(anatomy, method) for name, method in methods.items()}
    paths = {name: explainer.path(method) for name, method in methods.items() if not reasons[name]}
    return Description(facts, reasons, paths)


def _of_placement(anatomy: Anatomy, size: tuple[int, int]) -> dict[str, str]:
    changed = anatomy.placement(size).describe()
    return {"image": f"within the model {changed}; maps are placed on what the model is given"} if changed else {}


def _of_blocks(anatomy: Anatomy) -> dict[str, Any]:
    rows, cols = anatomy.grid(anatomy.input_size)
    block = anatomy.blocks[0]
    return {
        "patches": f"{rows} x {cols} of {anatomy.patch[0]} x {anatomy.patch[1]} pixels",
        "prefix_tokens": list(anatomy.prefix),
        "blocks": f"{len(anatomy.blocks)} of {block.heads} heads ({block.name} to {anatomy.blocks[-1].name})"
        + (f"; {anatomy.note}" if anatomy.note else ""),
    }


def _of_network(explainer: Explainer, images: Tensor | None, inputs: Inputs | None) -> dict[str, Any]:
    """Input, output and attention sites of a network, as the probe finds them."""
    try:
        spec, output = explainer.network(images, inputs)
    except ModelError as error:
        return {"sites": f"not known: {error}, or describe(..., images=, inputs=)"}
    axes = " x ".join(map(str, spec.input.shape))
    facts: dict[str, Any] = {
        "sites_of": f"an input of {axes}, with places along {len(spec.input.spatial)} axes",
        "output": described(output),
        "sites": tuple(_of_sites(list(sites)) for _, sites in groupby(spec.sites, _sort_of)) or "no attention call",
    }
    if spec.tokens:
        last = spec.tokens[-1]
        facts["cam_layer"] = f"{last.name}, grid {_grid(last.layout.grid)}"
    return facts


def _sort_of(site: Site) -> tuple[Any, ...]:
    """What sites that are described together have in common."""
    return site.kind, site.keys, site.reason, site.layout and (site.layout.grid, site.layout.located)


def _of_sites(sites: list[Site]) -> str:
    """Attention calls in a row that have the same keys, in words."""
    first, last = sites[0], sites[-1]
    names = first.name if len(sites) == 1 else f"{first.name} to {last.name}"
    count = f"{len(sites)} call{'' if len(sites) == 1 else 's'}"
    if first.layout is None:
        return f"{names}: {count}, {first.kind}, not read: {first.reason}"
    windows = (
        first.layout.cells.flatten(0, -2).unique(dim=0) if first.layout.cells.ndim > 1 else first.layout.cells[None]
    )
    without = int((windows < 0).sum())
    parts = [f"{count}, {first.kind}", f"grid {_grid(first.layout.grid)}"]
    parts += [f"{len(windows)} windows of {windows.shape[1]} keys"] if len(windows) > 1 else []
    parts += [f"{without} prefix token{'' if without == 1 else 's'}"] if without else []
    fit = min(site.layout.quality for site in sites if site.layout is not None)
    return f"{names}: {', '.join(parts)}, fit {fit:.0f}"


def _grid(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return str(value)
