"""Where the model's input lies on the original picture, and the way back for maps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


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
        y, x = self._in_window()
        return ((y > 0) & (y < 1))[:, None] & ((x > 0) & (x < 1))[None, :]

    def to_original(self, values: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
        """A map over the window, in equal cells, on the pixels of the original.

        Args:
            values: (rows cols).
            mode: "bilinear" between the cells' centres, or "nearest", the cells as they are.

        Returns:
            (H W) float32 on the CPU, NaN outside of what the model saw.
        """
        y, x = self._in_window()
        where = torch.stack(torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")[::-1], dim=-1)
        sampled = F.grid_sample(
            values.detach().cpu().double()[None, None],
            where[None],
            mode=mode,
            padding_mode="border",
            align_corners=False,
        )[0, 0].float()
        sampled[~self.inside()] = torch.nan
        return sampled

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {key: list(value) for key, value in asdict(self).items()}

    def _in_window(self) -> tuple[Tensor, Tensor]:
        """Centres of the original's rows and columns as shares of the window, 0 to 1 inside."""
        top, left, height, width = self.crop

        def axis(original: int, resized: int, start: float, length: float) -> Tensor:
            centres = (torch.arange(original, dtype=torch.float64) + 0.5) * (resized / original)
            return (centres - start) / length

        return (
            axis(self.original[0], self.resized[0], top, height),
            axis(self.original[1], self.resized[1], left, width),
        )
