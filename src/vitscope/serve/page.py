"""The page of the server: the report's viewer, with a form before it."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files

from markupsafe import Markup

from vitscope.report.front_end import script, style
from vitscope.report.page import as_script, template
from vitscope.report.record import palettes

FRONT = files("vitscope.serve") / "front"


def server_page() -> str:
    """HTML in one string; it asks this server for everything else."""
    html: str = template("server.html.j2", "vitscope.serve").render(
        style=Markup(style(FRONT / "server.css")),  # nosec B704  # our own file
        script=Markup(script("server", FRONT)),  # nosec B704  # our own file
        content=as_script({"palettes": palettes()}),
        foot=f"vitscope {version('vitscope')}. Pictures stay on the machine that serves this page.",
    )
    return html
