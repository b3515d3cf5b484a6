"""The errors that vitscope raises: each names what is wrong and ends with the next action."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 1000
"""Characters of an error's text; what it quotes of a longer one is left out in the middle."""


class VitscopeError(Exception):
    """Any failure that a user can mend; its text is one line, whatever it quotes."""

    def __init__(self, text: str) -> None:
        super().__init__(_one_line(text))


class ImageError(VitscopeError):
    """An input picture cannot be read, or has a form that is not understood."""


class FormatError(ImageError):
    """What was given for a picture is of no format that is read."""


class PixelsError(ImageError):
    """A picture has more pixels than are read, by its header."""


class DatasetError(VitscopeError):
    """A data set is unknown, its folder is laid out otherwise, or a file of it is damaged."""


class ModelError(VitscopeError):
    """A model or its weights cannot be loaded, understood or traced."""


class RefusedError(ModelError):
    """A model that cannot be explained as it is, with or without a description; the text says what to change."""


class MethodError(VitscopeError):
    """A method is unknown, wrongly configured, or not defined for this model."""


class MetricError(VitscopeError):
    """A metric is unknown, wrongly configured, or lacks what it needs."""


class TargetError(VitscopeError):
    """What shall be explained does not exist, or does not fit the batch or the method."""


class FlatMapError(VitscopeError):
    """A map came out constant or not finite, so it would show nothing, or something false."""


def _one_line(text: str) -> str:
    """Without line breaks and control signs, and of a length that a person reads."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[3 - half :]}"


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A clause that offers the known names nearest to `word`, or an empty string."""
    spelt = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), spelt, n=count, cutoff=0.5)
    return f"; did you mean {', '.join(spelt[match] for match in matches)}?" if matches else ""


def text_of(error: BaseException) -> str:
    """An error as one line; the kind of one that is not ours is named."""
    words = " ".join(str(error).split())
    return words if isinstance(error, VitscopeError) else f"{type(error).__name__}: {words[:300]}"
