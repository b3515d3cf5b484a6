"""`vitscope demo`: the bundled scenes and models explained, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitscope.cli import common


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")] = Path("vitscope-demo"),
    scenes: Annotated[
        int, typer.Option("--scenes", min=10, max=1000, help="How many scenes the tables rest on.")
    ] = 200,
    device: common.Device = "cpu",
) -> None:
    """Explain the bundled scenes by chosen methods, hold the maps against the truth, and write one page."""
    from vitscope.demo import Size, demo_page
    from vitscope.save import prepare_folder, save_text

    prepare_folder(out)
    size = Size(measured=scenes, tuned=scenes // 2, asked=scenes // 2)
    with common.progress_bar() as progress:
        task = progress.add_task("explaining scenes", total=size.steps)
        text = demo_page(size, device, lambda done: progress.advance(task, done))
    file = out / "index.html"
    save_text(text, file)
    common.tell(str(file.resolve()))
