"""`vitscope describe`: what was found where in a model, and which methods apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitscope.cli import common
from vitscope.errors import VitscopeError


def describe(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="The model's name.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The same, as for other commands.")] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help=f"{common.WEIGHTS_FILE}; otherwise random ones.")
    ] = None,
    weights_key: common.WeightsKey = None,
    json: common.Json = False,
) -> None:
    """Describe a model: tokens, grid, blocks, head, preprocessing, and which methods apply or why not.

    Without --weights the model is built with random ones; no weights are downloaded.
    """
    if name is not None and model not in (None, name):
        raise VitscopeError(f"two models are named, {name} and {model}; describe one after the other")
    chosen = model or name
    if chosen is None:
        raise VitscopeError("no model is named; say vitscope describe timm/vit_tiny_patch16_224")
    from vitscope.description import describe as describe_model

    description = describe_model(chosen, weights, weights_key)
    if json:
        common.tell_json({**description.facts, "methods": description.methods, "paths": description.paths})
    else:
        common.tell(str(description))
