"""From a file, a PIL image or an array to an upright 8-bit RGB picture."""

from __future__ import annotations

import io
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vitscope.errors import FormatError, ImageError, PixelsError
from vitscope.images.header import STORED, WHITE, Depth, dark, note_frames
from vitscope.images.notes import note
from vitscope.parse import as_unicode, is_unicode
from vitscope.warned import warnings_are

_AT_A_TIME = 2**20
"""Pixels of more than 8 bits that are scaled at once."""

_DARK = (
    "{name}: comes out nearly {tone}: no value is above {highest}, and {header}; if its values do not use the whole "
    "range, scale them first ({cure}), or pass an 8-bit image"
)
_NO_HEADER = "the header says nothing of fewer bits"

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray[Any, Any]


def load_image(source: Source, *, upright: bool = True) -> Image.Image:
    """Read a picture as upright RGB of 8 bits.

    EXIF orientation is applied; transparency is laid over white; greys of more than 8 bits are scaled to 8 by the depth
    that the header gives (PNG's sBIT, TIFF's BitsPerSample, SMaxSampleValue or MaxSampleValue), else by 16 bits; CMYK,
    palette, greyscale and 1-bit pictures are converted. A warning in the log says where a 16-bit image comes out nearly
    black, and where one of several frames or pages is read.

    Args:
        source: a path, a file's content (bytes, or an open binary file), a PIL image, or a uint8 array (H W), (H W 1),
            (H W 3) or (H W 4).
        upright: False leaves the pixels as they are stored, and drops the tag that would turn them later: for truth
            that was drawn on the stored pixels.

    Raises:
        ImageError: no such file, not a picture, truncated, too large to be safe, or another kind of array.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the picture", upright)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read"):
        file: Any = source if hasattr(source, "read") else io.BytesIO(source)
        return _open(file, "the image", lambda image: _to_rgb(image, "the image", upright))
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"{type(source).__name__} is no picture; give a path, bytes, a PIL image, a uint8 array or a tensor"
        )
    if isinstance(source, str) and _URL.match(source):
        raise ImageError(
            f"{source}: a URL, and nothing is downloaded here; download the file first, and give its path or its bytes"
        )
    path = Path(source)
    return _read(path, lambda image: _to_rgb(image, str(path), upright, once=True))


def load_levels(path: Path) -> Image.Image:
    """Read a file's values as they are stored: its own mode, palette indices included, not turned.

    Raises:
        ImageError: no such file, not a picture, truncated, or too large to be safe.
    """
    return _read(path, Image.Image.copy)


def read_image(file: BinaryIO, name: str, formats: tuple[str, ...], most: int) -> Image.Image:
    """Read a stranger's picture as `load_image` reads a file; its size is known before a pixel of it is decoded.

    Args:
        file: at its beginning.
        name: for errors.
        formats: Pillow's names of those that are read.
        most: pixels.

    Raises:
        PixelsError: too many, by its header; nothing was decoded.
        FormatError: of none of these formats.
        ImageError: damaged or truncated, or more than memory holds.
    """

    def take(image: Image.Image) -> Image.Image:
        _check_pixels(image.width * image.height, most, name)
        return _to_rgb(image, name, counted=False)

    try:
        with Image.open(file, formats=formats) as image:
            return take(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # above Pillow's own bounds
        found = re.search(r"(\d+) pixels", str(error))
        _check_pixels(int(found[1]) if found else most + 1, most, name)
        raise PixelsError(f"{name}: too many pixels to open safely; scale it down first") from error
    except UnidentifiedImageError as error:
        raise FormatError(f"{name}: not a picture; send {_in_words(formats)}") from error
    except MemoryError as error:
        raise ImageError(f"{name}: does not fit into memory; scale it down first") from error
    except Exception as error:  # what the decoders raise on what was made to break them is not known beforehand
        raise ImageError(f"{name}: {_damaged(error)}; save it again") from error


def _read(path: Path, take: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if not is_unicode(str(path)):
        raise ImageError(f"{as_unicode(str(path))}: its name is not UTF-8; rename it, or its folder")
    try:
        if path.is_dir():
            raise ImageError(f"{path}: {_of_folder(path)}")
        if not path.is_file():
            raise ImageError(f"{path}: no such file; check the path")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty; copy or download it again")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return _open(path, str(path), take)


def _of_folder(path: Path) -> str:
    """Why a folder is no image, and what to give in its place."""
    Image.init()
    inside = [file for file in path.iterdir() if file.suffix.lower() in Image.EXTENSION and file.name[0] != "."]
    if not inside:
        return "a folder with no pictures in it; name a picture"
    kind = Counter(file.suffix for file in inside).most_common(1)[0][0]
    return f"a folder; give the images in it, such as sorted(Path({str(path)!r}).glob('*{kind}'))"


def _open(file: Path | BinaryIO, name: str, take: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Open a file and take its image; `name` is for errors."""
    try:
        with warnings_are("error", Image.DecompressionBombWarning):
            opened = Image.open(file, formats=_formats())
        with opened as image:
            return take(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: too many pixels to open safely; scale it down first") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a format that Pillow reads; save it as PNG or JPEG") from error
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name}: does not fit into memory; scale it down first") from error
    except Exception as error:  # what the decoders raise on what was made to break them is not known beforehand
        raise ImageError(f"{name}: {_damaged(error)}; copy or download it again") from error


@cache
def _formats() -> tuple[str, ...]:
    """Those that Pillow reads by itself: EPS is a program, which it hands to Ghostscript where that is installed."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def _damaged(error: BaseException) -> str:
    return f"the file is damaged or truncated ({' '.join(str(error).split()) or type(error).__name__})"


def _check_pixels(pixels: int, most: int, name: str) -> None:
    if pixels > most:
        millions = math.ceil(pixels / 1e5) / 10
        raise PixelsError(f"{name}: {millions:.12g} megapixels, at most {most / 1e6:g}; scale it down first")


def _in_words(formats: tuple[str, ...]) -> str:
    *others, last = formats
    return f"{', '.join(others)} or {last}" if others else last


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(
            f"an array of {array.dtype} is ambiguous; pass a uint8 array (0 to 255), or a torch float tensor "
            "(B, 3, H, W) already normalised"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(f"an array of shape {array.shape} is no picture; pass (H, W), (H, W, 3) or (H, W, 4)")
    return _to_rgb(Image.fromarray(array), "the array")


def _to_rgb(
    image: Image.Image, name: str, upright: bool = True, *, once: bool = False, counted: bool = True
) -> Image.Image:
    """Convert an opened image.

    Args:
        image: it; that of a file is not decoded yet.
        name: for errors and notes.
        upright: whether EXIF orientation is applied.
        once, counted: as of `note` and `note_frames`.
    """
    depth = Depth.of(image)  # before it is decoded, since Pillow then drops the header
    picture = _converted(ImageOps.exif_transpose(image) if upright else image, name, depth, once=once)
    if not upright:
        picture.info.clear()
    note_frames(image, name, counted=counted, once=once)
    return picture


def _converted(image: Image.Image, name: str, depth: Depth, *, once: bool) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image, name, depth, once=once)
    if depth.truncated:
        extrema: Any = image.convert("RGB").getextrema()
        highest = max(int(high) for _, high in extrema)
        if dark(highest, 255):
            upper = f"{highest} of 255 in the upper 8 of 16 bits"
            header = _NO_HEADER if depth.bits is None else f"the {depth.bits} bits of its header are for grey images"
            cure = _scaling(8 + highest.bit_length())
            note(_DARK.format(name=name, tone="black", highest=upper, header=header, cure=cure), once=once)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image, name: str, depth: Depth, *, once: bool) -> Image.Image:
    """Convert greys of more than 8 bits: integers of the depth in the header, or of 16 bits; floats from 0 to 1."""
    whole = 1.0 if image.mode == "F" else WHITE
    highest, used = 0.0, 0
    for _, values in _rows(image):
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > whole:
            raise ImageError(f"{name}: grey values outside 0 to {whole:g}; scale them into that range first")
        highest = max(highest, float(values.max()))
        used |= 0 if image.mode == "F" else int(np.bitwise_or.reduce(values, axis=None))
    white = whole if image.mode == "F" else depth.white(int(highest), used)
    if white < whole and depth.may_be_scaled(used):
        note(f"{name}: read as {depth.bits} bits by its header, since no value is above {highest:g}", once=once)
    elif white == whole and dark(highest, whole):
        cure = "floats to 0 to 1" if image.mode == "F" else _scaling(int(highest).bit_length())
        tone, most = "white" if depth.inverted else "black", f"{highest:.4g} of {whole:g}"
        note(_DARK.format(name=name, tone=tone, highest=most, header=_NO_HEADER, cure=cure), once=once)
    grey = np.empty((image.height, image.width), dtype=np.uint8)
    for rows, values in _rows(image):
        share = values.astype(np.float64) / white
        grey[rows] = np.rint(255.0 * (1.0 - share if depth.inverted else share))
    return Image.fromarray(grey).convert("RGB")


def _rows(image: Image.Image) -> Iterator[tuple[slice, np.ndarray[Any, Any]]]:
    """Its values a few rows at a time: in float64 a large image would take gigabytes."""
    count = max(1, _AT_A_TIME // image.width)
    for start in range(0, image.height, count):
        stop = min(start + count, image.height)
        yield slice(start, stop), np.asarray(image.crop((0, start, image.width, stop)))


def _scaling(bits: int) -> str:
    """Of integers that use the lowest bits alone."""
    return f"multiply {bits} bits by {2 ** (STORED - bits)}"
