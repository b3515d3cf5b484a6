"""What was found where in a model, and which methods apply: `vitscope.describe(model)`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import nn

from vitscope.errors import ModelError
from vitscope.explainer import Explainer
from vitscope.methods import as_method, list_methods, what_is_read, why_undefined
from vitscope.models import Anatomy


@dataclass(frozen=True)
class Description:
    """A model's parts as vitscope sees them; its text is what `repr` and `print` show.

    Attributes:
        facts: name, family, tokens, grid, blocks, head, preprocessing, ready for JSON.
        methods: method -> "" where it applies, else why it does not.
    """

    facts: dict[str, Any]
    methods: dict[str, str]

    def __str__(self) -> str:
        width = max(map(len, (*self.facts, "methods")))
        lines = [f"{key.replace('_', ' '):<{width}}  {_text(value)}" for key, value in self.facts.items()]
        names = max(map(len, self.methods), default=0)
        for index, (name, reason) in enumerate(self.methods.items()):
            head = "methods" if index == 0 else ""
            lines.append(f"{head:<{width}}  {name:<{names}}  {'no: ' + reason if reason else 'yes'}")
        return "\n".join(lines)

    __repr__ = __str__


def describe(
    model: nn.Module | str | Explainer,
    weights: str | os.PathLike[str] | None = None,
    weights_key: str | None = None,
) -> Description:
    """Describe a model: tokens, grid, blocks, head, preprocessing, and which methods apply or why not.

    A model given by name without weights is built with random ones; no weights are downloaded (of "hf/OWNER/NAME" the
    config files are, and "hub/..." fetches its code). The description is held against one pass over a random picture;
    `self_check` is the largest relative error found.

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
    facts = {
        "model": anatomy.name,
        "family": anatomy.family,
        "input": f"{anatomy.input_size[0]} x {anatomy.input_size[1]} pixels"
        + (", other sizes too" if anatomy.flexible_size else ""),
        **_of_placement(anatomy, explainer.preprocessing.size),
        **(_of_blocks(anatomy) if anatomy.blocks else {}),
        "methods_read": what_is_read(anatomy),
        "outputs": anatomy.outputs,
        "activation": explainer.activation,
        "preprocessing": explainer.preprocessing.describe(),
        "self_check": "what is put back into the picture is what keys receive"
        if anatomy.windows
        else f"{explainer.description_error:.1e} relative error against the model's own numbers",
    }
    reasons = {facts.name: why_undefined(anatomy, as_method(facts.name)) for facts in list_methods()}
    return Description(facts, reasons)


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


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return str(value)
