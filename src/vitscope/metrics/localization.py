"""Localization: how well a map lies on what is known to be there. Pure functions of raw maps and masks.

All take maps (b H W), raw, on the pixels of the masks (b H W) bool. Pixels that are NaN, outside the model's crop,
count as no evidence.
"""

from __future__ import annotations

import numpy as np
import scipy
import torch
from torch import Tensor

from vitscope.metrics.regions import checked, min_max

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
    flat, truth = checked(values, masks)
    scaled = min_max(values).flatten(1)
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

    Example:
        >>> energy_in_mask(torch.tensor([[[3.0, 1.0], [-2.0, 0.0]]]), torch.tensor([[[True, False], [True, False]]]))
        tensor([0.7500])

    Args:
        values: (b H W) raw maps; negative values, evidence against the target, count as 0.
        masks: (b H W) bool, at least one pixel each.

    Returns:
        (b) float32 in [0, 1]; 0 for a map without a positive value.

    Raises:
        VitscopeError: the shapes differ, a mask is empty, or a value is infinite.

    Source: Score-CAM (Wang et al. 2020, 1910.01279), section 4.3, there with boxes.
    """
    flat, truth = checked(values, masks)
    positive = flat.nan_to_num(nan=0.0).clamp(min=0)
    return ((positive * truth).sum(dim=1) / positive.sum(dim=1).clamp(min=torch.finfo(flat.dtype).tiny)).float()


def overlap(predicted: Tensor, truth: Tensor, eps: float = 1e-5) -> dict[str, Tensor]:
    """Pixel accuracy, IoU, Dice, precision and recall of masks.

    Args:
        predicted, truth: (b H W) bool.
        eps: added to every numerator and denominator, as in the official code; so nothing predicted has precision 1.

    Returns:
        name -> (b) float64 in [0, 1].

    Source: AG-CAM (2402.04563), table 1.
    """
    p, t = predicted.flatten(1), truth.flatten(1)
    hit, right = (p & t).sum(dim=1).double(), (p == t).sum(dim=1).double()
    predictions, positives = p.sum(dim=1).double(), t.sum(dim=1).double()

    def share(part: Tensor, whole: Tensor) -> Tensor:
        return (part + eps) / (whole + eps)

    return {
        "pixel_accuracy": share(right, torch.full_like(right, p.shape[1])),
        "iou": share(hit, predictions + positives - hit),
        "dice": share(2 * hit, predictions + positives),
        "precision": share(hit, predictions),
        "recall": share(hit, positives),
    }


def pointing(values: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """Whether a map's highest pixel lies in the mask, or no further than `tolerance` pixels from it.

    Several highest pixels count as the share of them that hit, so that a constant map is worth the mask's area (our
    reading; the paper's maps have one).

    Args:
        values: (b H W) raw maps; NaN is never the highest.
        masks: (b H W) bool, at least one pixel each.
        tolerance: Euclidean, in pixels; the paper's is 15.

    Returns:
        (b) float64 in [0, 1].

    Raises:
        VitscopeError: as `iou_curve`.

    Source: the pointing game, Zhang et al. 2016 (1608.00507), section 4.1.
    """
    flat, truth = checked(values, masks)
    if tolerance:
        away = [scipy.ndimage.distance_transform_edt(~mask) for mask in masks.cpu().numpy()]
        truth = torch.from_numpy(np.stack(away) <= tolerance).flatten(1).to(flat.device)
    flat = flat.nan_to_num(nan=-torch.inf)
    top = flat == flat.amax(dim=1, keepdim=True)
    return (top & truth).sum(dim=1).double() / top.sum(dim=1)


def average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """Area under precision over recall, sum_n (R_n - R_{n-1}) P_n over the distinct scores.

    Args:
        scores: (b p) higher is more likely true.
        truth: (b p) bool, at least one true each.

    Returns:
        (b) float64 in [0, 1].
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    sorted_scores, sorted_truth = scores.gather(1, order), truth.gather(1, order).double()
    hits = sorted_truth.cumsum(dim=1)
    count = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    # Pixels of equal score enter together: each has the precision of the last of its group.
    last = torch.ones_like(sorted_truth, dtype=torch.bool)
    last[:, :-1] = sorted_scores[:, 1:] != sorted_scores[:, :-1]
    end = torch.where(last, count - 1, scores.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    precision = (hits / count).gather(1, end)
    return (precision * sorted_truth).sum(dim=1) / hits[:, -1]
