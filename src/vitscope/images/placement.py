"""How the image that a model cuts into patches lies on the image that the model is given."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from vitscope.images.geometry import Geometry


@dataclass(frozen=True)
class Placement:
    """An axis-aligned affine map: flips, quarter turns, transposes, crops, padding and resizes, in any combination.

    A wrapper that is given the outer image may show the model inside another one, the inner image. Edges of pixels
    count from 0. The point x of inner axis a (0: rows, 1: columns) shows `offset[a] + scale[a] * x` on the outer image,
    along the same axis, or where `transposed` along the other one.

    Attributes:
        outer: (height, width) of the image that the model is given, in pixels.
        inner: (height, width) of the image that is cut into patches, in pixels.
        scale: outer pixels for each pixel of the inner image, along its rows and columns; negative where it is flipped.
        offset: where the inner image begins on the outer one, in pixels of the outer one.
        transposed: whether rows of one are columns of the other.
    """

    outer: tuple[int, int]
    inner: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    transposed: bool = False

    @classmethod
    def identity(cls, size: tuple[int, int]) -> Placement:
        """The image as it is."""
        return cls(size, size)

    @property
    def identical(self) -> bool:
        """Whether the inner image is the outer one, pixel by pixel."""
        return self == Placement.identity(self.outer)

    def turned(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(rows, cols) of a grid on the inner image, as they lie on the outer one."""
        return (grid[1], grid[0]) if self.transposed else grid

    def upright(self, values: Tensor) -> Tensor:
        """Maps (... rows cols) on the inner image, turned to lie as the outer one does."""
        values = values.mT if self.transposed else values
        flipped = [axis for axis in (0, 1) if self.scale[axis] < 0]
        return values.flip([self._outer_axis(axis) - 2 for axis in flipped]) if flipped else values

    def window(self, reach: tuple[int, int]) -> tuple[float, float, float, float]:
        """Top, left, height and width, on the outer image, of the first `reach` rows and columns of the inner one."""
        starts, lengths = [0.0, 0.0], [0.0, 0.0]
        for axis in (0, 1):
            ends = self.offset[axis], self.offset[axis] + self.scale[axis] * reach[axis]
            starts[self._outer_axis(axis)], lengths[self._outer_axis(axis)] = min(ends), abs(ends[1] - ends[0])
        top, left, height, width = (int(edge) if edge == int(edge) else edge for edge in (*starts, *lengths))
        return top, left, height, width

    def sides(self, cell: tuple[int, int]) -> tuple[float, float]:
        """Height and width, on the outer image, of a cell of so many pixels of the inner one, such as a patch."""
        height, width = self.window(cell)[2:]
        return height, width

    def on(self, geometry: Geometry, reach: tuple[int, int]) -> Geometry:
        """Where the first `reach` rows and columns of the inner image lie on an original.

        Args:
            geometry: where the outer image lies on it.
            reach: pixels of the inner image.
        """
        top, left, height, width = self.window(reach)
        crop = (geometry.crop[0] + top, geometry.crop[1] + left, height, width)
        return dataclasses.replace(geometry, crop=crop)

    def inner_at(self, axis: int) -> Tensor:
        """Where the centres of the outer pixels lie along an inner axis, float64: a value for each outer row or column.

        They may lie beyond the inner image.
        """
        centres = torch.arange(self.outer[self._outer_axis(axis)], dtype=torch.float64) + 0.5
        return (centres - self.offset[axis]) / self.scale[axis]

    def to_outer(self, values: Tensor) -> Tensor:
        """Pixels of the inner image (... h w) on the outer one (... H W), the nearest each, also beyond its edges."""
        if self.identical:
            return values
        rows, columns = (
            self.inner_at(axis).floor().long().clamp(0, self.inner[axis] - 1).to(values.device) for axis in (0, 1)
        )
        found = values.index_select(-2, rows).index_select(-1, columns)
        return found.mT if self.transposed else found

    def describe(self) -> str:
        """What it does to an image, in words; "" where it leaves it as it is."""
        turns = ["transposed"] if self.transposed else []
        flips = [name for axis, name in enumerate(("top to bottom", "left to right")) if self.scale[axis] < 0]
        turns += [f"flipped {' and '.join(flips)}"] if flips else []
        top, left, height, width = self.window(self.inner)
        if (top, left, height, width) != (0, 0, *self.outer):
            turns.append(
                f"shows rows {top:g} to {top + height:g} and columns {left:g} to {left + width:g} of "
                f"{self.outer[0]} x {self.outer[1]} pixels"
            )
        if self.inner != self.turned((round(height), round(width))):
            turns.append(f"resized to {self.inner[0]} x {self.inner[1]} pixels")
        return ", ".join(turns)

    def _outer_axis(self, axis: int) -> int:
        return 1 - axis if self.transposed else axis
