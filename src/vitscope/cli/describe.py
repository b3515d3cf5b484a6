"""`vitscope describe`: what was found where in a model, and which methods apply."""

from __future__ import annotations

from typing import Annotated

import typer

import vitscope.description
from vitscope.cli import common
from vitscope.errors import VitscopeError


def describe(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="The model's name.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The same, as for other commands.")] = None,
    weights: common.Weights = None,
    json: common.Json = False,
) -> None:
    """Describe a model: tokens, grid, blocks, head, preprocessing, and which methods apply or why not.

    Without --weights the model is built with random ones; no weights are downloaded.
    """
    chosen = model or name
    if chosen is None:
        raise VitscopeError("no model is named; say vitscope describe timm/vit_tiny_patch16_224")
    description = vitscope.description.describe(chosen, weights)
    if json:
        common.tell_json({**description.facts, "methods": description.methods})
    else:
        common.tell(str(description))
