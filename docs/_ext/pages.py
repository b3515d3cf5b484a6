"""The pages are read on a code host as well: what only the site needs is added as they are read."""

from __future__ import annotations

import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from vitscope.cli import app as command_line

MOVED = {
    "../examples/imagenet.md": "imagenet.md",
    "../examples/lung_nodules/README.md": "lung-nodules.md",
    "../CHANGELOG.md": "changelog.md",
    "../SECURITY.md": "security.md",
}
"""Links out of docs/ -> the site's page that includes what they lead to."""

BELOW = {
    "methods/README": "*",
    "performance": "performance-*",
}
"""Page -> the pages that stand below it in the site's tree."""


def adapt(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give a page its tree, and lead its links to where the site has their aims."""
    for link, page in MOVED.items():
        source[0] = source[0].replace(f"]({link})", f"]({page})")
    if docname == "reference/commands":
        source[0] = source[0].replace("<!-- commands -->", commands())
    if docname in BELOW:
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n\n{BELOW[docname]}\n```\n"


def commands() -> str:
    """Every command with its arguments and options, as its own help tells them."""
    command = typer.main.get_command(command_line)
    with command.make_context("vitscope", [], resilient_parsing=True) as context:
        text = get_docs_for_click(obj=command, ctx=context, name="vitscope")
    told = text[text.index("\n## ") :]
    return told.replace("* `--help`: Show this message and exit.\n", "").replace("```console\n$ ", "```sh\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """For Sphinx."""
    app.connect("source-read", adapt)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
