"""Maps to regions: scaling, thresholds, connected components and their boxes. Boxes are x0, y0, x1, y1 in whole pixels,
both ends included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitscope.errors import VitscopeError
from vitscope.images import Geometry

_EIGHT = np.ones((3, 3), dtype=bool)
"""Neighbours over corners count, as in the following of contours."""


def min_max(values: Tensor) -> Tensor:
    """Each map scaled to 0..1 by itself, (b H W) float64; a constant map is 0, and so is NaN.

    Args:
        values: (b H W) raw maps.
    """
    flat = values.flatten(1).double()
    low = flat.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    high = flat.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    scaled = (flat - low) / (high - low).clamp(min=torch.finfo(flat.dtype).tiny)
    return scaled.nan_to_num(nan=0.0).view(values.shape)


def boxes_on_input(boxes: Tensor, geometry: Geometry) -> Tensor:
    """Boxes of the original picture on the model's input: scaled, truncated to whole pixels, cut at the edges.

    Args:
        boxes: (k 4), x0, y0, x1, y1 in pixels of the original.
        geometry: where the input lies on it.

    Returns:
        (k 4) int64, both ends included; boxes that lie outside of the crop are left out.

    Source: AG-CAM (2402.04563), official code. With a crop, our reading: its corner is taken off after truncation.
    """
    top, left, height, width = map(round, geometry.crop)
    tall, wide = (new / old for new, old in zip(geometry.resized, geometry.original, strict=True))
    scaled = (boxes.double() * torch.tensor([wide, tall, wide, tall], dtype=torch.float64) + 1e-9).floor().long()
    scaled -= torch.tensor([left, top, left, top])
    meets = (scaled[:, 0] < width) & (scaled[:, 1] < height) & (scaled[:, 2] >= 0) & (scaled[:, 3] >= 0)
    ends = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    return scaled[meets].clamp(min=torch.zeros(4, dtype=torch.long), max=ends)


def painted(boxes: Tensor | Sequence[Sequence[int]], size: tuple[int, int]) -> Tensor:
    """The union of boxes (k 4), both ends included, as a mask (H W) bool; what lies beyond the edges is cut off."""
    mask = torch.zeros(size, dtype=torch.bool)
    for left, top, right, bottom in boxes.tolist() if isinstance(boxes, Tensor) else boxes:
        mask[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = True
    return mask


def component_boxes(mask: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """The tight box of every connected component (8 neighbours) of a mask (H W), those within others' holes too."""
    labelled, _ = scipy.ndimage.label(mask, structure=_EIGHT)
    return [(x.start, y.start, x.stop - 1, y.stop - 1) for y, x in scipy.ndimage.find_objects(labelled)]


def largest_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The tight box of a mask's (H W) largest component (8 neighbours), the first of equals; None where it is empty."""
    labelled, count = scipy.ndimage.label(mask, structure=_EIGHT)
    if not count:
        return None
    largest = int(np.bincount(labelled.ravel())[1:].argmax()) + 1
    y, x = scipy.ndimage.find_objects(labelled)[largest - 1]
    return x.start, y.start, x.stop - 1, y.stop - 1


def box_iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of boxes (k 4) and boxes (m 4), both ends included, (k m) float64."""
    low = torch.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = (high - low + 1).clamp(min=0).prod(dim=-1).double()
    areas = [(part[:, 2:] - part[:, :2] + 1).prod(dim=-1).double() for part in (boxes, truth)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def checked(values: Tensor, masks: Tensor, *, empty: bool = False) -> tuple[Tensor, Tensor]:
    """Maps and masks of one shape (b H W), flat: (b p) float64 and (b p) bool.

    Raises:
        VitscopeError: the shapes differ, a value is infinite, or a mask is empty where that is not allowed.
    """
    if values.shape != masks.shape or values.ndim != 3:
        raise VitscopeError(
            f"maps {tuple(values.shape)} and masks {tuple(masks.shape)} differ; give both as (b, H, W), the maps "
            "through Attribution.to_pixels()"
        )
    flat, truth = values.flatten(1).double(), masks.flatten(1)
    if bool(flat.isinf().any()):
        raise VitscopeError("a map holds infinite values; compute it in float32 instead of half precision")
    if not empty and not bool(truth.any(dim=1).all()):
        raise VitscopeError("a mask is empty; leave out the pictures in which there is nothing to find")
    return flat, truth
