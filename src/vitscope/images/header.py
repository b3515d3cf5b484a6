"""What an image file's header says of its values and frames."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, Any, cast

from PIL import Image

from vitscope.images.notes import note

STORED = 16
"""Bits of a value of more than 8 bits, as Pillow gives it."""
WHITE = 2**STORED - 1
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE = 258, 262, 281, 341  # of TIFF
_WHITE_IS_ZERO = 0
_PRIMARY_FIRST = ("MPO", "PSD")
"""Formats whose first frame is the image, and the others its previews or layers."""


@dataclass(frozen=True)
class Depth:
    """How many bits the values of an image have, by its header, which is read before the image is decoded.

    Attributes:
        bits: that its values use of the 16 that store them; None where the header does not say so.
        exact: whether values of more bits are impossible. Otherwise `bits` is a hint: PNG's sBIT, for which values
            should have been scaled to 16 bits and often are not, or the highest value that a TIFF declares.
        truncated: whether it has 16 bits a channel of which Pillow gives the upper 8.
        inverted: whether 0 is white, as a TIFF may say, and Pillow leaves the values so.
    """

    bits: int | None = None
    exact: bool = False
    truncated: bool = False
    inverted: bool = False

    @classmethod
    def of(cls, image: Image.Image) -> Depth:
        """Read it from an image that was opened and not yet decoded."""
        deep = image.mode.startswith("I")
        truncated = not deep and _has_sixteen_bits(image)
        bits, exact = None, False
        tags = getattr(image, "tag_v2", None)
        if (deep or truncated) and image.format == "PNG":
            bits = _significant_bits(getattr(image, "fp", None))
        elif (deep or truncated) and tags is not None:
            bits, exact = _bits_of_tiff(tags)
        inverted = (deep or image.mode == "F") and tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return cls(bits if bits is not None and bits < STORED else None, exact, truncated, inverted)

    def white(self, highest: int, used: int) -> int:
        """The value that is white: 2^16 - 1, or less where the image has fewer bits.

        Of a hint, the values were scaled to 16 bits all the same where one has more bits than it says; or where they
        may have been, and the image is not dark.

        Args:
            highest: of the image's values.
            used: all its values together by a bitwise or.
        """
        white = WHITE if self.bits is None else (1 << self.bits) - 1
        scaled = self.may_be_scaled(used) and not dark(highest, WHITE)
        return WHITE if scaled or highest > white else white

    def may_be_scaled(self, used: int) -> bool:
        """Whether `bits` is a hint, and no value uses the lowest bits, which scaling to 16 bits leaves zero."""
        return self.bits is not None and not self.exact and used % 2 ** (STORED - self.bits) == 0


def dark(highest: float, white: float) -> bool:
    """Whether an image is nearly black, since its brightest value is below 1/8 of the range, and not all black."""
    return 0 < highest < white / 8


def note_frames(image: Image.Image, name: str, *, counted: bool, once: bool) -> None:
    """Say that of several frames or pages one is read.

    Args:
        image: after its pixels were taken: what follows in the file may be damaged.
        name: of the image.
        counted: whether its frames are counted, which takes time in a file made to have very many.
        once: as of `note`.
    """
    try:
        if image.format in _PRIMARY_FIRST or not getattr(image, "is_animated", False) or image.tell():
            return
        frames = str(cast("Any", image).n_frames) if counted else "several"
    except Exception:  # Pillow raises nearly any kind at damaged frames
        frames = "several"
    note(f"{name}: frame 1 of {frames} is read; save another one as a file of its own to explain it", once=once)


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Whether its channels are stored in 16 bits, in Pillow's words: "RGB;16B", or of a PPM the value that is white."""
    tiles = getattr(image, "tile", None) or [(None, None, None, ())]
    arguments = tiles[0][3] if isinstance(tiles[0][3], tuple) else (tiles[0][3],)
    return any(argument == WHITE or (isinstance(argument, str) and ";16" in argument) for argument in arguments)


def _significant_bits(file: IO[bytes] | None) -> int | None:
    """Of the values of a PNG, by its chunk sBIT, which Pillow does not read; of several channels the first."""
    if file is None:
        return None
    place = file.tell()
    try:
        file.seek(8)
        while True:
            length, kind = struct.unpack(">I4s", file.read(8))
            if kind == b"sBIT":
                return file.read(1)[0] or None
            if kind == b"IDAT":
                return None
            file.seek(length + 4, 1)
    except (struct.error, IndexError, OSError, ValueError):
        return None
    finally:
        file.seek(place)


def _bits_of_tiff(tags: Any) -> tuple[int | None, bool]:
    """Of the grey values of a TIFF, and whether that is exact."""
    stored = tags.get(_BITS_PER_SAMPLE, (STORED,))[0]
    if stored < STORED:
        return int(stored), True
    for tag in (_S_MAX_SAMPLE_VALUE, _MAX_SAMPLE_VALUE):
        try:
            highest = int(tags[tag][0])
        except (KeyError, IndexError, TypeError, ValueError, OverflowError):
            continue
        bits = highest.bit_length()
        # The highest value that there is, where it is no depth's: a hint in a dark image alone.
        if bits > 0 and (highest == 2**bits - 1 or dark(highest, WHITE)):
            return bits, False
    return None, False
