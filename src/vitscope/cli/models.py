"""`vitscope models`: names that --model takes."""

from __future__ import annotations

from typing import Annotated

import typer

from vitscope.cli import common
from vitscope.errors import VitscopeError
from vitscope.models import list_models


def models(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
    json: common.Json = False,
) -> None:
    """List the models whose family has an adapter; `vitscope describe` tells which methods apply to one."""
    names = list_models(pattern)
    if not names:
        raise VitscopeError(f"no model's name contains '{pattern}'; vitscope models lists all")
    if json:
        common.tell_json(names)
    else:
        common.tell("\n".join(names))
