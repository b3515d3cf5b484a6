"""The parts of a sheet: a method's map as a panel, and the panel as a picture with its name and colour bar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vitscope.arrays import as_array
from vitscope.errors import ImageError
from vitscope.view import text
from vitscope.view.overlay import Ground, fit, mismatch, resized
from vitscope.view.palette import colour
from vitscope.view.scale import Values, limits, scaled

_BAR = 11  # height of a colour bar


@dataclass(frozen=True, eq=False)
class Panel:
    """One method's map of one photograph, or the reason why there is none.

    Attributes:
        title: the method's name.
        values: (H, W) raw values on the photograph's pixels, NaN outside; None where there is no map.
        signed: whether the map is signed.
        note: a line under the map, such as "signed · for this class", or why the map is missing.
        family: the heading under which it is set where the panels fill more than a line, or "".
    """

    title: str
    values: Values | None
    signed: bool
    note: str = ""
    family: str = ""


@dataclass(frozen=True)
class Cell:
    """One column's width of a page: title, picture, colour bar where there is one, note.

    `family` is the heading under which it is set, or "".
    """

    title: str
    parts: tuple[Image.Image, ...]
    note: str
    family: str = ""


def colour_bar(size: tuple[int, int], signed: bool, palette: str | None = None) -> Image.Image:
    """Draw a palette from its lowest to its highest value, left to right, as a picture of `size` (w, h)."""
    shares = np.linspace(-1.0 if signed else 0.0, 1.0, size[0], dtype=np.float32)
    return Image.fromarray(colour(np.broadcast_to(shares, (size[1], size[0])).copy(), signed, palette))


def photo_cell(photo: Image.Image, small: Ground) -> Cell:
    """The photograph itself, with its size."""
    return Cell("photograph", (small.photo,), f"{photo.width} × {photo.height} px")


def small_ground(photo: Image.Image, tile: int) -> Ground:
    """The photograph at the size of a panel's picture, once for all panels."""
    return Ground(resized(photo.convert("RGB"), tile))


def panel_cell(photo: Image.Image, small: Ground, panel: Panel, tile: int) -> Cell:
    """A map over the photograph with its colour bar, or the reason why there is none.

    Args:
        photo: at its own size, which is the map's.
        small: `small_ground` of it.
        panel: the map.
        tile: the width of the cell.

    Raises:
        ImageError: the map is not of the photograph's size.
        FlatMapError: the map holds infinite values.
    """
    size = small.photo.size
    if panel.values is None:
        return Cell(panel.title, (_reason(panel.note or "no map", size, tile),), "", panel.family)
    if tuple(panel.values.shape) != (photo.height, photo.width):
        raise ImageError(f"{panel.title}: {mismatch(panel.values, photo)}")
    ends, values = limits(panel.values), fit(panel.values, (size[1], size[0]))
    picture = small.under(scaled(values, ends, panel.signed), panel.signed)
    return Cell(panel.title, (picture, _scale_bar(ends, panel, tile)), panel.note, panel.family)


def _scale_bar(ends: tuple[float, float], panel: Panel, tile: int) -> Image.Image:
    """The colour bar with the raw values at its ends; a flat map says so instead of showing colours."""
    face = text.font(12)
    bar = Image.new("RGB", (tile, _BAR + 4 + text.pitch(face)), text.PAPER)
    draw = ImageDraw.Draw(bar)
    (low, high), signed = ends, panel.signed
    peak = max(abs(low), abs(high))
    if (peak == 0) if signed else (low == high):
        draw.rectangle([0, 0, tile - 1, _BAR - 1], fill=text.BLANK, outline=text.EDGE)
        empty = panel.values is not None and np.isnan(as_array(panel.values)).all()
        words = "nothing inside the crop" if empty else f"flat: {text.number(low)} everywhere"
        draw.text((0, _BAR + 2), words, font=face, fill=text.INK)
        return bar
    bar.paste(colour_bar((tile, _BAR), signed), (0, 0))
    draw.rectangle([0, 0, tile - 1, _BAR - 1], outline=text.EDGE)
    if signed:
        low, high = -peak, peak
    draw.text((0, _BAR + 2), text.number(low), font=face, fill=text.INK)
    draw.text((tile, _BAR + 2), text.number(high), font=face, fill=text.INK, anchor="ra")
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
