"""Truth on the original picture, brought to the pixels of a model's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vitscope.datasets.record import BACKGROUND
from vitscope.errors import DatasetError
from vitscope.images import Geometry


def corners_to_input(corners: ArrayLike, geometry: Geometry) -> NDArray[np.float64]:
    """Points of the original in the input's coordinates, not cut: scaled, then moved by the crop.

    Args:
        corners: (n 4), x1 y1 x2 y2 in whatever convention; edges (`Box.edges`) stay edges.
        geometry: of the picture's way to the input (`Preprocessing.__call__`, `Batch.geometries`).

    Returns:
        (n 4).

    Raises:
        DatasetError: not (n 4).
    """
    points = np.asarray(corners, dtype=np.float64)
    points = points.reshape(0, 4) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != 4:
        raise DatasetError(f"boxes of shape {points.shape} are no (n, 4); give x1 y1 x2 y2 of each")
    (height, width), (rows, cols), (top, left, _, _) = geometry.original, geometry.resized, geometry.crop
    scale = np.array([cols / width, rows / height] * 2)
    moved: NDArray[np.float64] = points * scale - np.array([left, top] * 2)
    return moved


def boxes_to_input(edges: ArrayLike, geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The parts of boxes that are in the input.

    Args:
        edges: (n 4), x1 y1 x2 y2 between the original's pixels (`Box.edges`).
        geometry: of the picture's way to the input.

    Returns:
        (m 4), edges between the input's pixels, and (m,) which box each is: those that the crop leaves out are gone.
    """
    moved = corners_to_input(edges, geometry)
    _, _, height, width = geometry.crop
    cut = np.clip(moved, 0, np.array([width, height] * 2))
    left = np.flatnonzero((cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1]))
    return cut[left], left


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
    top, left, height, width = geometry.crop
    resized = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((cols, rows), Image.Resampling.NEAREST))
    out = np.full((height, width), outside, dtype=np.uint8)
    seen = resized[max(top, 0) : top + height, max(left, 0) : left + width]
    below, right = max(-top, 0), max(-left, 0)
    out[below : below + seen.shape[0], right : right + seen.shape[1]] = seen
    return out.astype(mask.dtype)


def paint_boxes(edges: ArrayLike | Sequence[ArrayLike], height: int, width: int) -> NDArray[np.bool_]:
    """The union of boxes (n 4) as a mask (height width): the pixels whose centres lie in one, right and bottom open."""
    boxes = np.asarray(edges, dtype=np.float64).reshape(-1, 4)
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width)[None, :] + 0.5
    out = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        out |= (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    return out
