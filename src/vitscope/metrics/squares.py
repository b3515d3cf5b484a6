"""Faithfulness by random squares: box sensitivity, infidelity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.errors import MetricError
from vitscope.metrics.base import Asked, Facts, GridMaps, Pictures, Result, described
from vitscope.metrics.forwards import UNALTERED, Plan, logit
from vitscope.metrics.perturb import Fill, replacement
from vitscope.metrics.registry import register_metric
from vitscope.metrics.similarity import pearson


@register_metric
@dataclass(frozen=True)
class BoxSensitivity:
    """CDAM's box sensitivity: random squares are replaced, and the logit's drop is held against the importance inside.

        r = corr over squares of ( sum of the map inside, f(x) - f(x with the square replaced) )

    The squares are the same for all methods, so all of them together cost `squares` forwards a picture.

    Attributes:
        fill: "blur" of radius 14, or "zero"; the paper has both.
        squares: how many a picture.
        smallest, largest: their sides, drawn uniformly, as shares of the picture's shorter side (unknown).
        radius: of the blur: its standard deviation in pixels.
        seed: of the squares.

    Source: Brocki et al. (2312.02364), correctness benchmarks.
    """

    fill: Fill = "blur"
    squares: int = 100
    smallest: float = 0.1
    largest: float = 0.5
    radius: float = 14.0
    seed: int = 0

    facts: ClassVar[tuple[Facts, ...]] = described(
        "box_sensitivity",
        "forward",
        "none",
        "arXiv 2312.02364",
        {"pearson": ("Correlation of importance in a square and the logit's drop", True)},
        limits=(-1.0, 1.0),
    )
    parameter: ClassVar[str] = "fill"

    def __post_init__(self) -> None:
        if self.squares < 2 or not 0 < self.smallest <= self.largest <= 1:
            raise MetricError(
                f"box_sensitivity: {self.squares} squares of {self.smallest:g} to {self.largest:g} of the side are "
                "impossible; give 2 or more, and shares above 0 and up to 1"
            )

    @property
    def asks(self) -> tuple[Asked]:
        """The explained class."""
        return ("explained",)

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """The pictures as they are, then a square each step."""
        places = squares_of(pictures, self.squares, self.smallest, self.largest, self.seed)
        return _covering(pictures, places, self.fill, self.radius)

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """A correlation a picture; NaN where the map or the drops are constant over the squares."""
        places = squares_of(pictures, self.squares, self.smallest, self.largest, self.seed)
        inside = sums_inside(maps.nearest.double().cpu(), places)
        drops = scores[:, :1] - scores[:, 1:]
        return Result({"pearson": pearson(inside[:, None], drops[:, None])})


@register_metric
@dataclass(frozen=True)
class Infidelity:
    """Infidelity: how far the map, as a linear model of the alterations, is from the logit's change.

        INFD = E_I ( beta <I, map> - (f(x) - f(x - I)) )^2

    with I = x - replacement within a random square (the paper's square removal), the map the same in every channel.

    Attributes:
        squares: how many a picture.
        scaled: beta is the best for each picture, E(<I, map> df) / E(<I, map>^2), since maps have units of their own;
            else 1.
        fill: what removal leaves.
        smallest, largest: the squares' sides as shares of the picture's shorter side.
        seed: of the squares.

    Source: Yeh et al. 2019 (1901.09392), Definition 2.1 and section 2.3.
    """

    squares: int = 50
    scaled: bool = True
    fill: Fill = "zero"
    smallest: float = 0.1
    largest: float = 0.5
    seed: int = 0

    facts: ClassVar[tuple[Facts, ...]] = described(
        "infidelity",
        "forward",
        "none",
        "arXiv 1901.09392",
        {"infidelity": ("Infidelity, in squared logits", False)},
        limits=(0.0, float("inf")),
    )
    parameter: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.squares < 1 or not 0 < self.smallest <= self.largest <= 1:
            raise MetricError(
                f"infidelity: {self.squares} squares of {self.smallest:g} to {self.largest:g} of the side are "
                "impossible; give 1 or more, and shares above 0 and up to 1"
            )

    @property
    def asks(self) -> tuple[Asked]:
        """The explained class."""
        return ("explained",)

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """The pictures as they are, then a square each step."""
        places = squares_of(pictures, self.squares, self.smallest, self.largest, self.seed)
        return _covering(pictures, places, self.fill, 14.0)

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """A value a picture."""
        places = squares_of(pictures, self.squares, self.smallest, self.largest, self.seed)
        change = (pictures.tensor - replacement(pictures, self.fill)).sum(dim=1).double().cpu()
        said = sums_inside(change * maps.nearest.double().cpu(), places)
        drops = scores[:, :1] - scores[:, 1:]
        if self.scaled:
            power = (said**2).mean(dim=1, keepdim=True)
            said = said * torch.where(power > 0, (said * drops).mean(dim=1, keepdim=True) / power, 0.0)
        return Result({"infidelity": ((said - drops) ** 2).mean(dim=1)})


def squares_of(pictures: Pictures, count: int, smallest: float, largest: float, seed: int) -> Tensor:
    """Random squares within every picture, (b s 3) int64: top, left, side in pixels; sides and places uniform.

    Raises:
        MetricError: the pictures have no keys.
    """
    height, width = pictures.size
    low, high = (max(1, round(share * min(height, width))) for share in (smallest, largest))
    drawn = []
    for generator in pictures.generators(seed, "squares"):
        side = torch.randint(low, high + 1, (count,), generator=generator)
        at = torch.rand(2, count, generator=generator, dtype=torch.float64)
        top, left = ((at[i] * (full - side + 1)).long() for i, full in enumerate((height, width)))
        drawn.append(torch.stack([top, left, side], dim=1))
    return torch.stack(drawn)


def sums_inside(values: Tensor, places: Tensor) -> Tensor:
    """Sum of maps (b H W) inside squares (b s 3), (b s)."""
    total = torch.nn.functional.pad(values.cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0)).flatten(1)
    top, left, side = places.unbind(dim=2)
    width = values.shape[2] + 1
    corners = [total.gather(1, y * width + x) for y in (top, top + side) for x in (left, left + side)]
    return corners[3] - corners[2] - corners[1] + corners[0]


def _covering(pictures: Pictures, places: Tensor, fill: Fill, radius: float) -> Plan:
    """The pictures as they are, then one square replaced a step; read: the explained class's logit."""
    into = replacement(pictures, fill, radius)
    height, width = pictures.size
    device = pictures.tensor.device
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    where = places.to(device)

    def alter(step: int, index: Tensor) -> Tensor:
        if step == 0:
            return pictures.tensor[index]
        top, left, side = where[index, step - 1, :, None, None].unbind(dim=1)
        inside = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
        return torch.where(inside[:, None], into[index], pictures.tensor[index])

    keys = [("square", fill, radius, *places[:, step].flatten().tolist()) for step in range(places.shape[1])]
    return Plan((UNALTERED, *keys), alter, logit(pictures.explained))
