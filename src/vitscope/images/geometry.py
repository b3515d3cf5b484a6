"""Where the model's input lies on the original picture, and the way back for maps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitscope.arrays import as_array

Mode = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class Geometry:
    """The original picture was resized, then a window was cut out of it.

    Attributes:
        original: (height, width) of the original in pixels.
        resized: (height, width) after resizing.
        crop: (top, left, height, width) of the window in the resized picture; it may reach beyond it where the
            preprocessing pads. Whole pixels, unless the model itself shows its patches a part of its input.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[float, float, float, float]

    @classmethod
    def identity(cls, height: int, width: int) -> Geometry:
        """The whole picture as it is."""
        return cls((height, width), (height, width), (0, 0, height, width))

    def inside(self) -> Tensor:
        """Which original pixels the model saw, by their centres, (H W) bool."""
        return torch.from_numpy(self._inside())

    def to_original(self, values: Tensor, mode: Mode = "bilinear") -> Tensor:
        """A map over the window, in equal cells, on the pixels of the original.

        Args:
            values: (rows cols).
            mode: "bilinear" between the cells' centres, or "nearest", the cells as they are.

        Returns:
            (H W) float32 on the CPU, NaN outside of what the model saw.
        """
        return torch.from_numpy(self.on_pixels(as_array(values), mode))

    def on_pixels(self, values: NDArray[Any], mode: Mode = "bilinear") -> NDArray[np.float32]:
        """As `to_original`, of arrays with any leading axes: (... rows cols) -> (... H W)."""
        y, x = self._in_window()
        found = _sampled(values.astype(np.float64), y, -2, mode).astype(np.float32)
        found = _sampled(found, x, -1, mode)
        found[..., ~self._inside()] = np.nan
        return found

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {key: list(value) for key, value in asdict(self).items()}

    def _inside(self) -> NDArray[np.bool_]:
        y, x = self._in_window()
        return ((y > 0) & (y < 1))[:, None] & ((x > 0) & (x < 1))[None, :]

    def _in_window(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres of the original's rows and columns as shares of the window, 0 to 1 inside."""
        top, left, height, width = self.crop

        def axis(original: int, resized: int, start: float, length: float) -> NDArray[np.float64]:
            centres = (np.arange(original, dtype=np.float64) + 0.5) * (resized / original)
            return (centres - start) / length

        return (
            axis(self.original[0], self.resized[0], top, height),
            axis(self.original[1], self.resized[1], left, width),
        )


def _sampled(values: NDArray[Any], at: NDArray[np.float64], axis: Literal[-2, -1], mode: Mode) -> NDArray[Any]:
    """Values along one axis at these shares of its length; beyond the outermost cells' centres, those cells."""
    count = values.shape[axis]
    place = np.clip(at * count - 0.5, 0, count - 1)
    if mode == "nearest":
        nearest: NDArray[Any] = values.take(np.rint(place).astype(np.intp), axis)
        return nearest
    before = np.floor(place).astype(np.intp)
    share = (place - before).astype(values.dtype)
    share = share if axis == -1 else share[:, None]
    low: NDArray[Any] = values.take(before, axis)
    high = values.take(np.minimum(before + 1, count - 1), axis)
    low *= 1 - share
    high *= share
    low += high
    return low
