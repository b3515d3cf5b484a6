"""Compactness: how much of a map is next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitscope.metrics.base import Facts, GridMaps, Result, Truth, described
from vitscope.metrics.registry import register_metric


@register_metric
@dataclass(frozen=True)
class Compactness:
    """CDAM's compactness: share of the map's values with |s| <= 0.05 max |s|, on the patch grid.

    Attributes:
        below: the share of the largest magnitude up to which a value counts as nothing.

    Source: Brocki et al. (2312.02364), compactness benchmark.
    """

    below: float = 0.05

    facts: ClassVar[tuple[Facts, ...]] = described(
        "compactness", "map", "none", "arXiv 2312.02364", {"share": ("Share of values next to zero", True)}
    )
    parameter: ClassVar[str] = "below"

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """A share a picture."""
        return Result({"share": compactness(maps.values, self.below)})


def compactness(values: Tensor, below: float = 0.05) -> Tensor:
    """Share of values with |s| <= below * max |s|.

    Args:
        values: (b rows cols) raw maps.
        below: in [0, 1].

    Returns:
        (b) float64; 1 for a map of zeros, 0 for another constant map.
    """
    size = values.detach().flatten(1).double().abs()
    return (size <= below * size.amax(dim=1, keepdim=True)).double().mean(dim=1).cpu()
