"""`vitscope report`: one page of what `vitscope explain` has written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitscope.cli import common


def report(
    folder: Annotated[Path, typer.Argument(help="What vitscope explain has written.", show_default=False)],
) -> None:
    """Set the page of a folder of explanations: self-contained, to be opened anywhere; nothing is computed again."""
    from vitscope.report.folder import write_report

    left_out: list[str] = []
    for page in write_report(folder, left_out.append):
        common.tell(str(page))
    for line in left_out:
        common.say(line)
    raise typer.Exit(1 if left_out else 0)
