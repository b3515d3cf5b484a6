"""Videos of pictures that stay for a while, by imageio and the ffmpeg that comes with it: MP4 and WebM."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vitscope.errors import VitscopeError, nearest

KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mp4": ("libx264", ("-crf", "18", "-movflags", "+faststart")),
    "webm": ("libvpx-vp9", ("-crf", "24", "-b:v", "0", "-deadline", "good", "-cpu-used", "2", "-row-mt", "1")),
}
"""Kinds of video: the encoder, and how it is set; what is visually the same as the pictures."""

GIF = "gif"
"""The kind that Pillow writes; it needs no encoder."""

_SLOWEST = 10  # frames a second; some players stumble over fewer, and a frame that is said again costs nothing

# Said in the file, since otherwise each player guesses; it is also what players guess for pictures as small as these.
_COLOURS = (
    "-vf",
    "scale=out_color_matrix=bt601:out_range=tv,"
    "setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:color_trc=iec61966-2-1",
)


def usable(asked: str | Iterable[str]) -> tuple[str, ...]:
    """The kinds of video that are asked for, after each was tried on a tiny one, so that no work is lost later.

    Args:
        asked: "gif", "mp4", "webm", with commas between, or several of these.

    Raises:
        VitscopeError: there is no such kind, the extra `video` is not installed, or its ffmpeg cannot encode it.
    """
    words = [asked] if isinstance(asked, str) else list(asked)
    kinds = tuple(dict.fromkeys(part.strip().lower() for word in words for part in word.split(",")))
    for kind in kinds:
        if kind not in (GIF, *KINDS):
            known = f"{GIF}, {' and '.join(KINDS)}"
            raise VitscopeError(f"unknown kind of video '{kind}'{nearest(kind, (GIF, *KINDS))}; there are {known}")
    for kind in kinds:
        if kind in KINDS:
            _try(kind)
    return kinds


def kind_of(path: Path | str) -> str:
    """What a file's name ends in: "gif", "mp4"."""
    return Path(path).suffix.lower().lstrip(".")


def encode(pictures: Sequence[Image.Image], path: Path | str, milliseconds: int, hold: int = 1) -> Path:
    """Write a video; it is there as a whole, or not at all.

    Args:
        pictures: of one size, RGB; a border row or column is said again where the size is odd.
        path: the file to write, .mp4 (H.264) or .webm (VP9); its folder must exist.
        milliseconds: how long each stays, exactly.
        hold: the last one stays so many times longer.

    Raises:
        OSError: the file cannot be written, or the encoder failed.
    """
    from imageio_ffmpeg import count_frames_and_secs  # of the extra

    path = Path(path)
    codec, options = KINDS[kind_of(path)]
    repeats = max(1, math.ceil(_SLOWEST * milliseconds / 1000))
    counts = [repeats] * (len(pictures) - 1) + [repeats * hold]
    whole = False
    try:
        _write(pictures, counts, path, 1000 * repeats / milliseconds, codec, [*_COLOURS, *options])
        found, _ = count_frames_and_secs(str(path))  # imageio does not ask how ffmpeg ended
        whole = found == sum(counts)
    except (OSError, RuntimeError) as error:  # whose text is ffmpeg's whole command
        raise OSError(f"the encoder {codec} gave no video") from error
    finally:
        if not whole:
            path.unlink(missing_ok=True)
    if not whole:
        raise OSError(f"the encoder {codec} gave {found} of {sum(counts)} frames")
    return path


def _write(
    pictures: Sequence[Image.Image], counts: Sequence[int], path: Path, rate: float, codec: str, options: list[str]
) -> None:
    from imageio.v2 import get_writer

    writer = get_writer(
        path,
        format="FFMPEG",
        mode="I",
        fps=rate,
        codec=codec,
        quality=None,  # which the options say
        pixelformat="yuv420p",  # the one that every player knows; it needs even sizes
        macro_block_size=2,
        ffmpeg_log_level="quiet",
        output_params=options,
    )
    with writer:
        for picture, count in zip(pictures, counts, strict=True):
            array = np.asarray(picture.convert("RGB"))
            even = np.pad(array, ((0, array.shape[0] % 2), (0, array.shape[1] % 2), (0, 0)), mode="edge")
            for _ in range(count):
                writer.append_data(even)


@cache
def _try(kind: str) -> None:
    """Encode two small grey pictures; where it works, it is not tried again."""
    try:
        import imageio.v2  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise VitscopeError(f'a video ({kind}) needs imageio ({error}); pip install "vitscope[video]"') from error
    with tempfile.TemporaryDirectory() as folder:
        try:
            encode([Image.new("RGB", (64, 64), grey) for grey in ("black", "gray")], Path(folder) / f"try.{kind}", 100)
        except OSError as error:
            raise VitscopeError(
                f"a video ({kind}) cannot be made: {error}; pip install --force-reinstall imageio-ffmpeg, or set "
                f"IMAGEIO_FFMPEG_EXE to an ffmpeg that has {KINDS[kind][0]}"
            ) from error
