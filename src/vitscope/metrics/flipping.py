"""Faithfulness by replacing pixels in a map's order: ABPC, Chefer's perturbation, SRG, MIF/LIF, insertion, deletion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.errors import MetricError
from vitscope.metrics.base import Asked, Curve, Facts, GridMaps, Pictures, Result, described
from vitscope.metrics.forwards import UNALTERED, Plan, hit, logit, probability
from vitscope.metrics.perturb import Fill, all_filled, area, both_ways, order_of, replacement, replacing
from vitscope.metrics.registry import register_metric

Area = Literal["mean", "trapezoid"]


@register_metric
@dataclass(frozen=True)
class ABPC:
    """AG-CAM's area between perturbation curves.

    Fractions 0, 0.1, ... 1 of the pixels are zeroed in normalised space, most relevant first (MoRF) and least relevant
    first (LeRF); the curves are the probability of the true class, over all pictures, whose map it is; ABPC is the mean
    of LeRF - MoRF. The probability is softmax's, or sigmoid's where the model's head declares several labels; a head
    without probabilities is refused.

        ABPC = 1/11 sum_k LeRF(k/10) - MoRF(k/10)

    Attributes:
        steps: how many equal steps; 10 gives the paper's 11 values.
        map_of: the class whose map is taken: the true one, the "label", as in the official code, or the "predicted".
        area: the plain mean of the values as in the paper, or trapezoids.

    Source: Leem, Seo (2402.04563), section 4.3 and official code.
    """

    steps: int = 10
    map_of: Literal["predicted", "label"] = "label"
    area: Area = "mean"

    facts: ClassVar[tuple[Facts, ...]] = (
        *described(
            "abpc",
            "forward",
            "label",
            "arXiv 2402.04563",
            {"abpc": ("Area between perturbation curves", True)},
            limits=(-1.0, 1.0),
        ),
        *described(
            "abpc",
            "forward",
            "label",
            "arXiv 2402.04563",
            {
                "morf": ("Area under the curve, most relevant first", False),
                "lerf": ("Area under the curve, least relevant first", True),
            },
        ),
    )
    parameter: ClassVar[str] = ""
    of_probability: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive(self.steps, "abpc")

    @property
    def asks(self) -> tuple[Asked]:
        """The class whose map is taken."""
        return (self.map_of,)

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """MoRF, then LeRF."""
        read = probability(pictures.classes("label"), pictures.activation)
        return both_ways(pictures, maps, _fractions(self.steps).tolist(), "bilinear", "zero", read)

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """Both areas and their difference."""
        return _between(scores, _fractions(self.steps), self.area, "abpc")


@register_metric
@dataclass(frozen=True)
class CheferPerturbation:
    """Positive and negative perturbation: top-1 accuracy while 10 to 90 % of the pixels turn black.

    Pixels become 0 BEFORE normalisation, most relevant first ("positive", lower is better) or least relevant first
    ("negative", higher is better); a picture hits where its true class stays first.

    Attributes:
        map_of: the class whose map is taken: the "predicted" one or the true one, the "label"; the paper has both.
        area: how the nine hit rates become one: "mean", or "trapezoid" over 0.1 to 0.9, divided by 0.8 so that it stays
            a rate. Which the paper takes is unknown.

    Source: Chefer, Gur, Wolf 2021 (2012.09838), section 4.1.
    """

    map_of: Literal["predicted", "label"] = "predicted"
    area: Area = "mean"

    FRACTIONS: ClassVar[tuple[float, ...]] = tuple(k / 10 for k in range(1, 10))

    facts: ClassVar[tuple[Facts, ...]] = described(
        "chefer",
        "forward",
        "label",
        "arXiv 2012.09838",
        {
            "positive": ("Accuracy, most relevant pixels black", False),
            "negative": ("Accuracy, least relevant pixels black", True),
        },
    )
    parameter: ClassVar[str] = "map_of"

    @property
    def asks(self) -> tuple[Asked]:
        """The class whose map is taken."""
        return (self.map_of,)

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """Positive, then negative."""
        return both_ways(pictures, maps, self.FRACTIONS, "bilinear", "black", hit(pictures.classes("label")))

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """Both rates."""
        fractions = torch.tensor(self.FRACTIONS, dtype=torch.float64)
        positive, negative = scores.chunk(2, dim=1)
        span = 1.0 if self.area == "mean" else float(fractions[-1] - fractions[0])
        return Result(
            {
                "positive": area(positive, fractions, self.area) / span,
                "negative": area(negative, fractions, self.area) / span,
            }
        )


@register_metric
@dataclass(frozen=True)
class SRG:
    """Symmetric relevance gain: patches are occluded with the mean colour, and the class's logit is read.

        SRG = integral over the occluded share of LeRF - MoRF

    Attributes:
        steps: how many; where there are fewer patches, some steps are alike and are run as such.
        fill: "zero" is the mean colour of the training pictures, "mean" each picture's own; which is meant is unknown.
        area: trapezoids, or the plain mean.

    Source: Blücher, Vielhaben, Strodthoff 2024 (2401.06654), section 3; patches in place of superpixels as in the
    leaderboards of vision transformers.
    """

    steps: int = 100
    fill: Fill = "zero"
    area: Area = "trapezoid"

    facts: ClassVar[tuple[Facts, ...]] = described(
        "srg",
        "forward",
        "none",
        "arXiv 2401.06654",
        {
            "srg": ("Symmetric relevance gain, in logits", True),
            "morf": ("Area under the logit, most relevant first", False),
            "lerf": ("Area under the logit, least relevant first", True),
        },
        limits=(float("-inf"), float("inf")),
    )
    parameter: ClassVar[str] = ""

    def __post_init__(self) -> None:
        _positive(self.steps, "srg")

    @property
    def asks(self) -> tuple[Asked]:
        """The explained class."""
        return ("explained",)

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """MoRF, then LeRF."""
        read = logit(pictures.explained)
        return both_ways(pictures, maps, _fractions(self.steps).tolist(), "patch", self.fill, read)

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """Both areas and their difference."""
        return _between(scores, _fractions(self.steps), self.area, "srg")


@register_metric
@dataclass(frozen=True)
class MIFLIF:
    """CDAM's most and least important first: area between the logit's curves.

    Attributes:
        fill: "blur" of radius 14, "zero" or "mean"; the paper has all three.
        steps: into how many equal parts the pixels are divided (the paper's number is unknown).
        radius: of the blur, as Pillow's: its standard deviation in pixels.
        enlarged: how the map comes to the pixels; the paper's is nearest.
        area: trapezoids over the share of pixels, or the plain mean (unknown).

    Source: Brocki et al. (2312.02364), correctness benchmarks.
    """

    fill: Fill = "blur"
    steps: int = 20
    radius: float = 14.0
    enlarged: Literal["bilinear", "nearest"] = "nearest"
    area: Area = "trapezoid"

    facts: ClassVar[tuple[Facts, ...]] = described(
        "mif_lif",
        "forward",
        "none",
        "arXiv 2312.02364",
        {
            "area": ("Area between LIF and MIF, in logits", True),
            "mif": ("Area under the logit, most important first", False),
            "lif": ("Area under the logit, least important first", True),
        },
        limits=(float("-inf"), float("inf")),
    )
    parameter: ClassVar[str] = "fill"

    def __post_init__(self) -> None:
        _positive(self.steps, "mif_lif")

    @property
    def asks(self) -> tuple[Asked]:
        """The explained class."""
        return ("explained",)

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """MIF, then LIF."""
        read = logit(pictures.explained)
        return both_ways(pictures, maps, _fractions(self.steps).tolist(), self.enlarged, self.fill, read, self.radius)

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """Both areas and their difference."""
        found = _between(scores, _fractions(self.steps), self.area, "area").values
        return Result({"area": found["area"], "mif": found["morf"], "lif": found["lerf"]})


@register_metric
@dataclass(frozen=True)
class InsertionDeletion:
    """RISE's insertion and deletion: probability while pixels come into a blurred picture, or go to zero.

        area = trapezoids over the share of pixels, most relevant first

    The probability is softmax's, or sigmoid's where the model's head declares several labels; a head without
    probabilities is refused.

    Attributes:
        steps: into how many equal parts the pixels are divided; the paper moves as many pixels at once as a row has.
        sigma: of the blur that insertion starts from, with the window and the edges of the official code: see `Window`.

    Source: Petsiuk, Das, Saenko 2018 (1806.07421), section 4.3.
    """

    steps: int = 224
    sigma: float = 5.0

    facts: ClassVar[tuple[Facts, ...]] = described(
        "rise",
        "forward",
        "none",
        "arXiv 1806.07421",
        {"insertion": ("Insertion", True), "deletion": ("Deletion", False)},
    )
    parameter: ClassVar[str] = ""
    of_probability: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive(self.steps, "rise")

    @property
    def asks(self) -> tuple[Asked]:
        """The explained class."""
        return ("explained",)

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """Deletion, then insertion."""
        order = [order_of(maps, "most", "bilinear")]
        fractions = _fractions(self.steps).tolist()
        read = probability(pictures.explained, pictures.activation)
        zero, blur = replacement(pictures, "zero"), replacement(pictures, "blur", self.sigma, "padded")
        start = all_filled("blur", self.sigma, "padded")
        ends = (UNALTERED, all_filled("zero"))
        deletion = replacing(pictures, order, fractions, zero, pictures.tensor, ends, read)
        insertion = replacing(pictures, order, fractions, pictures.tensor, blur, (start, UNALTERED), read)
        half = len(deletion)

        def alter(step: int, index: Tensor) -> Tensor:
            return deletion.alter(step, index) if step < half else insertion.alter(step - half, index)

        return Plan(deletion.keys + insertion.keys, alter, read)

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """Both areas."""
        fractions = _fractions(self.steps)
        curves = dict(zip(("deletion", "insertion"), scores.chunk(2, dim=1), strict=True))
        return Result(
            {name: area(curve, fractions, "trapezoid") for name, curve in curves.items()},
            {name: Curve(fractions, curve) for name, curve in curves.items()},
        )


def _between(scores: Tensor, fractions: Tensor, rule: Area, name: str) -> Result:
    """Areas under MoRF and LeRF, their difference under `name`, and both curves."""
    morf, lerf = scores.chunk(2, dim=1)
    values: Mapping[str, Tensor] = {
        name: area(lerf - morf, fractions, rule),
        "morf": area(morf, fractions, rule),
        "lerf": area(lerf, fractions, rule),
    }
    return Result(values, {"morf": Curve(fractions, morf), "lerf": Curve(fractions, lerf)})


def _fractions(steps: int) -> Tensor:
    return torch.arange(steps + 1, dtype=torch.float64) / steps


def _positive(steps: int, group: str) -> None:
    if steps < 1:
        raise MetricError(f"{group}: {steps} steps are none; give 1 or more")
