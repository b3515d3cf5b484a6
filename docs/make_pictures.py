"""Draws the README's pictures from the demonstration's: python docs/make_pictures.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from vitscope import demo
from vitscope.view import text
from vitscope.view.page import Film, Row

HERE = Path(__file__).parent / "pictures"
TILE, GAP = 224, 14


def sheet(rows: Sequence[Row]) -> Image.Image:
    """The rows under one another, each with its heading, its pictures' names above and their notes below."""
    bold, plain, name = text.font(17, bold=True), text.font(13), text.font(14, bold=True)
    width = GAP + max(len(row.tiles) for row in rows) * (TILE + GAP)
    height = 34 + 24 + TILE + 46
    canvas = Image.new("RGB", (width, GAP + len(rows) * height), text.PAPER)
    draw = ImageDraw.Draw(canvas)
    for line, row in enumerate(rows):
        top = GAP + line * height
        draw.text((GAP, top), row.heading, font=bold, fill=text.INK)
        for column, tile in enumerate(row.tiles):
            left = GAP + column * (TILE + GAP)
            draw.text((left, top + 31), tile.title, font=name, fill=text.INK)
            canvas.paste(tile.picture.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top + 54))
            text.write(draw, (left, top + 58 + TILE), text.wrap(tile.note, plain, TILE, 2), plain, text.FAINT)
    return canvas


def strip(film: Film, columns: int = 6) -> Image.Image:
    """All frames of a film, six in a line."""
    plain, side = text.font(14), 190
    lines = -(-len(film.frames) // columns)
    canvas = Image.new("RGB", (GAP + columns * (side + GAP), GAP + lines * (side + 34)), text.PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (frame, label) in enumerate(zip(film.frames, film.labels, strict=True)):
        left, top = GAP + index % columns * (side + GAP), GAP + index // columns * (side + 34)
        canvas.paste(frame.resize((side, side), Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + side + 4), label, font=plain, fill=text.FAINT)
    return canvas


def main() -> None:
    HERE.mkdir(exist_ok=True)
    asked, cheating = demo.two_classes().parts[:2], demo.shortcut().parts[-1:]
    rows = [*asked, demo.several().parts[0], *cheating]
    sheet([row for row in rows if isinstance(row, Row)]).save(HERE / "demo.webp", quality=88)
    films = [part for part in demo.growth().parts if isinstance(part, Film)]
    strip(films[0]).save(HERE / "daam-evolution.webp", quality=88)


if __name__ == "__main__":
    main()
