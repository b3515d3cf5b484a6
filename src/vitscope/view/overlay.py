"""A map laid over its photograph, so that both can be read."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitscope.errors import ImageError
from vitscope.images import Geometry
from vitscope.view.palette import colour
from vitscope.view.scale import minmax, symmetric

OPACITY = 0.65
"""How much of the photograph the strongest evidence covers, unless told."""

_RISE = 0.6  # opacity goes with value ** _RISE: below 1, so that middling evidence is seen too
_RISE_SIGNED = 0.85  # steeper, since the palette's near-white around zero would veil a dark photograph
_GREYING = 0.55  # how far the photograph goes towards grey, so that the map's hues are not taken for its own
_DIM = 0.42  # what is left of the photograph's light where the model did not look
_HATCH = 62  # how bright the hatching is, added to the dimmed photograph
_UNIT_PX = 280  # one line width for every so many pixels of the photograph's shorter side


def overlay(
    photo: Image.Image, values: Tensor, signed: bool, opacity: float = OPACITY, palette: str | None = None
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
    plain = values.detach().to("cpu", torch.float32)
    return blend(photo, symmetric(plain) if signed else minmax(plain), signed, opacity, palette)


def blend(
    photo: Image.Image, shares: Tensor, signed: bool, opacity: float = OPACITY, palette: str | None = None
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
    if tuple(shares.shape) != (photo.height, photo.width):
        raise ImageError(mismatch(shares, photo))
    if not 0 <= opacity <= 1:
        raise ImageError(f"opacity is {opacity}; choose a number from 0 to 1")
    base = photo.convert("RGB")
    quiet = Image.blend(base, base.convert("L").convert("RGB"), _GREYING)
    plain = shares.detach().to("cpu", torch.float32)
    outside = plain.isnan().numpy()
    rise = _RISE_SIGNED if signed else _RISE
    share = (plain.abs() if signed else plain).nan_to_num(0.0).clamp(0, 1)
    cover = (share**rise * (255 * opacity)).round().to(torch.uint8).numpy()
    painted = Image.fromarray(colour(shares, signed, palette))
    result = Image.composite(painted, quiet, Image.fromarray(cover))
    if outside.any():
        result.paste(_unseen(base), mask=_mask(outside))
        _frame(result, outside)
    return result


def fit(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a normalised map to a display size; a pixel is outside where most of what it covers is.

    Args:
        shares: (H, W), NaN outside.
        size: (h, w) in pixels, smaller or larger than the map.

    Returns:
        (h, w) float32, NaN outside: means over areas when shrinking, bilinear when growing.
    """
    plain = shares.detach().to("cpu", torch.float32)
    if tuple(plain.shape) == size:
        return plain
    inside = (~plain.isnan()).float()
    stacked = torch.stack([plain.nan_to_num(0.0) * inside, inside])[None]
    shrinks = size[0] <= plain.shape[0] and size[1] <= plain.shape[1]
    small = F.interpolate(stacked, size, mode="area") if shrinks else F.interpolate(stacked, size, mode="bilinear")
    total, weight = small[0]
    return torch.where(weight >= 0.5, total / weight.clamp(min=1e-6), torch.full_like(total, torch.nan))


def at_size(photo: Image.Image, geometry: Geometry, maps: Tensor, longest: int) -> tuple[Image.Image, Tensor]:
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
    view = photo if photo.size == (width, height) else photo.resize((width, height), Image.Resampling.LANCZOS)
    return view, torch.stack([scaled.to_original(values) for values in maps])


def picture_size(photo: Image.Image, longest: int) -> tuple[int, int]:
    """The (width, height) of a photograph brought to a longest side, each at least 1 pixel."""
    ratio = longest / max(photo.size)
    return max(1, round(photo.width * ratio)), max(1, round(photo.height * ratio))


def mismatch(values: Tensor, photo: Image.Image) -> str:
    """The words for a map, or frames, of another size than their photograph."""
    return (
        f"the map is {' x '.join(map(str, values.shape))} and the photograph {photo.height} x {photo.width} "
        "(rows, columns); "
        "bring it to the photograph's pixels with Attribution.to_pixels()"
    )


def _unseen(photo: Image.Image) -> Image.Image:
    """The photograph where the model did not look: grey, dim, with thin diagonal lines."""
    grey = np.asarray(photo.convert("L"), dtype=np.float32) * _DIM
    line = _line(photo.size)
    period = 7.0 * line + 2.0
    rows, cols = np.ogrid[0 : photo.height, 0 : photo.width]
    distance = np.abs((rows + cols) % period - period / 2).astype(np.float32)  # smooth edges, not jagged
    hatch = np.clip(line * 0.6 + 0.5 - distance, 0.0, 1.0)
    return Image.fromarray(np.clip(grey + _HATCH * hatch, 0, 255).astype(np.uint8)).convert("RGB")


def _frame(picture: Image.Image, outside: NDArray[np.bool_]) -> None:
    """Draw the crop's border into the picture: a bright line on the outside of it."""
    inside = torch.from_numpy(~outside).float()[None, None]
    line = _line(picture.size)
    grown = F.max_pool2d(inside, (2 * line + 1, 1), stride=1, padding=(line, 0))
    grown = F.max_pool2d(grown, (1, 2 * line + 1), stride=1, padding=(0, line))
    near: NDArray[np.bool_] = grown[0, 0].numpy() > 0
    picture.paste((245, 245, 245), mask=_mask(near & outside))


def _line(size: tuple[int, int]) -> int:
    """The width of a thin line, in pixels, for a picture of this size."""
    return max(1, round(min(size) / _UNIT_PX))


def _mask(where: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(where.astype(np.uint8) * 255)
