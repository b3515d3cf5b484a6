"""Other libraries' preprocessing in this project's terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitscope.errors import ModelError
from vitscope.images import Preprocessing
from vitscope.images.preprocess import CROP_STARTS, INTERPOLATIONS
from vitscope.models.loaded import one_line

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_UNKNOWN_STEPS = {
    "do_pad": "it pads",
    "do_flip_channel_order": "it swaps red and blue",
    "do_thumbnail": "it makes thumbnails",
    "do_align_long_axis": "it turns pictures",
    "do_color_quantize": "it quantises colours",
    "rescale_offset": "its rescaling has an offset",
    "offset": "its rescaling has an offset",
}
_DEGREES = 255.0  # the pixel values' range


def crop_share(crop: int, resize: int) -> float:
    """The `crop_pct` for which timm resizes to exactly `resize` pixels before it cuts out `crop`."""
    share = crop / resize
    while math.floor(crop / share) < resize:  # timm rounds the quotient down
        share = math.nextafter(share, 0)
    return share


def of_processor(processor: Any, name: str) -> Preprocessing:
    """A transformers image processor's work as a `Preprocessing`, held against its own pixels.

    Two pictures of odd sizes go both ways. With the processor's PIL backend they are noise, the resized pixels are the
    same, and the result differs by float32 rounding alone (1e-3 grey levels are allowed). A processor that exists for
    torchvision tensors only resizes in another order and rounds in between: on smooth pictures, which it gets here, it
    differs from PIL by one or two grey levels, on noise by a dozen in one pixel of a hundred.

    Args:
        processor: a transformers image processor.
        name: the model's, for errors.

    Raises:
        ModelError: it does something that a `Preprocessing` cannot say; the text names it.
    """
    kind = type(processor).__name__
    try:
        preprocessing = _translated(processor)
    except _InexpressibleError as error:
        raise ModelError(f"{name}: {kind} cannot be followed: {error}; give preprocessing= of your own") from error
    try:
        difference = _largest_difference(processor, preprocessing)
    except Exception as error:  # processors are free in what they ask for and give
        raise ModelError(
            f"{name}: {kind} cannot be followed: it does not prepare one picture alone ({one_line(error)}); give "
            "preprocessing= of your own"
        ) from error
    levels = 1e-3 if getattr(processor, "backend", "pil") == "pil" else 3.0
    if difference > levels:
        raise ModelError(
            f"{name}: {kind} does more than resize, crop and normalise (its pixels differ by up to "
            f"{difference:.3g} grey levels); give preprocessing= of your own"
        )
    return preprocessing


class _InexpressibleError(Exception):
    """What a `Preprocessing` has no field for."""


def _translated(processor: Any) -> Preprocessing:
    def of(field: str, default: Any = None) -> Any:
        value = getattr(processor, field, default)
        return default if value is None else value

    for field, what in _UNKNOWN_STEPS.items():
        if of(field, False):
            raise _InexpressibleError(f"{what} ({field})")
    if not of("do_resize", False):
        raise _InexpressibleError("it does not resize (do_resize is off), so every picture keeps its own size")
    crop = _size(of("crop_size")) if of("do_center_crop", False) else None
    fields = _resizing(type(processor).__name__, _size(of("size")), crop, of("crop_pct"))
    resample = int(of("resample", 2))
    if resample not in _RESAMPLE:
        raise _InexpressibleError(f"it resamples by {processor.resample}")
    scale = _DEGREES * (float(of("rescale_factor", 1 / _DEGREES)) if of("do_rescale", False) else 1.0)
    normalise = bool(of("do_normalize", False))
    mean, std = (
        [value / scale for value in _three(of(field, default) if normalise else default)]
        for field, default in (("image_mean", 0.0), ("image_std", 1.0))
    )
    return Preprocessing.of_fields(
        **fields, interpolation=_RESAMPLE[resample], mean=mean, std=std, crop_start=CROP_STARTS[1]
    )


def _resizing(kind: str, size: dict[str, int], crop: dict[str, int] | None, share: float | None) -> dict[str, Any]:
    """Size, crop_pct and crop_mode."""
    short = size.get("shortest_edge")
    if kind.startswith("ConvNextImageProcessor") and short and share:
        if short >= 384:
            return {"size": short, "crop_pct": 1.0, "crop_mode": "squash"}
        return {"size": short, "crop_pct": crop_share(short, int(short / share)), "crop_mode": "center"}
    if kind.startswith("LevitImageProcessor") and short:
        short = int((256 / 224) * short)
    if set(size) == {"height", "width"} and size["height"] and size["width"]:
        height, width = size["height"], size["width"]
        target = (height, width) if crop is None else (crop.get("height", 0), crop.get("width", 0))
        if min(target) < 1 or target[0] > height or target[1] > width:
            raise _InexpressibleError(f"it crops {target[0]} x {target[1]} out of {height} x {width} pixels")
        pct = crop_share(target[0], height)
        if math.floor(target[1] / pct) != width:
            raise _InexpressibleError(
                f"it squashes to {height} x {width} and crops {target[0]} x {target[1]}, of another shape"
            )
        return {"size": target, "crop_pct": pct, "crop_mode": "squash"}
    if short and not size.get("longest_edge"):
        if crop is None:
            raise _InexpressibleError(f"it keeps the aspect and does not crop (shortest_edge {short})")
        height, width = crop.get("height", 0), crop.get("width", 0)
        if height != width or not 0 < height <= short:
            raise _InexpressibleError(f"it crops {height} x {width} after resizing the shorter side to {short}")
        return {"size": height, "crop_pct": crop_share(height, short), "crop_mode": "center"}
    raise _InexpressibleError(f"it resizes to {size or 'no size'}")


def _size(size: Any) -> dict[str, int]:
    """A size in any of transformers' forms as a dict of what is set."""
    if isinstance(size, int):
        return {"height": size, "width": size}
    if size is None:
        return {}
    keys = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width", "min_pixels", "max_pixels")
    found = {key: size.get(key) if isinstance(size, dict) else getattr(size, key, None) for key in keys}
    return {key: int(value) for key, value in found.items() if value}


def _three(value: float | Sequence[float]) -> list[float]:
    return [float(value)] * 3 if isinstance(value, int | float) else [float(v) for v in value]


def _largest_difference(processor: Any, preprocessing: Preprocessing) -> float:
    """Between the two ways to prepare noise, in grey levels (0 to 255); infinite where the shapes differ."""
    height, width = preprocessing.size
    noise = np.random.default_rng(0)
    grain = 1 if getattr(processor, "backend", "pil") == "pil" else 16
    worst = 0.0
    for shape in ((2 * height + 11, 3 * width + 7), (height + 35, width // 2 + 9)):
        pixels = noise.integers(0, 256, (shape[0] // grain, shape[1] // grain, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR)
        theirs = torch.as_tensor(np.asarray(processor(picture, return_tensors="np")["pixel_values"][0]))
        ours, _ = preprocessing(picture)
        if theirs.shape != ours.shape:
            return math.inf
        std = torch.tensor(preprocessing.std)[:, None, None]
        worst = max(worst, float(((theirs - ours).abs() * std).max()) * _DEGREES)
    return worst


def of_open_clip(config: dict[str, Any], name: str) -> Preprocessing:
    """open_clip's `preprocess_cfg` as a `Preprocessing`; its pixels are the same, up to float32 rounding.

    Args:
        config: with size, mean, std, interpolation, resize_mode and fill_color.
        name: the model's, for errors.

    Raises:
        ModelError: a way of resizing that a `Preprocessing` cannot say.
    """
    size, mode, interpolation = config["size"], config["resize_mode"], config["interpolation"]
    if mode == "longest":
        raise ModelError(
            f"{name}: pads pictures with the grey level {config['fill_color']} (resize_mode longest), and here padding "
            "has the mean's colour; give preprocessing= of your own"
        )
    if mode not in ("shortest", "squash") or interpolation not in INTERPOLATIONS:
        raise ModelError(f"{name}: resizes by {mode}, {interpolation}; give preprocessing= of your own")
    if mode == "shortest" and not isinstance(size, int) and len(set(size)) > 1:
        raise ModelError(f"{name}: cuts {tuple(size)} out of the resized picture; give preprocessing= of your own")
    return Preprocessing.of_fields(
        size=size if isinstance(size, int) else tuple(size),
        interpolation=interpolation,
        crop_pct=1.0,
        crop_mode="center" if mode == "shortest" else "squash",
        mean=config["mean"],
        std=config["std"],
    )
