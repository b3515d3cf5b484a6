"""RISE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.methods.samples import check_samples, weigh, within
from vitscope.recording import AlteredInputs, Recording
from vitscope.trace import Needs, Pictures, Trace

_AT_ONCE = 64


@register_method
@dataclass(frozen=True)
class RISE:
    """RISE (Petsiuk et al., BMVC 2018, arXiv 1806.07421, Eq. 6).

    map[n] = 1 / (p N) sum_i p_y(x * M_i) M_i[n]

    Each M_i is a grid of cells x cells, 1 with probability p, bilinearly enlarged to (cells + 1) times the cells' size
    in pixels, and cut to the picture at a random place (section 3.2). p_y is the class's probability, as there; another
    target, or a class of a head without probabilities, takes part by its value less the lowest of the samples'. M_i[n]
    is the mean over the patch. All pictures get the same masks, so that a map does not depend on its place in the
    batch.

    Attributes:
        masks: N; the paper's number for VGG16, 8000 for ResNet50.
        cells: of a side.
        keep: p.
        seed: of the masks.
        max_forwards: of a picture; of more masks, the first are taken.
    """

    masks: int = 4000
    cells: int = 7
    keep: float = 0.5
    seed: int = 0
    max_forwards: int | None = None

    facts: ClassVar[Facts] = Facts(
        name="rise",
        title="Randomized Input Sampling for Explanation",
        family="perturbation",
        paper="arXiv 1806.07421",
        year=2018,
        signed=False,
        class_specific=True,
        cost="4000 (one a mask)",
        caution="Coarse, and with few masks mostly the noise of which cells were drawn how often.",
        of_rows=False,
        any_network=True,
    )

    def __post_init__(self) -> None:
        check_samples("rise", self.masks, self.max_forwards)
        if self.cells < 2 or not 0 < self.keep < 1:
            raise MethodError(f"rise:cells={self.cells},keep={self.keep}: give at least 2 cells, and 0 < keep < 1")

    @property
    def needs(self) -> Needs:
        """The model, to be run on pictures."""
        return Needs(pictures=True)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The mean of masks, weighted by what they score."""
        pictures = trace.pictures()
        count = within(self.masks, self.max_forwards)
        masks = _Masks(count, self.cells, self.keep, self.seed, pictures.size)
        on_grid = torch.cat(
            [
                pictures.cell_means(masks.some(start, min(start + _AT_ONCE, count))).flatten(1)
                for start in range(0, count, _AT_ONCE)
            ]
        )
        pictures.expect(count * len(pictures.images))
        maps = []
        for index in range(len(pictures.images)):
            scores = _scores(pictures, index, masks, count)
            maps.append(weigh(on_grid, scores, pictures.has_probability()) / (self.keep * count))
        values = torch.stack(maps).unflatten(-1, trace.grid)
        return Maps(values=values.float().to(trace.logits.device))


class _Masks:
    """The random masks, made when they are asked for."""

    def __init__(self, count: int, cells: int, keep: float, seed: int, size: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._size = size
        self._cell = tuple(-(-side // cells) for side in size)
        # Drawn mask by mask, so that the first ones are the same however many there are.
        axes = len(size)
        drawn = [torch.rand(cells**axes + axes, generator=generator, dtype=torch.float32) for _ in range(count)]
        self._grids = [(each[axes:] < keep).view([cells] * axes) for each in drawn]
        self._places = [
            [int(share * side) for share, side in zip(each[:axes].tolist(), self._cell, strict=True)] for each in drawn
        ]

    def some(self, start: int, stop: int) -> Tensor:
        """Masks from `start` to the one before `stop`, (k H W)."""
        grids = torch.stack(self._grids[start:stop]).float()
        enlarged = [(cells + 1) * side for cells, side in zip(grids.shape[1:], self._cell, strict=True)]
        mode = ("linear", "bilinear", "trilinear")[len(self._size) - 1]
        whole = F.interpolate(grids[:, None], size=enlarged, mode=mode, align_corners=False)[:, 0]
        return torch.stack(
            [
                mask[tuple(slice(start, start + side) for start, side in zip(at, self._size, strict=True))]
                for mask, at in zip(whole, self._places[start:stop], strict=True)
            ]
        )


def _scores(pictures: Pictures | AlteredInputs, index: int, masks: _Masks, count: int) -> Tensor:
    """(n m) of one picture."""
    image = pictures.images[index]

    def masked(start: int, stop: int) -> Tensor:
        return image * pictures.over_channels(masks.some(start, stop)).to(image)

    return pictures.scores(torch.full((count,), index), masked, probability=True)
