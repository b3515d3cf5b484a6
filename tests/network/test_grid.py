"""Grids fitted to the places of tokens: found exactly, or not at all."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from vitscope.network.grid import fit_grid


def places(shape, times=1, noise=0.0, seed=0):
    """Cells in reading order, each `times` times, and the centres of these cells with noise."""
    centres = [torch.linspace(-1, 1, 2 * size + 1, dtype=torch.float64)[1::2] for size in shape]
    grid = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, -2)
    cells = torch.arange(math.prod(shape)).repeat(times)
    generator = torch.Generator().manual_seed(seed)
    found = grid.repeat(times, 1)
    return cells, found + noise * torch.randn(found.shape, generator=generator, dtype=torch.float64)


def shuffled(cells, found, seed=1):
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))
    return cells[order], found[order]


SHAPES = [(4, 4), (1, 8), (8, 1), (2, 2), (3, 5), (14, 14), (7, 2), (9,), (2, 3, 4), (16, 16), (1, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_every_shape_is_found_in_any_order(shape, seed):
    cells, found = shuffled(*places(shape, noise=0.1 / max(shape), seed=seed), seed)
    grid = fit_grid(found)
    assert grid.shape == shape
    assert torch.equal(grid.cells, cells)
    assert grid.quality > 4


@pytest.mark.parametrize("shape", [(4, 4), (2, 2), (3, 5), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_cells_that_are_hit_several_times(shape, times, seed):
    cells, found = shuffled(*places(shape, times, 0.04 / max(shape), seed), seed)
    grid = fit_grid(found)
    assert grid.shape == shape
    assert torch.equal(grid.cells, cells)


@pytest.mark.parametrize("seed", range(5))
def test_cells_that_are_hit_unequally_often(seed):
    cells, found = places((4, 4), 1, 0.02, seed)
    grid = fit_grid(torch.cat([found, found[3:9] + 0.01]))
    assert grid.shape == (4, 4)
    assert torch.equal(grid.cells, torch.cat([cells, cells[3:9]]))


@pytest.mark.parametrize("seed", range(8))
def test_a_blurred_grid_is_not_taken_for_a_coarser_one(seed):
    """Behind convolutions with padding the outer lines move inwards, and places scatter."""
    cells, found = places((4, 4), 1, 0.06, seed)
    found = torch.where(found < -0.5, found + 0.25, found)
    grid = fit_grid(found)
    assert grid is None or (grid.shape == (4, 4) and torch.equal(grid.cells, cells))


def test_a_blurred_grid_is_found():
    assert sum(fit_grid(places((4, 4), 1, 0.06, seed)[1]) is not None for seed in range(8)) == 8


@pytest.mark.parametrize("count", [16, 48, 49, 100, 197])
@pytest.mark.parametrize("seed", range(4))
def test_places_without_order_lie_on_no_grid(count, seed):
    generator = torch.Generator().manual_seed(seed)
    scattered = 2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1
    grid = fit_grid(scattered)
    assert grid is None or math.prod(grid.shape) < 2


def test_places_in_one_point_are_no_grid_of_several_cells():
    generator = torch.Generator().manual_seed(0)
    grid = fit_grid(0.01 * torch.randn(64, 2, generator=generator, dtype=torch.float64))
    assert grid is None or math.prod(grid.shape) == 1


def test_pooled_keys_of_two_sizes_lie_in_the_finer_cells():
    """As in one call on a pyramid of pooled tokens."""
    found = torch.cat([places((4, 4))[1], places((7, 7))[1]])
    grid = fit_grid(found)
    if grid is not None:
        assert grid.shape == (7, 7)
        centres = places((7, 7))[1][grid.cells]
        assert float((centres - found).abs().max()) < 1 / 7 + 1e-6


def test_seven_lines_pooled_from_three_are_no_grid_of_two():
    lines = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0], dtype=torch.float64) * 2 / 3 - 2 / 3
    found = torch.tensor(list(itertools.product(lines.tolist(), lines.tolist())), dtype=torch.float64)
    grid = fit_grid(found + 0.02 * places((7, 7), noise=1.0)[1].sub(places((7, 7))[1]))
    assert grid is None or grid.shape == (5, 5)
