"""A map laid over its photograph, so that both can be read."""

from __future__ import annotations

import dataclasses
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitscope.arrays import as_array
from vitscope.errors import ImageError
from vitscope.images import Geometry
from vitscope.view.palette import colour
from vitscope.view.scale import Values, minmax, symmetric

OPACITY = 0.65
"""How much of the photograph the strongest evidence covers, unless told."""

_RISE = 0.6  # opacity goes with value ** _RISE: below 1, so that middling evidence is seen too
_RISE_SIGNED = 0.85  # steeper, since the palette's near-white around zero would veil a dark photograph
_GREYING = 0.55  # how far the photograph goes towards grey, so that the map's hues are not taken for its own
_DIM = 0.42  # what is left of the photograph's light where the model did not look
_HATCH = 62  # how bright the hatching is, added to the dimmed photograph
_UNIT_PX = 280  # one line width for every so many pixels of the photograph's shorter side
_LEVELS = 65535  # of a normalised map, when it is painted: odd, so that zero has a level of its own


def overlay(
    photo: Image.Image, values: Values, signed: bool, opacity: float = OPACITY, palette: str | None = None
) -> Image.Image:
    """Lay a raw map over its photograph: min-max scaled, or where signed divided by its largest magnitude.

    Args:
        photo: the original picture; other modes become RGB.
        values: (H, W) raw values on the photograph's own pixels, NaN outside the model's crop.
        signed: whether the map is signed: red for the target, blue against it.
        opacity: 0..1, how much the strongest evidence covers; less evidence covers less, none
            nothing: there the photograph is seen, its colours muted.
        palette: a matplotlib palette's name; None takes the house palettes.

    Returns:
        An RGB picture of exactly the photograph's size. Outside the crop the photograph is grey, dim and
        hatched, behind a thin line: unknown, which is not the same as no evidence.

    Raises:
        ImageError: the map is not of the photograph's size.
        FlatMapError: a value is infinite.
        VitscopeError: no palette has this name, or the opacity is not in 0..1.
    """
    return Ground(photo).overlay(values, signed, opacity, palette)


def blend(
    photo: Image.Image, shares: Values, signed: bool, opacity: float = OPACITY, palette: str | None = None
) -> Image.Image:
    """Lay a map that is normalised already over its photograph; as `overlay`, but nothing is rescaled.

    Args:
        photo: the original picture; other modes become RGB.
        shares: (H, W) in [0, 1], or in [-1, 1] where signed, NaN outside the crop; clipped to that range.
        signed: whether zero is the centre of the scale.
        opacity: 0..1, how much a share of 1 covers.
        palette: a matplotlib palette's name; None takes the house palettes.

    Returns:
        An RGB picture of exactly the photograph's size.

    Raises:
        ImageError: the map is not of the photograph's size.
        VitscopeError: no palette has this name, or the opacity is not in 0..1.
    """
    return Ground(photo).under(shares, signed, opacity, palette)


class Ground:
    """A photograph made ready for maps of its size: what all of them share is drawn once.

    Attributes:
        photo: as RGB.
    """

    def __init__(self, photo: Image.Image) -> None:
        self.photo = photo.convert("RGB")
        self._unseen: tuple[NDArray[np.bool_], Image.Image, Image.Image] | None = None

    def overlay(
        self, values: Values, signed: bool, opacity: float = OPACITY, palette: str | None = None
    ) -> Image.Image:
        """The photograph under a raw map; as `overlay`."""
        return self.under(symmetric(values) if signed else minmax(values), signed, opacity, palette)

    def under(self, shares: Values, signed: bool, opacity: float = OPACITY, palette: str | None = None) -> Image.Image:
        """The photograph under a normalised map; as `blend`."""
        if tuple(shares.shape) != (self.photo.height, self.photo.width):
            raise ImageError(mismatch(shares, self.photo))
        if not 0 <= opacity <= 1:
            raise ImageError(f"opacity is {opacity}; choose a number from 0 to 1")
        plain = as_array(shares)
        colours = _paint(signed, opacity, palette)[_level(plain, signed)]
        painted = Image.fromarray(colours.view(np.uint8).reshape(*colours.shape, 4))
        result = self._quiet.copy()
        result.paste(painted, mask=painted)
        outside = np.isnan(plain)
        if outside.any():
            unseen, mask = self._outside(outside)
            result.paste(unseen, mask=mask)
        return result

    @cached_property
    def _quiet(self) -> Image.Image:
        return Image.blend(self.photo, self.photo.convert("L").convert("RGB"), _GREYING)

    def _outside(self, outside: NDArray[np.bool_]) -> tuple[Image.Image, Image.Image]:
        """The photograph as it is shown outside of the crop, with the crop's border, and where that is."""
        if self._unseen is None or not np.array_equal(self._unseen[0], outside):
            unseen = _hatched(self.photo)
            unseen.paste((245, 245, 245), mask=_mask(_near(~outside, _line(unseen.size)) & outside))
            self._unseen = outside, unseen, _mask(outside)
        return self._unseen[1:]


def _level(shares: NDArray[Any], signed: bool) -> NDArray[np.uint16]:
    """Each value's place in what `_paint` gives; that of NaN is any."""
    half = (_LEVELS - 1) / 2
    levels = shares * half + (half + 0.5) if signed else shares * (2 * half) + 0.5
    np.fmin(np.fmax(levels, 0, out=levels), _LEVELS - 1, out=levels)
    found: NDArray[np.uint16] = levels.astype(np.uint16)
    return found


@lru_cache(maxsize=16)
def _paint(signed: bool, opacity: float, palette: str | None) -> NDArray[np.uint32]:
    """The colour of every level, and how much it covers: RGBA, the four bytes as one number, (levels)."""
    shares = np.linspace(-1.0 if signed else 0.0, 1.0, _LEVELS)
    cover = np.rint(np.abs(shares) ** (_RISE_SIGNED if signed else _RISE) * (255 * opacity)).astype(np.uint8)
    painted = np.concatenate([colour(shares[:, None], signed, palette), cover[:, None, None]], axis=-1)
    found: NDArray[np.uint32] = np.ascontiguousarray(painted).view(np.uint32).reshape(-1)
    found.flags.writeable = False
    return found


def fit(shares: Values, size: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a map to a display size; a pixel is outside where its centre is.

    Args:
        shares: (H, W), NaN outside.
        size: (h, w) in pixels, smaller or larger than the map.

    Returns:
        (h, w) float32, NaN outside: means over areas when shrinking, bilinear when growing.
    """
    plain = as_array(shares).astype(np.float32, copy=False)
    if plain.shape == size:
        return plain
    shrinks = size[0] <= plain.shape[0] and size[1] <= plain.shape[1]
    mean = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR

    def resampled(values: NDArray[np.float32], how: Image.Resampling = mean) -> NDArray[np.float32]:
        return np.asarray(Image.fromarray(values).resize((size[1], size[0]), how))

    outside = np.isnan(plain)
    if not outside.any():
        return resampled(plain)
    inside = (~outside).astype(np.float32)
    total, weight = resampled(np.where(outside, np.float32(0), plain)), resampled(inside)
    seen = (resampled(inside, Image.Resampling.NEAREST) > 0) & (weight > 0)
    return np.divide(total, weight, out=np.full(size, np.nan, np.float32), where=seen)


def at_size(
    photo: Image.Image, geometry: Geometry, maps: Values, longest: int
) -> tuple[Image.Image, NDArray[np.float32]]:
    """Bring a photograph, and maps on the patch grid, to a longest side in pixels.

    Args:
        photo: the original picture.
        geometry: where the patch grid lies on it.
        maps: (m rows cols) raw.
        longest: in pixels, smaller or larger than the photograph.

    Returns:
        The photograph, and the maps on its pixels (m h w), NaN outside the crop.
    """
    width, height = picture_size(photo, longest)
    scaled = dataclasses.replace(geometry, original=(height, width))
    return resized(photo, longest), scaled.on_pixels(as_array(maps))


def resized(photo: Image.Image, longest: int) -> Image.Image:
    """A photograph brought to a longest side in pixels; itself where it has it."""
    size = picture_size(photo, longest)
    return photo if photo.size == size else photo.resize(size, Image.Resampling.LANCZOS)


def picture_size(photo: Image.Image, longest: int) -> tuple[int, int]:
    """The (width, height) of a photograph brought to a longest side, each at least 1 pixel."""
    ratio = longest / max(photo.size)
    return max(1, round(photo.width * ratio)), max(1, round(photo.height * ratio))


def mismatch(values: Values, photo: Image.Image) -> str:
    """The words for a map, or frames, of another size than their photograph."""
    return (
        f"the map is {' x '.join(map(str, values.shape))} and the photograph {photo.height} x {photo.width} "
        "(rows, columns); "
        "bring it to the photograph's pixels with Attribution.to_pixels()"
    )


def _hatched(photo: Image.Image) -> Image.Image:
    """The photograph where the model did not look: grey, dim, with thin diagonal lines."""
    grey = np.asarray(photo.convert("L"), dtype=np.float32) * _DIM
    line = _line(photo.size)
    period = 7.0 * line + 2.0
    diagonal = np.arange(photo.height + photo.width - 1)
    distance = np.abs(diagonal % period - period / 2)  # smooth edges, not jagged
    hatch = (_HATCH * np.clip(line * 0.6 + 0.5 - distance, 0.0, 1.0)).astype(np.float32)
    grey += np.lib.stride_tricks.sliding_window_view(hatch, photo.width)
    return Image.fromarray(np.minimum(grey, 255).astype(np.uint8)).convert("RGB")


def _near(inside: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Where there is an inside at most so many rows and columns away."""
    for _ in range(2):  # along the rows, then along the columns
        counted = np.cumsum(np.pad(inside, ((0, 0), (reach + 1, reach))), axis=1, dtype=np.int32)
        inside = (counted[:, 2 * reach + 1 :] > counted[:, : -2 * reach - 1]).T
    return inside


def _line(size: tuple[int, int]) -> int:
    """The width of a thin line, in pixels, for a picture of this size."""
    return max(1, round(min(size) / _UNIT_PX))


def _mask(where: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(where.astype(np.uint8) * 255)
