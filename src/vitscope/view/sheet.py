"""All methods side by side for one photograph, or for many: each panel named, with its own colour bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vitscope.attribution import line_of
from vitscope.errors import ImageError
from vitscope.methods import FAMILIES
from vitscope.view import text
from vitscope.view.tiles import Cell, Panel, panel_cell, photo_cell, small_ground

TILE = 300
"""The longest side of a panel's picture, in pixels."""

COLUMNS = 6
"""At most so many pictures in a line, the photograph included, where no families are named."""

_WIDEST = 1900  # pixels that the lines of families may take
_SMALL = 220  # side of the pictures of a comparison
_GAP = 18
_BAND = 24  # height of a family's heading
_MANY = 3  # so many panels that lack their map for one reason are named in a line below; so many of a family begin it


def sheet(
    photo: Image.Image, panels: Sequence[Panel], heading: str, subheading: str = "", foot: str = ""
) -> Image.Image:
    """Set the photograph and all its maps side by side, the photograph first.

    Args:
        photo: the original picture.
        panels: the maps; more than five go on several lines, family by family where they name families.
        heading: what is shown, such as the file's name.
        subheading: such as the prediction and its probability.
        foot: a line below all, such as how the colours are to be read.

    Returns:
        An RGB picture.

    Raises:
        ImageError: a map is not of the photograph's size.
        FlatMapError: a map holds infinite values.
    """
    return _page(photo, panels, (heading, subheading, foot), TILE, 22)


def contact(rows: Sequence[tuple[Image.Image, Sequence[Panel], str]], foot: str = "") -> Image.Image:
    """Stack many photographs with their maps into one comparison.

    Args:
        rows: for each photograph: the picture, its panels, and a heading.
        foot: a line below all.

    Returns:
        An RGB picture, as wide as the widest row.

    Raises:
        ImageError: there are no rows, or a map is not of its photograph's size.
        FlatMapError: a map holds infinite values.
    """
    if not rows:
        raise ImageError("there is nothing to compare; pass at least one photograph with its panels")
    last = len(rows) - 1
    pages = [
        _page(photo, panels, (heading, "", foot if number == last else ""), _SMALL, 16)
        for number, (photo, panels, heading) in enumerate(rows)
    ]
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


@dataclass(frozen=True)
class _Block:
    """Cells side by side, under one heading where there is one."""

    heading: str
    cells: tuple[Cell, ...]


def _page(
    photo: Image.Image, panels: Sequence[Panel], words: tuple[str, str, str], tile: int, size: int
) -> Image.Image:
    """Heading and subheading, then the pictures line by line, then what is left out and the foot."""
    panels, below = _without_many(panels)
    ground = small_ground(photo, tile)
    cells = [photo_cell(photo, ground), *(panel_cell(photo, ground, panel, tile) for panel in panels)]
    lines = _lines(cells, tile)
    columns = max(2, *(sum(len(block.cells) for block in line) for line in lines))  # two, for the heading's sake
    room = columns * (tile + _GAP) - _GAP
    bold, plain = text.font(size, bold=True), text.font(max(12, round(size * 0.74)))
    small = text.font(13)
    title, under = text.wrap(words[0], bold, room, 4), text.wrap(words[1], plain, room, 4)
    end = [line for part in (*below, words[2]) for line in text.wrap(part, small, room, 6)]
    strips = [_strip(line, tile) for line in lines]
    head = len(title) * text.pitch(bold) + len(under) * text.pitch(plain) + (10 if title or under else 0)
    tail = len(end) * text.pitch(small) + (_GAP if end else 0)
    height = _GAP + head + sum(strip.height + _GAP for strip in strips) + tail
    canvas = Image.new("RGB", (room + 2 * _GAP, height), text.PAPER)
    draw = ImageDraw.Draw(canvas)
    text.write(draw, (_GAP, _GAP), title, bold, text.INK)
    text.write(draw, (_GAP, _GAP + len(title) * text.pitch(bold) + 2), under, plain, text.FAINT)
    top = _GAP + head
    for strip in strips:
        canvas.paste(strip, (_GAP, top))
        top += strip.height + _GAP
    text.write(draw, (_GAP, top), end, small, text.INK)
    return canvas


def _without_many(panels: Sequence[Panel]) -> tuple[list[Panel], list[str]]:
    """The panels less those that many others share their reason with, and a line for each such reason."""
    reasons: dict[str, list[str]] = {}
    for panel in panels:
        if panel.values is None:
            reasons.setdefault(panel.note, []).append(panel.title)
    shared = {reason: titles for reason, titles in reasons.items() if len(titles) >= _MANY}
    kept = [panel for panel in panels if panel.values is not None or panel.note not in shared]
    return kept, [line_of(titles, reason) for reason, titles in shared.items()]


def _lines(cells: Sequence[Cell], tile: int) -> list[list[_Block]]:
    """The photograph first; more than a line: family by family where they are named, else evenly filled lines."""
    photo, *maps = cells
    families = {cell.family for cell in maps}
    if len(cells) <= COLUMNS or len(families) < 2:
        columns = -(-len(cells) // -(-len(cells) // COLUMNS))
        return [[_Block("", tuple(cells[at : at + columns]))] for at in range(0, len(cells), columns)]
    order = [name for name in FAMILIES if name in families] + sorted(families - FAMILIES.keys())
    return _flow(photo, {name: [cell for cell in maps if cell.family == name] for name in order}, tile)


def _flow(photo: Cell, sections: Mapping[str, Sequence[Cell]], tile: int) -> list[list[_Block]]:
    """Each family goes on where the one before ends, if it or three of it fit there, and on over the next lines."""
    most = (_WIDEST + _GAP) // (tile + _GAP)
    lines, used = [[_Block("", (photo,))]], 1
    for name, cells in sections.items():
        at = 0
        while at < len(cells):
            if most - used < min(len(cells) - at, _MANY):
                lines.append([])
                used = 0
            part = tuple(cells[at : at + most - used])
            lines[-1].append(_Block(f"{name}, continued" if at else name, part))
            at, used = at + len(part), used + len(part)
    return lines


def _strip(blocks: Sequence[_Block], tile: int) -> Image.Image:
    """One line of blocks, their headings and their pictures at one height whatever the titles' lengths."""
    cells = [cell for block in blocks for cell in block.cells]
    bold, plain = text.font(15, bold=True), text.font(12)
    titles = [text.wrap(cell.title, bold, tile, 3) for cell in cells]
    notes = [text.wrap(cell.note, plain, tile, 4) for cell in cells]
    band = _BAND + 8 if any(block.heading for block in blocks) else 0
    head = band + 6 + text.pitch(bold) * max(len(title) for title in titles)
    heights = [
        sum(part.height + 6 for part in cell.parts) + len(note) * text.pitch(plain)
        for cell, note in zip(cells, notes, strict=True)
    ]
    strip = Image.new("RGB", (len(cells) * (tile + _GAP) - _GAP, head + max(heights) + 2), text.PAPER)
    draw = ImageDraw.Draw(strip)
    left = 0
    for block in blocks:
        width = len(block.cells) * (tile + _GAP)
        if block.heading:
            draw.rectangle([left, 0, left + width - _GAP - 1, _BAND - 1], fill=text.BLANK)
            draw.text((left + 8, _BAND // 2), block.heading, font=text.font(14), fill=text.INK, anchor="lm")
        left += width
    for column, (cell, title, note) in enumerate(zip(cells, titles, notes, strict=True)):
        left, top = column * (tile + _GAP), head
        text.write(draw, (left, head - 6 - len(title) * text.pitch(bold)), title, bold, text.INK)
        for part in cell.parts:
            strip.paste(part, (left + (tile - part.width) // 2, top))
            top += part.height + 6
        text.write(draw, (left, top - 2), note, plain, text.FAINT)
    return strip
