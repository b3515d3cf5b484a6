"""The pages are read on a code host as well: what only the site needs is added as they are read."""

from __future__ import annotations

from sphinx.application import Sphinx

MOVED = {"../examples/imagenet.md": "imagenet.md", "../CHANGELOG.md": "changelog.md"}
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
    if docname in BELOW:
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n\n{BELOW[docname]}\n```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """For Sphinx."""
    app.connect("source-read", adapt)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
