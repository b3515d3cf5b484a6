"""`vitscope models`: names that --model takes."""

from __future__ import annotations

from typing import Annotated

import typer

from vitscope.cli import common
from vitscope.errors import VitscopeError


def models(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
    json: common.Json = False,
) -> None:
    """List the models that can be loaded by name; `vitscope describe` tells whether one is understood, and how.

    Also loaded: any hf/OWNER/NAME, and directories that save_pretrained or timm's save_for_hf wrote.
    """
    from vitscope.models import list_models

    names = list_models(pattern)
    if not names:
        raise VitscopeError(f"no model's name contains '{pattern}'; vitscope models lists all")
    if json:
        common.tell_json(names)
    else:
        common.tell("\n".join(names))
