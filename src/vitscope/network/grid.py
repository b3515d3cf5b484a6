"""The grid on which located tokens lie, of any dimension."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CLEAR = 1.0
"""The least `quality` of a grid that is used."""

EVEN = 3.0
"""How many times as wide as the smallest gap between lines of a grid the largest may be."""

MERGED = 2 * (1 + EVEN)
"""The highest `quality` of a grid some of whose neighbouring lines are taken for one."""

SINGLE = 0.15
"""The gap that stands for those of a single line, so that tokens all over an axis are no line."""


@dataclass(frozen=True)
class Grid:
    """A grid of cells, and the cell of each token.

    Attributes:
        shape: cells along each axis, such as (rows, cols).
        cells: flat index of each token's cell, (N).
        quality: the smallest gap between neighbouring lines over the largest spread within a line.
    """

    shape: tuple[int, ...]
    cells: Tensor
    quality: float


def fit_grid(places: Tensor) -> Grid | None:
    """The grid of which tokens at these places hit every cell; None where there is none.

    Lines are separated by the gaps between them where these are clear, so that a cell may be hit several times;
    otherwise by rank, where every cell is hit equally often. They must be about equally far apart. The clearest
    grid is taken, where it is clearer than one whose lines were merged could be; otherwise the finest whose cells are
    hit equally often.

    Args:
        places: (N axes), each coordinate from -1 to 1.
    """
    best: Grid | None = None
    rank = (0.0, 0, 0.0)
    for lines in itertools.chain(_by_gaps(places), _by_rank(places)):
        shape = tuple(int(line.max()) + 1 for line in lines)
        cells = _flat(lines, shape)
        hits = cells.bincount()
        if len(hits) != math.prod(shape) or not bool(hits.all()):
            continue
        axes = list(zip(places.unbind(dim=1), lines, strict=True))
        quality = min(_quality(axis, line) for axis, line in axes)
        least = CLEAR if bool((hits == hits[0]).all()) else MERGED
        if quality < least or not all(_evenly(axis, line) for axis, line in axes):
            continue
        found = (quality if quality > MERGED else 0.0, len(hits), quality)
        if best is None or found > rank:
            best, rank = Grid(shape, cells, quality), found
    return best


def _evenly(coordinates: Tensor, line: Tensor) -> bool:
    """Whether neighbouring lines are about equally far apart."""
    gaps = _means(coordinates, line).sort().values.diff()
    return len(gaps) < 2 or float(gaps.max()) <= EVEN * float(gaps.min())


def _quality(coordinates: Tensor, line: Tensor) -> float:
    """The smallest gap between lines over the largest spread within one, at most 1000."""
    means = _means(coordinates, line)
    squares = _means((coordinates - means[line]) ** 2, line)
    gap = float(means.sort().values.diff().min()) if len(means) > 1 else SINGLE
    return gap / max(float(squares.sqrt().max()), 1e-3 * gap, 1e-12)


def _means(values: Tensor, line: Tensor) -> Tensor:
    """The mean of each line's values."""
    sums = values.new_zeros(int(line.max()) + 1).index_add(0, line, values)
    return sums / line.bincount()


def _by_gaps(places: Tensor) -> Iterator[list[Tensor]]:
    """Lines along each axis, cut where the largest gaps are, in every likely number."""
    yield from map(list, itertools.product(*(_cuts(axis) for axis in places.unbind(dim=1))))


def _cuts(coordinates: Tensor, most: int = 5) -> list[Tensor]:
    ordered, order = coordinates.sort()
    gaps = ordered.diff()
    sizes = gaps.sort(descending=True).values
    found = [torch.zeros_like(order)]
    ratios = sizes[:-1] / sizes[1:].clamp_min(1e-9)
    for cut in ratios.argsort(descending=True)[:most].tolist():
        if float(ratios[cut]) < 1.5 or float(sizes[cut]) < 1e-6:
            break
        line = torch.empty_like(order)
        line[order] = torch.cat([order.new_zeros(1), (gaps >= sizes[cut]).cumsum(0)])
        found.append(line)
    return found


def _by_rank(places: Tensor) -> Iterator[list[Tensor]]:
    """Lines of equally many tokens: sorted along the first axis, cut into equal parts, each sorted by the next."""
    count, axes = places.shape
    divisors = [each for each in range(1, count + 1) if count % each == 0]
    for first in itertools.product(divisors, repeat=axes - 1):
        if count % math.prod(first) == 0:
            yield _ranked(places, (*first, count // math.prod(first)))


def _ranked(places: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    order = torch.arange(len(places))
    lines = []
    for axis, count in enumerate(shape):
        groups = math.prod(shape[:axis])
        parts = order.view(groups, -1)
        parts = parts.gather(1, places[parts, axis].argsort(dim=1, stable=True))
        order = parts.flatten()
        line = torch.empty_like(order)
        line[order] = (torch.arange(parts.shape[1]) // (parts.shape[1] // count)).repeat(groups)
        lines.append(line)
    return lines


def _flat(lines: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    flat = torch.zeros_like(lines[0])
    for line, count in zip(lines, shape, strict=True):
        flat = flat * count + line
    return flat
