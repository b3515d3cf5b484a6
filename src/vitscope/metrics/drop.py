"""Faithfulness by the map as a mask: average drop and increase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.metrics.base import Asked, Facts, GridMaps, Pictures, Result, described
from vitscope.metrics.forwards import UNALTERED, Plan, probability
from vitscope.metrics.perturb import replacement
from vitscope.metrics.regions import min_max
from vitscope.metrics.registry import register_metric


@register_metric
@dataclass(frozen=True)
class AverageDrop:
    """Average drop and increase: the probability of the class when the picture is dimmed by its own map.

        drop = max(0, Y - O) / Y        increase = 1 where O > Y, else 0

    with Y of the picture, O of the picture times its min-max scaled map. The probability is softmax's, or sigmoid's
    where the model's head declares several labels; a head without probabilities is refused.

    Attributes:
        space: where the picture is multiplied: "raw" pixels, which fade to black, or "normalised" ones, which fade to
            the mean colour.

    Source: Grad-CAM++, Chattopadhay et al. 2018 (1710.11063), section 5.1; there in per cent.
    """

    space: Literal["raw", "normalised"] = "raw"

    facts: ClassVar[tuple[Facts, ...]] = described(
        "drop",
        "forward",
        "none",
        "arXiv 1710.11063",
        {
            "average_drop": ("Average drop of the probability under the map", False),
            "increase": ("Share of pictures whose probability increases", True),
        },
    )
    parameter: ClassVar[str] = ""
    of_probability: ClassVar[bool] = True

    @property
    def asks(self) -> tuple[Asked]:
        """The explained class."""
        return ("explained",)

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """The picture, and the dimmed picture."""
        dimmer = min_max(maps.bilinear).to(pictures.tensor)[:, None]
        black = replacement(pictures, "black" if self.space == "raw" else "zero")

        def alter(step: int, index: Tensor) -> Tensor:
            return black[index] + (pictures.tensor[index] - black[index]) * (dimmer[index] if step else 1)

        return Plan((UNALTERED, None), alter, probability(pictures.explained, pictures.activation))

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """Both values a picture."""
        before, after = scores.unbind(dim=1)
        drop = (before - after).clamp(min=0) / before.clamp(min=torch.finfo(before.dtype).tiny)
        return Result({"average_drop": drop, "increase": (after > before).double()})
