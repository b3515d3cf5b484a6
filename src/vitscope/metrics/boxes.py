"""Localization by boxes: AG-CAM's protocol, DAAM's, and MaxBoxAccV2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.metrics.base import Curve, Facts, GridMaps, Result, Truth, described
from vitscope.metrics.localization import overlap
from vitscope.metrics.regions import box_iou, component_boxes, largest_box, min_max, painted
from vitscope.metrics.registry import register_metric
from vitscope.metrics.states import MaxOverThresholds

Corner = Literal["beyond", "tight"]
"""How a component's rectangle is painted: "beyond", from x, y to x + width, y + height, that pixel included, as OpenCV
does when `rectangle` is given what `boundingRect` gives; "tight", one row and column less."""


DELTAS = (0.3, 0.5, 0.7)
"""The IoUs that MaxBoxAccV2 asks for."""


@register_metric
@dataclass(frozen=True)
class AGCAMLocalization:
    """AG-CAM's localization: all components' rectangles against the union of the true boxes.

    The map is enlarged bilinearly to the input, min-max scaled and thresholded; the bounding rectangle of every
    external contour is painted as filled, and so is every true box. Contours within another's
    hole would change nothing: their rectangles lie within its own. Of masks that are not boxes (VOC), the mask itself
    is the truth.

    Attributes:
        threshold: a pixel counts where its scaled value is above this.
        corner: see `Corner`. "beyond" gives the official numbers to their fourth digit on ViT-Ti/16, "tight" does not.
        eps: see `localization.overlap`.

    Source: Leem, Seo (2402.04563), section 4.2 and official code. To its letter it takes the predicted class, whole
    pictures resized without a crop, and leaves misclassified pictures out: the preset `agcam`.
    """

    threshold: float = 0.5
    corner: Corner = "beyond"
    eps: float = 1e-5

    facts: ClassVar[tuple[Facts, ...]] = described(
        "agcam",
        "map",
        "mask",
        "arXiv 2402.04563",
        {
            "pixel_accuracy": ("Pixel accuracy of the components' rectangles", True),
            "iou": ("IoU of the components' rectangles", True),
            "dice": ("Dice of the components' rectangles", True),
            "precision": ("Precision of the components' rectangles", True),
            "recall": ("Recall of the components' rectangles", True),
        },
    )
    parameter: ClassVar[str] = "threshold"

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """The five values a picture."""
        masks = truth.need("masks", "agcam")
        above = (_scaled(maps) > self.threshold).cpu().numpy()
        predicted = torch.stack([painted(_cornered(component_boxes(mask), self.corner), maps.size) for mask in above])
        return Result(overlap(predicted, masks.cpu(), self.eps))


@register_metric
@dataclass(frozen=True)
class DAAMLocalization:
    """DAAM's localization: the box of the largest component against the union of the true boxes.

    The paper names neither its threshold nor its box rule; the largest connected component of the min-max scaled map,
    at a low threshold, gives numbers of its size.

    Attributes:
        threshold: a pixel counts where its scaled value is at least this (the paper's is unknown).
        at_least: the IoU from which on a picture counts as found.
        corner: see `Corner`; the paper's is unknown, and this is AG-CAM's, so that the two IoUs compare.

    Source: Liao, Gao, Zhang (2503.14640), table 1.
    """

    threshold: float = 0.05
    at_least: float = 0.5
    corner: Corner = "beyond"

    facts: ClassVar[tuple[Facts, ...]] = described(
        "daam",
        "map",
        "mask",
        "arXiv 2503.14640",
        {
            "iou": ("IoU of the largest component's box", True),
            "accuracy": ("Share of pictures whose largest component's box has IoU >= 0.5", True),
        },
    )
    parameter: ClassVar[str] = "threshold"

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """IoU a picture, and whether it is found."""
        masks = truth.need("masks", "daam")
        boxes = [largest_box(mask) for mask in (_scaled(maps) >= self.threshold).cpu().numpy()]
        predicted = [painted(_cornered([box] if box else [], self.corner), maps.size) for box in boxes]
        iou = overlap(torch.stack(predicted), masks.cpu(), eps=0.0)["iou"]
        return Result({"iou": iou, "accuracy": (iou >= self.at_least).double()})


@register_metric
@dataclass(frozen=True)
class MaxBoxAccuracy:
    """MaxBoxAccV2: whether the best box of any component meets the best true box, over thresholds.

        BoxAcc(tau, delta) = share of pictures with max over components' boxes B(tau), true boxes of IoU >= delta
        MaxBoxAccV2        = mean over delta of max over tau of BoxAcc(tau, delta)

    A picture's `best_iou` is the best match at the best threshold for that picture alone: an upper limit. The curve
    `box_iou` is the best match at each threshold; the metric's state makes the set's values of it.

    Attributes:
        steps: thresholds from 0 to 1, both included.

    Source: Choe et al. 2020 (2007.04178), section 4.
    """

    steps: int = 101

    facts: ClassVar[tuple[Facts, ...]] = (
        *described("maxbox", "map", "boxes", "arXiv 2007.04178", {"best_iou": ("Best box IoU at any threshold", True)}),
        *described(
            "maxbox",
            "map",
            "boxes",
            "arXiv 2007.04178",
            {
                "v2": ("MaxBoxAccV2", True),
                "0.3": ("MaxBoxAcc at IoU 0.3", True),
                "0.5": ("MaxBoxAcc at IoU 0.5", True),
                "0.7": ("MaxBoxAcc at IoU 0.7", True),
            },
            over_set=True,
        ),
    )
    parameter: ClassVar[str] = ""

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """The curve of the best match over thresholds, (b t)."""
        thresholds = torch.linspace(0, 1, self.steps, dtype=torch.float64)
        scaled = _scaled(maps).cpu().numpy()
        rows = []
        for values, boxes in zip(scaled, truth.need("boxes", "maxbox"), strict=True):
            rows.append([_best_match(component_boxes(values >= float(t)), boxes) for t in thresholds])
        curve = torch.tensor(rows, dtype=torch.float64).view(-1, self.steps)
        return Result({"best_iou": curve.amax(dim=1)}, {"box_iou": Curve(thresholds, curve)})

    def state(self) -> MaxOverThresholds:
        """What the set's values are made of."""
        return MaxOverThresholds("box_iou", DELTAS)


def _scaled(maps: GridMaps) -> Tensor:
    """Min-max scaled on the pixels; a constant map has no scale: above 0 it is the whole frame, 1, and else nothing."""
    pixels = maps.bilinear
    flat = pixels.flatten(1)
    constant = (flat.amax(dim=1) == flat.amin(dim=1)) & (flat[:, 0] > 0)
    return torch.where(constant[:, None, None], 1.0, min_max(pixels))


def _best_match(boxes: Sequence[tuple[int, int, int, int]], truth: Tensor) -> float:
    return float(box_iou(torch.tensor(boxes), truth.cpu()).max()) if boxes and len(truth) else 0.0


def _cornered(boxes: Sequence[tuple[int, int, int, int]], corner: Corner) -> list[tuple[int, int, int, int]]:
    more = int(corner == "beyond")
    return [(left, top, right + more, bottom + more) for left, top, right, bottom in boxes]
