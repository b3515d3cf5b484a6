"""A page in one file: pictures, films, tables and charts, with nothing to fetch."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vitscope.view.charts import Charts, stroke
from vitscope.view.tiles import colour_bar


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture with its name above and a line below; `outline` is laid over it while the truth is shown."""

    title: str
    picture: Image.Image
    note: str = ""
    outline: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """Pictures side by side, under a line of their own."""

    heading: str
    tiles: Sequence[Tile]


@dataclass(frozen=True, eq=False)
class Film:
    """Frames of one thing in time: a large one with a slider, and all of them small beneath."""

    heading: str
    frames: Sequence[Image.Image]
    labels: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """One entry of a table; `share` in [0, 1] draws a bar behind it.

    `kinds` are words for its look, "best" and "near"; `order` is what it is sorted by, in place of its text.
    """

    text: str
    note: str = ""
    share: float | None = None
    kinds: Sequence[str] = ()
    order: float | None = None


@dataclass(frozen=True)
class Table:
    """Lines of cells under headings; the lines named in `set_apart` (by their first cell) are set in grey.

    A `sortable` one is sorted by a click on a heading.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    note: str = ""
    set_apart: Sequence[str] = ()
    sortable: bool = False


@dataclass(frozen=True)
class Thumb:
    """A small picture with its name and a line; `picture` is its place among the page's shared pictures, or None."""

    name: str
    note: str
    picture: int | None = None


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side, under a line of their own."""

    heading: str
    thumbs: Sequence[Thumb]


@dataclass(frozen=True, eq=False)
class Fold:
    """Parts that are shown when their title is opened."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True, eq=False)
class Section:
    """A heading, paragraphs, and what they speak of."""

    title: str
    paragraphs: Sequence[str]
    parts: Sequence[Part] = ()


Part: TypeAlias = "Row | Film | Table | Gallery | Charts | Fold"

_KINDS = {"row": Row, "film": Film, "gallery": Gallery, "charts": Charts, "fold": Fold}


def page(
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    foot: str = "",
    shared: Sequence[Image.Image] = (),
) -> str:
    """Set a page: HTML in one string, every picture inside it, no address outside asked for anything.

    Args:
        title: of the page.
        lead: paragraphs under the title.
        sections: what follows.
        foot: a line at the end, such as versions and date.
        shared: pictures that thumbs show, each kept once however often it is shown.
    """
    environment = Environment(
        loader=PackageLoader("vitscope.view", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["uri"] = data_uri
    environment.filters["stroke"] = stroke
    environment.filters["breaks"] = _breaks
    for name, kind in _KINDS.items():
        environment.tests[name] = _is(kind)
    bars = {signed: colour_bar((160, 10), signed) for signed in (False, True)}
    maps = any(isinstance(part, (Row, Film)) for section in sections for part in section.parts)
    return environment.get_template("page.html.j2").render(
        title=title, lead=lead, sections=sections, foot=foot, bars=bars, shared=shared, maps=maps
    )


def outline(mask: NDArray[np.bool_], size: tuple[int, int], width: int = 3) -> Image.Image:
    """The border of a mask (H, W) as a transparent picture of `size` (w, h): a white line with dark edges."""
    smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
    inside = smooth.point(lambda value: 255 if value >= 128 else 0)
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    for colour, reach in (((0, 0, 0, 150), width + 2), ((255, 255, 255, 255), width)):
        grown = inside.filter(ImageFilter.MaxFilter(2 * (reach // 2) + 1))
        shrunk = inside.filter(ImageFilter.MinFilter(2 * (reach // 2) + 1))
        line = np.asarray(grown).astype(np.int16) - np.asarray(shrunk) > 0
        picture.paste(colour, mask=Image.fromarray(line.astype(np.uint8) * 255))
    return picture


def _breaks(text: str) -> Markup:
    """Where a long name may be broken: after a stroke, an underscore, before a sign."""
    escaped = str(escape(text))
    return Markup(re.sub(r"([/_:])|(?=@)", r"\1<wbr>", escaped))  # nosec B704  # escaped above


def _is(kind: type[Any]) -> Callable[[Any], bool]:
    return lambda part: isinstance(part, kind)


def data_uri(picture: Image.Image) -> str:
    """A picture as the address of itself: WebP, lossless where it has transparency."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80, lossless=picture.mode == "RGBA", method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
