"""All methods side by side for one photograph, or for many: each panel named, with its own colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from vitscope.errors import ImageError
from vitscope.view import text
from vitscope.view.overlay import blend, fit, mismatch, picture_size
from vitscope.view.palette import colour
from vitscope.view.scale import limits, minmax, symmetric

TILE = 300
"""The longest side of a panel's picture, in pixels."""

COLUMNS = 6
"""At most so many pictures in a line, the photograph included."""

_GAP = 18
_BAR = 11  # height of a colour bar


@dataclass(frozen=True, eq=False)
class Panel:
    """One method's map of one photograph, or the reason why there is none.

    Attributes:
        title: the method's name.
        values: (H, W) raw values on the photograph's pixels, NaN outside; None where there is no map.
        signed: whether the map is signed.
        note: a line under the map, such as "signed · class-discriminative", or why the map is missing.
    """

    title: str
    values: Tensor | None
    signed: bool
    note: str = ""


def sheet(photo: Image.Image, panels: Sequence[Panel], heading: str, subheading: str = "") -> Image.Image:
    """Set the photograph and all its maps side by side, the photograph first.

    Args:
        photo: the original picture.
        panels: the maps; more than five go on several lines.
        heading: what is shown, such as the file's name.
        subheading: such as the prediction and its probability.

    Returns:
        An RGB picture.

    Raises:
        ImageError: a map is not of the photograph's size.
        FlatMapError: a map holds infinite values.
    """
    return _page(photo, panels, heading, subheading, TILE, 22)


def contact(rows: Sequence[tuple[Image.Image, Sequence[Panel], str]]) -> Image.Image:
    """Stack many photographs with their maps into one comparison.

    Args:
        rows: for each photograph: the picture, its panels, and a heading.

    Returns:
        An RGB picture, as wide as the widest row.

    Raises:
        ImageError: there are no rows, or a map is not of its photograph's size.
        FlatMapError: a map holds infinite values.
    """
    if not rows:
        raise ImageError("there is nothing to compare; pass at least one photograph with its panels")
    pages = [_page(photo, panels, heading, "", 220, 16) for photo, panels, heading in rows]
    width = max(page.width for page in pages)
    canvas = Image.new("RGB", (width, sum(page.height for page in pages)), text.PAPER)
    draw = ImageDraw.Draw(canvas)
    top = 0
    for page in pages:
        canvas.paste(page, (0, top))
        if top:
            draw.line([(_GAP, top), (width - _GAP, top)], fill=text.EDGE)
        top += page.height
    return canvas


def colour_bar(size: tuple[int, int], signed: bool, palette: str | None = None) -> Image.Image:
    """Draw a palette from its lowest to its highest value, left to right, as a picture of `size` (w, h)."""
    shares = np.linspace(-1.0 if signed else 0.0, 1.0, size[0], dtype=np.float32)
    return Image.fromarray(colour(np.broadcast_to(shares, (size[1], size[0])).copy(), signed, palette))


@dataclass(frozen=True)
class _Cell:
    """One column's width of a page: title, picture, colour bar where there is one, note."""

    title: str
    parts: tuple[Image.Image, ...]
    note: str


def _page(
    photo: Image.Image, panels: Sequence[Panel], heading: str, subheading: str, tile: int, size: int
) -> Image.Image:
    """Heading, then the pictures in as few lines as `COLUMNS` allows, evenly filled."""
    cells = [_photo_cell(photo, tile), *(_panel_cell(photo, panel, tile) for panel in panels)]
    lines = -(-len(cells) // COLUMNS)
    columns = -(-len(cells) // lines)
    room = max(columns, 2) * (tile + _GAP) - _GAP  # two tiles at least, for the heading's sake
    bold, plain = text.font(size, bold=True), text.font(max(12, round(size * 0.74)))
    title, below = text.wrap(heading, bold, room, 4), text.wrap(subheading, plain, room, 4)
    head = len(title) * text.pitch(bold) + len(below) * text.pitch(plain) + (10 if title or below else 0)
    strips = [_strip(cells[start : start + columns], tile) for start in range(0, len(cells), columns)]
    height = _GAP + head + sum(strip.height + _GAP for strip in strips)
    canvas = Image.new("RGB", (room + 2 * _GAP, height), text.PAPER)
    draw = ImageDraw.Draw(canvas)
    text.write(draw, (_GAP, _GAP), title, bold, text.INK)
    text.write(draw, (_GAP, _GAP + len(title) * text.pitch(bold) + 2), below, plain, text.FAINT)
    top = _GAP + head
    for strip in strips:
        canvas.paste(strip, (_GAP, top))
        top += strip.height + _GAP
    return canvas


def _strip(cells: Sequence[_Cell], tile: int) -> Image.Image:
    """One line of cells, their pictures at one height whatever the titles' lengths."""
    bold, plain = text.font(15, bold=True), text.font(12)
    titles = [text.wrap(cell.title, bold, tile, 3) for cell in cells]
    notes = [text.wrap(cell.note, plain, tile, 4) for cell in cells]
    head = 6 + text.pitch(bold) * max(len(title) for title in titles)
    heights = [
        sum(part.height + 6 for part in cell.parts) + len(note) * text.pitch(plain)
        for cell, note in zip(cells, notes, strict=True)
    ]
    strip = Image.new("RGB", (len(cells) * (tile + _GAP) - _GAP, head + max(heights) + 2), text.PAPER)
    draw = ImageDraw.Draw(strip)
    for column, (cell, title, note) in enumerate(zip(cells, titles, notes, strict=True)):
        left, top = column * (tile + _GAP), head
        text.write(draw, (left, head - 6 - len(title) * text.pitch(bold)), title, bold, text.INK)
        for part in cell.parts:
            strip.paste(part, (left + (tile - part.width) // 2, top))
            top += part.height + 6
        text.write(draw, (left, top - 2), note, plain, text.FAINT)
    return strip


def _photo_cell(photo: Image.Image, tile: int) -> _Cell:
    picture = photo.convert("RGB").resize(picture_size(photo, tile), Image.Resampling.LANCZOS)
    return _Cell("photograph", (picture,), f"{photo.width} × {photo.height} px")


def _panel_cell(photo: Image.Image, panel: Panel, tile: int) -> _Cell:
    size = picture_size(photo, tile)
    if panel.values is None:
        return _Cell(panel.title, (_reason(panel.note or "no map", size, tile),), "")
    if tuple(panel.values.shape) != (photo.height, photo.width):
        raise ImageError(f"{panel.title}: {mismatch(panel.values, photo)}")
    values = panel.values.detach().float().cpu()
    shares = symmetric(values) if panel.signed else minmax(values)
    small = photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    picture = blend(small, fit(shares, (size[1], size[0])), panel.signed)
    return _Cell(panel.title, (picture, _scale_bar(values, panel.signed, tile)), panel.note)


def _scale_bar(values: Tensor, signed: bool, tile: int) -> Image.Image:
    """The colour bar with the raw values at its ends; a flat map says so instead of showing colours."""
    face = text.font(12)
    bar = Image.new("RGB", (tile, _BAR + 4 + text.pitch(face)), text.PAPER)
    draw = ImageDraw.Draw(bar)
    low, high = limits(values)
    peak = max(abs(low), abs(high))
    if (peak == 0) if signed else (low == high):
        empty = bool(values.isnan().all())
        draw.rectangle([0, 0, tile - 1, _BAR - 1], fill=text.BLANK, outline=text.EDGE)
        words = "nothing inside the crop" if empty else f"flat: {text.number(low)} everywhere"
        draw.text((0, _BAR + 2), words, font=face, fill=text.INK)
        return bar
    bar.paste(colour_bar((tile, _BAR), signed), (0, 0))
    draw.rectangle([0, 0, tile - 1, _BAR - 1], outline=text.EDGE)
    ends = (-peak, peak) if signed else (low, high)
    draw.text((0, _BAR + 2), text.number(ends[0]), font=face, fill=text.INK)
    draw.text((tile, _BAR + 2), text.number(ends[1]), font=face, fill=text.INK, anchor="ra")
    if signed:
        draw.text((tile // 2, _BAR + 2), "0", font=face, fill=text.INK, anchor="ma")
    return bar


def _reason(note: str, size: tuple[int, int], tile: int) -> Image.Image:
    """A blank picture with the reason why there is no map, high enough to hold it."""
    face = text.font(13)
    lines = text.wrap(note, face, tile - 24, 12)
    blank = Image.new("RGB", (tile, max(size[1], len(lines) * text.pitch(face) + 24)), text.BLANK)
    draw = ImageDraw.Draw(blank)
    draw.rectangle([0, 0, blank.width - 1, blank.height - 1], outline=text.EDGE)
    text.write(draw, (12, (blank.height - len(lines) * text.pitch(face)) // 2), lines, face, text.INK)
    return blank
