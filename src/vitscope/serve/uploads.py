"""What a stranger sends as a picture, to what the queue holds of it: the model's input, and what a page shows."""

from __future__ import annotations

import unicodedata
from typing import BinaryIO

from vitscope.errors import PixelsError
from vitscope.images import Batch, Preprocessing
from vitscope.images.load import read_image
from vitscope.images.notes import collected
from vitscope.report import shown
from vitscope.serve.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are read; of several frames the first."""

LABEL = 120
"""Characters of a file's name that are kept."""


def label_of(filename: str | None, number: int) -> str:
    """A file's name as a label, for people: no folders, no control characters, of bounded length; never a path.

    Args:
        filename: what the client calls it.
        number: of the picture, from 1, for one without a name.
    """
    last = (filename or "").replace("\\", "/").rpartition("/")[2]
    plain = "".join(" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in last)
    label = " ".join(plain.split())
    if len(label) > LABEL:
        label = label[: LABEL - 1] + "…"
    return label or f"picture {number}"


def read_upload(file: BinaryIO, label: str, preprocessing: Preprocessing, limits: Limits) -> Batch:
    """A batch of one picture, whose original is no larger than a page shows it.

    Args:
        file: at its beginning.
        label: its name, also for errors.
        preprocessing: the model's.
        limits: of its pixels and its shape.

    Raises:
        PixelsError: too many pixels, or so long and narrow that resizing would make too many.
        FormatError: none of `FORMATS`.
        ImageError: damaged.
    """
    with collected() as lines:  # for the sender
        picture = read_image(file, label, FORMATS, limits.picture_pixels)
    if max(picture.size) > limits.picture_aspect * min(picture.size):
        raise PixelsError(
            f"{label}: {picture.width} x {picture.height} pixels; the longer side can be {limits.picture_aspect} times "
            "the shorter, at most; cut it first"
        )
    tensor, geometry = preprocessing(picture)
    return Batch(tensor[None], (geometry,), (shown(picture),), (label,), (tuple(lines),))
