"""The report as HTML: one file, with nothing to fetch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitscope.report.front_end import script, style
from vitscope.report.record import palettes


def report_page(
    pictures: Sequence[Mapping[str, Any]],
    shared: Mapping[str, Mapping[str, Any]],
    links: Sequence[tuple[str, str]] = (),
    here: int = 0,
) -> str:
    """Set a report.

    Args:
        pictures: records of `content_of`, at least one.
        shared: what they have in common, by key.
        links: other pages of the same run, and this one: name and address.
        here: which of them this is.
    """
    names = [str(record["name"]) for record in pictures]
    title = names[0] if len(names) == 1 else f"{len(names)} pictures"
    content = {"pictures": list(pictures), "shared": dict(shared), "palettes": palettes()}
    html: str = template("report.html.j2").render(
        title=f"{title} · vitscope",
        style=Markup(style()),  # nosec B704  # our own file
        script=Markup(script("report")),  # nosec B704  # our own file
        content=as_script(content),
        links=list(links),
        here=here,
        foot=f"Made with vitscope {version('vitscope')}. Everything that this page shows is in the page itself.",
    )
    return html


def template(name: str, package: str = "vitscope.report") -> Any:
    """A template of a package's `front/`."""
    environment = Environment(
        loader=PackageLoader(package, "front"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def as_script(content: Any) -> Markup:
    """JSON that can stand in a script element: nothing in it, such as a file's name, can end that or open a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # nosec B704  # escaped above
