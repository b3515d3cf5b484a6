"""Localization: how well a map lies on what is known to be there. Pure functions of raw maps and masks.

All take maps (b H W), raw, on the pixels of the masks (b H W) bool. Pixels that are NaN, outside the model's crop,
count as no evidence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitscope.errors import VitscopeError

THRESHOLDS = torch.linspace(0, 1, 101)
"""The thresholds of every curve: hundredths, both ends included."""


def iou_curve(values: Tensor, masks: Tensor, thresholds: Tensor = THRESHOLDS) -> Tensor:
    """Intersection over union of mask and thresholded map, at every threshold.

    A map is min-max scaled by itself; a pixel is predicted where the scaled value is at least the threshold. A
    constant map is 0 everywhere: all pixels at threshold 0, none above. A localization result is the whole curve,
    since each method's values are spread in another way (WSOL evaluation, Choe et al. 2020, 2001.07437).

    Args:
        values: (b H W) raw maps.
        masks: (b H W) bool, at least one pixel each.
        thresholds: (t) in [0, 1].

    Returns:
        (b t) float32 in [0, 1].

    Raises:
        VitscopeError: the shapes differ, a mask is empty, or a value is infinite.
    """
    flat, truth = _flat(values, masks)
    low = flat.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    high = flat.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    scaled = ((flat - low) / (high - low).clamp(min=torch.finfo(flat.dtype).tiny)).nan_to_num(nan=0.0)
    # Histograms of threshold bins instead of a mask a threshold: every pixel is placed once.
    bins = torch.searchsorted(thresholds.to(scaled), scaled, right=True)  # how many thresholds it reaches
    count = scaled.new_zeros(2, len(flat), len(thresholds) + 1)
    count[0].scatter_add_(1, bins, torch.ones_like(scaled))
    count[1].scatter_add_(1, bins, truth.to(scaled))
    predicted, hit = count.flip(2).cumsum(dim=2).flip(2)[:, :, 1:]
    iou: Tensor = hit / (predicted + truth.sum(dim=1, keepdim=True) - hit)
    return iou.float()


def energy_in_mask(values: Tensor, masks: Tensor) -> Tensor:
    """Share of a map's positive mass that lies in the mask: the energy-based pointing game.

    Args:
        values: (b H W) raw maps; negative values, evidence against the target, count as 0.
        masks: (b H W) bool, at least one pixel each.

    Returns:
        (b) float32 in [0, 1]; 0 for a map without a positive value.

    Raises:
        VitscopeError: the shapes differ, a mask is empty, or a value is infinite.

    Source: Score-CAM (Wang et al. 2020, 1910.01279), section 4.3, there with boxes.
    """
    flat, truth = _flat(values, masks)
    positive = flat.nan_to_num(nan=0.0).clamp(min=0)
    return ((positive * truth).sum(dim=1) / positive.sum(dim=1).clamp(min=torch.finfo(flat.dtype).tiny)).float()


def _flat(values: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if values.shape != masks.shape or values.ndim != 3:
        raise VitscopeError(
            f"maps {tuple(values.shape)} and masks {tuple(masks.shape)} differ; give both as (b, H, W), the maps "
            "through Attribution.to_pixels()"
        )
    flat, truth = values.flatten(1).double(), masks.flatten(1)
    if bool(flat.isinf().any()):
        raise VitscopeError("a map holds infinite values; compute it in float32 instead of half precision")
    if not bool(truth.any(dim=1).all()):
        raise VitscopeError("a mask is empty; leave out the pictures in which there is nothing to find")
    return flat, truth
