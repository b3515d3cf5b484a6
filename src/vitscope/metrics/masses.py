"""Localization by masks: IoU over thresholds, pointing games, relevance mass, ImageNet-Segmentation's three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.errors import MetricError
from vitscope.metrics.base import Curve, Facts, GridMaps, Result, Truth, Whole, described
from vitscope.metrics.localization import average_precision, energy_in_mask, iou_curve, pointing
from vitscope.metrics.regions import checked, min_max
from vitscope.metrics.registry import register_metric
from vitscope.metrics.states import BestOnOthers, MeanIoU

Enlarged = Literal["bilinear", "nearest"]


@register_metric
@dataclass(frozen=True)
class ThresholdCurve:
    """IoU of mask and thresholded map over all thresholds: each method spreads its values in its own way.

    `area` is under the curve; the state gives the mean IoU at the best threshold chosen on OTHER pictures.

    Attributes:
        steps: thresholds from 0 to 1, both included.
        positive: whether negative values, evidence against, count as 0; else the map is min-max scaled as it is.
        enlarged: how the map comes to the pixels.

    Source: WSOL evaluation, Choe et al. 2020 (2001.07437), section 4.
    """

    steps: int = 101
    positive: bool = True
    enlarged: Enlarged = "bilinear"

    facts: ClassVar[tuple[Facts, ...]] = (
        *described(
            "curve",
            "map",
            "mask",
            "arXiv 2001.07437",
            {"area": ("Area under IoU over thresholds", True), "oracle": ("IoU at the picture's own best", True)},
        ),
        *described(
            "curve",
            "map",
            "mask",
            "arXiv 2001.07437",
            {
                "best": ("Mean IoU at the threshold chosen on other pictures", True),
                "threshold": ("That threshold", None),
            },
            over_set=True,
        ),
    )
    parameter: ClassVar[str] = ""

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """The curve `iou` (b t), the area under it, its maximum."""
        thresholds = torch.linspace(0, 1, self.steps, dtype=torch.float64)
        pixels = maps.pixels(self.enlarged)
        values = pixels.clamp(min=0) if self.positive else pixels
        curve = iou_curve(values, truth.need("masks", "curve"), thresholds.to(values.device)).cpu().double()
        area = torch.trapezoid(curve, thresholds, dim=1)
        return Result({"area": area, "oracle": curve.amax(dim=1)}, {"iou": Curve(thresholds, curve)})

    def state(self) -> BestOnOthers:
        """What the set's values are made of."""
        return BestOnOthers("iou")


@register_metric
@dataclass(frozen=True)
class PointingGame:
    """Whether the map's highest pixel lies on the thing; see `localization.pointing`.

    Attributes:
        tolerance: pixels beside the thing that still count; the paper's 15.
        enlarged: how the map comes to the pixels. With "nearest" a whole patch is highest, and the share of it on the
            thing counts.
    """

    tolerance: int = 15
    enlarged: Enlarged = "bilinear"

    facts: ClassVar[tuple[Facts, ...]] = described(
        "pointing", "map", "mask", "arXiv 1608.00507", {"hit": ("Pointing game", True)}
    )
    parameter: ClassVar[str] = "tolerance"

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """1 or 0 a picture, or a share where several pixels are highest."""
        masks = truth.need("masks", "pointing")
        return Result({"hit": pointing(maps.pixels(self.enlarged), masks, self.tolerance).cpu()})


@register_metric
@dataclass(frozen=True)
class EnergyPointing:
    """Share of the positive mass that lies on the thing, boxes or mask; see `localization.energy_in_mask`.

    Source: Score-CAM (1910.01279), section 4.3.
    """

    facts: ClassVar[tuple[Facts, ...]] = described(
        "energy", "map", "mask", "arXiv 1910.01279", {"share": ("Energy-based pointing game", True)}
    )
    parameter: ClassVar[str] = ""

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """A share a picture, of the bilinearly enlarged map."""
        return Result({"share": energy_in_mask(maps.bilinear, truth.need("masks", "energy")).cpu().double()})


@register_metric
@dataclass(frozen=True)
class RelevanceMass:
    """Loc: share of the relevance that lies in the mask, patches as they are, so that none of it moves.

    Attributes:
        signs: "positive" values alone, or the "absolute" ones; what the leaderboard does with signs is unknown.

    Source: relevance mass accuracy, Arras et al. 2022 (2003.07258), Eq. 2; "Loc" beside SRG in the leaderboards.
    """

    signs: Literal["positive", "absolute"] = "positive"

    facts: ClassVar[tuple[Facts, ...]] = described(
        "loc", "map", "mask", "arXiv 2003.07258", {"mass": ("Relevance mass in the mask", True)}
    )
    parameter: ClassVar[str] = ""

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """A share a picture; 0 for a map without mass."""
        values = maps.nearest.abs() if self.signs == "absolute" else maps.nearest
        return Result({"mass": energy_in_mask(values, truth.need("masks", "loc")).cpu().double()})


@register_metric
@dataclass(frozen=True)
class ImageNetSegmentation:
    """The three numbers of ImageNet-Segmentation, foreground above the map's mean.

    The map is enlarged bilinearly and min-max scaled. Pixel accuracy and average precision are means over pictures;
    the set's mIoU is counted over all its pixels, background and foreground, and comes from the state.

    Average precision is that of all pixels for both classes together, with the scaled map as the foreground's score and
    one minus it as the background's, as in the official code.

    Source: Chefer, Gur, Wolf 2021 (2012.09838), section 4.2 and official code.
    """

    facts: ClassVar[tuple[Facts, ...]] = (
        *described(
            "segmentation",
            "map",
            "mask",
            "arXiv 2012.09838",
            {
                "pixel_accuracy": ("Pixel accuracy, foreground above the map's mean", True),
                "ap": ("Average precision over pixels and both classes", True),
            },
        ),
        *described(
            "segmentation",
            "map",
            "mask",
            "arXiv 2012.09838",
            {"set_pixel_accuracy": ("Pixel accuracy over the set", True), "miou": ("Mean IoU over the set", True)},
            over_set=True,
        ),
    )
    parameter: ClassVar[str] = ""

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """The two values a picture, and the counts that the state adds up."""
        scaled, thing = checked(min_max(maps.bilinear), truth.need("masks", "segmentation"), empty=True)
        counted = torch.ones_like(thing) if truth.ignored is None else ~truth.ignored.flatten(1)
        above = scaled > scaled.mean(dim=1, keepdim=True)
        parts = {"hits": (above == thing) & counted, "counted": counted}
        for name, p, t in (("thing", above, thing), ("rest", ~above, ~thing)):
            parts |= {f"shared_{name}": p & t & counted, f"joined_{name}": (p | t) & counted}
        sums = {name: part.sum(dim=1).double().cpu() for name, part in parts.items()}
        precision = [
            average_precision(torch.cat([1 - s[c], s[c]])[None], torch.cat([~t[c], t[c]])[None])
            for s, t, c in zip(scaled, thing, counted, strict=True)
        ]
        accuracy = sums["hits"] / sums["counted"]
        return Result({"pixel_accuracy": accuracy, "ap": torch.cat(precision).cpu()}, parts=sums)

    def state(self) -> MeanIoU:
        """What the set's values are made of."""
        return MeanIoU()


@register_metric
@dataclass(frozen=True)
class GridPointing:
    """Share of the positive mass in the asked class's cell of a 2 x 2 mosaic of pictures of different classes.

    The truth's masks are the cells; `mosaics` makes pictures and cells. A map that knows nothing has 0.25.

    Source: the grid pointing game, Böhle, Fritz, Schiele 2021 (2104.00032), section 4.
    """

    facts: ClassVar[tuple[Facts, ...]] = described(
        "grid_pointing", "map", "mask", "arXiv 2104.00032", {"share": ("Grid pointing game, 2 x 2", True)}
    )
    parameter: ClassVar[str] = ""
    whole: ClassVar[Whole] = "mosaics"

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """A share a picture, patches as they are; 0 for a map without positive mass."""
        return Result({"share": energy_in_mask(maps.nearest, truth.need("masks", "grid_pointing")).cpu().double()})


@dataclass(frozen=True)
class Mosaics:
    """Mosaics of four pictures, each asked for all its four classes.

    Attributes:
        tensor: (4g 3 H W), every mosaic four times in a row.
        labels: (4g) the class that is asked.
        cells: (4g H W) bool, where its picture lies.
    """

    tensor: Tensor
    labels: Tensor
    cells: Tensor


def mosaics(pictures: Tensor, labels: Sequence[int], size: tuple[int, int] | None = None) -> Mosaics:
    """Fours of pictures in a 2 x 2 grid, in the order given; each four must be of different classes.

    Args:
        pictures: (4g 3 H W) normalised.
        labels: their classes.
        size: (height, width) of a mosaic; None: of one picture, each of the four shrunk by half (antialiased bilinear),
            for models of one input size. The paper keeps the pictures' size, here (2H, 2W).

    Raises:
        MetricError: not fours, two of one class in a four, or a size that is not even.
    """
    if len(pictures) % 4 or len(pictures) != len(labels) or not len(pictures):
        raise MetricError(f"{len(pictures)} pictures with {len(labels)} labels are no fours; give 4, 8, 12, ...")
    height, width = size or tuple(pictures.shape[-2:])
    if height % 2 or width % 2:
        raise MetricError(f"a mosaic of {height} x {width} has no middle; give even sides")
    if any(len(set(labels[start : start + 4])) < 4 for start in range(0, len(labels), 4)):
        raise MetricError("two pictures of a mosaic are of one class; give fours of different classes")
    half = (height // 2, width // 2)
    small = pictures
    if tuple(pictures.shape[-2:]) != half:
        small = F.interpolate(pictures, half, mode="bilinear", antialias=True)
    fours = small.unflatten(0, (-1, 4))
    whole = torch.cat([torch.cat([fours[:, a], fours[:, a + 1]], dim=-1) for a in (0, 2)], dim=-2)
    cells = torch.zeros(4, height, width, dtype=torch.bool)
    for index in range(4):
        y, x = divmod(index, 2)
        cells[index, y * half[0] : (y + 1) * half[0], x * half[1] : (x + 1) * half[1]] = True
    return Mosaics(whole.repeat_interleave(4, dim=0), torch.tensor(labels), cells.repeat(len(fours), 1, 1))
