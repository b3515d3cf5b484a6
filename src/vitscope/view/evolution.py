"""How a map grows: the frames of all blocks (or heads) as a strip, or as an animation, GIF or video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vitscope.errors import ImageError
from vitscope.view import text
from vitscope.view.overlay import Ground, fit, mismatch, picture_size, resized
from vitscope.view.scale import Values
from vitscope.view.tiles import colour_bar
from vitscope.view.video import KINDS, encode, kind_of, usable

LONGEST = 448
"""The longest side of an animation, in pixels."""

TILE = 224
"""The longest side of a filmstrip's frame, in pixels, unless another is asked for."""

COLUMNS = 6
"""At most so many frames in a line of a filmstrip."""

_GAP = 12
_FOOT = 26  # an animation's footer: the label and the progress bar
_PROGRESS = 4
_HOLD = 4  # the last frame stays so many times longer
_GREYS = 48
_HUES = 160  # with the greys below 256: one entry is left for "unchanged", which keeps the file small


def filmstrip(
    photo: Image.Image,
    frames: Values,
    labels: Sequence[str],
    signed: bool = False,
    palette: str | None = None,
    columns: int = COLUMNS,
    tile: int = TILE,
) -> Image.Image:
    """Set frames that share one scale side by side, each under its label.

    Args:
        photo: the original picture.
        frames: (blocks, H, W), or one frame a head, on the photograph's pixels: globally normalised to [0, 1]
            (to [-1, 1] where signed), NaN outside the crop.
        labels: one a frame, such as "block 1" or "head 3".
        signed: whether zero is the centre of the scale.
        palette: a matplotlib palette's name; None takes the house palettes.
        columns: at most so many frames in a line.
        tile: longest side of a frame in pixels.

    Returns:
        An RGB picture with one colour bar for all frames.

    Raises:
        ImageError: no frames, as many labels as frames are not given, or the sizes do not agree.
    """
    pictures = _pictures(photo, frames, labels, tile, signed, palette)
    columns = min(len(pictures), columns)
    face = text.font(13, bold=True)
    captions = [text.wrap(label, face, tile, 2) for label in labels]
    high = max(1, *(len(caption) for caption in captions)) * text.pitch(face) + 4
    step_x, step_y = tile + _GAP, pictures[0].height + high + _GAP
    lines = -(-len(pictures) // columns)
    strip = Image.new("RGB", (_GAP + columns * step_x, _GAP + lines * step_y + 30), text.PAPER)
    draw = ImageDraw.Draw(strip)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = _GAP + number % columns * step_x, _GAP + number // columns * step_y
        text.write(draw, (left, top), caption, face, text.INK)
        strip.paste(picture, (left, top + high))
    _legend(strip, (_GAP, _GAP + lines * step_y), signed, palette)
    return strip


def under_headings(rows: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures below each other, each under its heading, as one RGB picture.

    Raises:
        ImageError: there are none.
    """
    if not rows:
        raise ImageError("there is nothing to compare; pass at least one filmstrip")
    face = text.font(16, bold=True)
    head = text.pitch(face) + _GAP
    width, height = max(picture.width for _, picture in rows), sum(picture.height + head for _, picture in rows)
    canvas = Image.new("RGB", (width, height), text.PAPER)
    draw, top = ImageDraw.Draw(canvas), 0
    for heading, picture in rows:
        text.write(draw, (_GAP, top + _GAP), text.wrap(heading, face, canvas.width - 2 * _GAP, 1), face, text.INK)
        canvas.paste(picture, (0, top + head))
        top += picture.height + head
    return canvas


def animation(
    photo: Image.Image,
    frames: Values,
    labels: Sequence[str],
    path: Path | str,
    milliseconds: int = 400,
    signed: bool = False,
    palette: str | None = None,
) -> Path:
    """Write the frames as an animation: the label and a progress bar in each, the last one held longer.

    Args:
        photo: the original picture.
        frames: as for `filmstrip`.
        labels: one a frame.
        path: the file to write, in a folder that exists: a video where it ends in .mp4 or .webm (extra `video`),
            otherwise a looping GIF.
        milliseconds: how long a frame stays, at least 20; GIF keeps hundredths of a second.
        signed: whether zero is the centre of the scale.
        palette: a matplotlib palette's name; None takes the house palettes.

    Returns:
        The file's path.

    Raises:
        ImageError: as for `filmstrip`, or the time is too short.
        VitscopeError: the extra `video` is not installed, or its ffmpeg does not work.
        OSError: the file cannot be written.
    """
    if (kind := kind_of(path)) in KINDS:
        usable(kind)
    return animate(cards(photo, frames, labels, signed, palette), path, milliseconds)


def cards(
    photo: Image.Image, frames: Values, labels: Sequence[str], signed: bool = False, palette: str | None = None
) -> list[Image.Image]:
    """The pictures of an animation, of one size: each frame over its photograph, with its label and a progress bar.

    Args:
        photo, frames, labels, signed, palette: as for `animation`.

    Raises:
        ImageError: as for `filmstrip`.
    """
    _, height = picture_size(photo, LONGEST)
    longest = LONGEST if height + _FOOT <= LONGEST else LONGEST - _FOOT
    pictures = _pictures(photo, frames, labels, longest, signed, palette)
    return [
        _card(picture, label, (number + 1) / len(labels))
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    ]


def animate(pictures: Sequence[Image.Image], path: Path | str, milliseconds: int = 400) -> Path:
    """Write what `cards` gives; as `animation`.

    Raises:
        ImageError: the time is too short.
        OSError: the file cannot be written.
    """
    if milliseconds < 20:
        raise ImageError(f"{milliseconds} ms a frame is too fast for an animation; choose at least 20")
    if kind_of(path) in KINDS:
        return encode(pictures, path, milliseconds, _HOLD)
    times = [milliseconds] * (len(pictures) - 1) + [milliseconds * _HOLD]
    shared = _shared_palette(pictures)
    coded = [picture.quantize(palette=shared, dither=Image.Dither.NONE) for picture in pictures]
    coded[0].save(path, format="GIF", save_all=True, append_images=coded[1:], duration=times, loop=0, optimize=False)
    return Path(path)


def _pictures(
    photo: Image.Image, frames: Values, labels: Sequence[str], longest: int, signed: bool, palette: str | None
) -> list[Image.Image]:
    """Every frame over its photograph, at the size it is shown in, nothing rescaled."""
    if frames.ndim != 3 or frames.shape[0] == 0:
        raise ImageError(f"frames are {tuple(frames.shape)}; pass (blocks, H, W) with at least one block")
    if len(labels) != frames.shape[0]:
        raise ImageError(f"{len(labels)} labels for {frames.shape[0]} frames; pass one label a frame")
    if tuple(frames.shape[1:]) != (photo.height, photo.width):
        raise ImageError(mismatch(frames[0], photo))
    ground = Ground(resized(photo.convert("RGB"), longest))
    size = ground.photo.height, ground.photo.width
    return [ground.under(fit(frame, size), signed, palette=palette) for frame in frames]


def _card(picture: Image.Image, label: str, share: float) -> Image.Image:
    """A picture with a footer: a progress bar filled to `share`, and the label beneath it."""
    width = max(picture.width, 96)  # so that the label of a very narrow picture can be read
    card = Image.new("RGB", (width, picture.height + _FOOT), (24, 25, 28))
    card.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(card)
    top = picture.height
    draw.rectangle([0, top, width - 1, top + _PROGRESS - 1], fill=(64, 66, 72))
    draw.rectangle([0, top, max(1, round(width * share)) - 1, top + _PROGRESS - 1], fill=(250, 176, 48))
    face = text.font(14)
    line = text.wrap(label, face, width - 16, 1)
    text.write(draw, (8, top + _PROGRESS + 2), line, face, (240, 240, 240))
    return card


def _shared_palette(cards: Sequence[Image.Image]) -> Image.Image:
    """One palette for all frames, so that colours do not flicker: even greys, and the hues that occur.

    The hues are cut by median, each counted by the fourth root of how often it occurs: counted plainly, a
    wide meadow would take the entries that the few pixels of strong evidence need.
    """
    halves = [card.resize((card.width // 2, card.height // 2), Image.Resampling.BOX) for card in cards]
    pixels = np.concatenate([np.asarray(half).reshape(-1, 3) for half in halves])
    hues = pixels[np.ptp(pixels, axis=1) > 12] & 0xFC  # 64 levels a channel are enough to choose from
    entries = [step * 255 // (_GREYS - 1) for step in range(_GREYS) for _ in range(3)]
    if len(hues):
        packed, counts = np.unique(hues.astype(np.uint32) @ [1 << 16, 1 << 8, 1], return_counts=True)
        colours = (packed[:, None] >> [16, 8, 0]).astype(np.uint8)
        spread = np.repeat(colours | 0x02, np.ceil(counts**0.25).astype(np.int64), axis=0)
        cut = Image.fromarray(spread[None]).quantize(_HUES, method=Image.Quantize.MEDIANCUT)
        entries += (cut.getpalette() or [])[: 3 * _HUES]
    shared = Image.new("P", (1, 1))
    shared.putpalette(entries)
    return shared


def _legend(strip: Image.Image, corner: tuple[int, int], signed: bool, palette: str | None) -> None:
    """One colour bar for all frames: they share their scale."""
    face = text.font(12)
    draw = ImageDraw.Draw(strip)
    left, top = corner
    low = "−1" if signed else "0"
    draw.text((left, top), low, font=face, fill=text.INK)
    left += round(face.getlength(low)) + 6
    strip.paste(colour_bar((110, 11), signed, palette), (left, top + 2))
    draw.text((left + 116, top), "1 · one scale", font=face, fill=text.INK)
