"""The flow of evidence over the blocks as a diagram."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

Curves = NDArray[np.float64]


def flow_chart(share: Curves, drop: Curves, agreement: Curves, title: str, drop_name: str) -> Image.Image:
    """Draw share of evidence, drop of the target, and agreement with the final map, block by block.

    Args:
        share: (images, blocks), rows sum to 1.
        drop: (images, blocks).
        agreement: (images, blocks), Spearman, NaN where a block's map is constant.
        title: above the diagram.
        drop_name: what was left out, for the second diagram.

    Returns:
        An RGB picture: three diagrams side by side, a thin line an image and the mean over images.
    """
    figure = Figure(figsize=(12, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    panels = (
        (share, "share of the accumulated evidence", "#c8551b"),
        (drop, f"drop of the target without {drop_name}", "#1f6fb5"),
        (agreement, "rank correlation with the final map", "#3d8b40"),
    )
    blocks = np.arange(1, share.shape[1] + 1)
    for axis, (curves, name, colour) in zip(axes, panels, strict=True):
        if len(curves) > 1:
            axis.plot(blocks, curves.T, color=colour, alpha=0.18, linewidth=0.8)
        seen = np.isfinite(curves)
        mean = np.where(seen, curves, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        axis.plot(blocks, np.where(seen.any(axis=0), mean, np.nan), color=colour, marker="o", linewidth=2)
        axis.axhline(0, color="#888888", linewidth=0.6)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("block")
        axis.set_xticks(blocks)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
