"""Masks of the original picture, brought to the pixels of a model's input; boxes: `metrics.boxes_on_input`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitscope.datasets.record import BACKGROUND
from vitscope.errors import DatasetError
from vitscope.images import Geometry


def mask_to_input(mask: NDArray[np.generic], geometry: Geometry, outside: int = BACKGROUND) -> NDArray[np.generic]:
    """A mask on the input's pixels: resized by the nearest pixel, then cut.

    Args:
        mask: (H W) bool or uint8, of the original's size.
        geometry: of the picture's way to the input.
        outside: the value where the input reaches beyond the picture.

    Returns:
        (h w) of the same type.

    Raises:
        DatasetError: another size, or another type.
    """
    if mask.shape != geometry.original or mask.dtype not in (np.bool_, np.uint8):
        raise DatasetError(
            f"a mask {mask.shape} of {mask.dtype} for a picture {geometry.original}; give bool or uint8 of its size"
        )
    rows, cols = geometry.resized
    top, left, height, width = map(round, geometry.crop)
    resized = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((cols, rows), Image.Resampling.NEAREST))
    out = np.full((height, width), outside, dtype=np.uint8)
    seen = resized[max(top, 0) : top + height, max(left, 0) : left + width]
    below, right = max(-top, 0), max(-left, 0)
    out[below : below + seen.shape[0], right : right + seen.shape[1]] = seen
    return out.astype(mask.dtype)
