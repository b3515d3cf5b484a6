"""Setting text into pictures: matplotlib's DejaVu, wrapped to a width and never cut without an ellipsis."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageDraw, ImageFont

INK = (28, 30, 34)
FAINT = (104, 108, 116)
PAPER = (255, 255, 255)
BLANK = (240, 241, 243)
EDGE = (206, 208, 213)

Font = ImageFont.FreeTypeFont


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> Font:
    """DejaVu Sans, as matplotlib ships it, at a size in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def wrap(text: str, face: Font, width: int, lines: int) -> list[str]:
    """Break a text into lines no wider than `width` pixels, at spaces where there are any.

    Args:
        text: what is to be set; its own line breaks are kept.
        face: the font that it will be drawn with.
        width: the room, in pixels.
        lines: at most so many lines; the last one ends with an ellipsis where the text is longer.

    Returns:
        The lines; none for an empty text.
    """
    done: list[str] = []
    for paragraph in text.splitlines():
        current = ""
        for word in paragraph.split():
            joined = f"{current} {word}" if current else word
            if face.getlength(joined) <= width:
                current = joined
                continue
            if current:
                done.append(current)
            *full, current = _pieces(word, face, width)
            done.extend(full)
        if current:
            done.append(current)
    if len(done) > lines:
        done = [*done[: lines - 1], _ellipsize(f"{done[lines - 1]}…", face, width)]
    return done


def write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: list[str],
    face: Font,
    ink: tuple[int, int, int],
) -> None:
    """Draw lines of text, the first one's top left at `corner` (x, y)."""
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * pitch(face)), line, font=face, fill=ink)


def pitch(face: Font) -> int:
    """The distance from one line to the next, in pixels."""
    return round(face.size * 1.32)


def number(value: float) -> str:
    """A raw value in three significant figures, with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def _pieces(word: str, face: Font, width: int) -> list[str]:
    """Break a word that is wider than a line, such as a file's name, into pieces that fit; at least one."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and face.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _ellipsize(line: str, face: Font, width: int) -> str:
    while len(line) > 1 and face.getlength(line) > width:
        line = f"{line[:-2].rstrip()}…"
    return line
