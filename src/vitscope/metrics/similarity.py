"""How alike two maps are: Pearson, Spearman, SSIM. All take maps (b rows cols) and give (b) float64."""

from __future__ import annotations

import scipy
import torch
from torch import Tensor

from vitscope.errors import MetricError


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of two maps' values, in [-1, 1]; NaN where either is constant.

    Raises:
        MetricError: the shapes differ.
    """
    a, b = _paired(first, second)
    return _correlation(a, b)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of two maps' ranks, equal values sharing their mean rank, in [-1, 1]; NaN where either is constant.

    Raises:
        MetricError: the shapes differ.
    """
    a, b = (torch.from_numpy(scipy.stats.rankdata(part.cpu().numpy(), axis=1)) for part in _paired(first, second))
    return _correlation(a, b)


def ssim(first: Tensor, second: Tensor, sigma: float = 1.5) -> Tensor:
    """Structural similarity of two maps, each min-max scaled by itself, in [-1, 1].

    Means, variances and covariance are those under a Gaussian window of this standard deviation, cut off at 3.5 of it
    (11 pixels), without a correction for the sample; the edges are mirrored, and all pixels are averaged.

    Raises:
        MetricError: the shapes differ, or a map is smaller than half the window.

    Source: Wang et al. 2004, Eq. 13, K1 = 0.01, K2 = 0.03, range 1. On maps as in Adebayo et al. (1810.03292).
    """
    a, b = _paired(first, second)
    span = [(part.amax(1, True) - part.amin(1, True)).clamp_min(torch.finfo(a.dtype).tiny) for part in (a, b)]
    x, y = ((part - part.amin(1, True)) / one for part, one in zip((a, b), span, strict=True))
    x, y = (part.view(first.shape).cpu() for part in (x, y))
    radius = int(3.5 * sigma + 0.5)
    if min(first.shape[1:]) <= radius:
        raise MetricError(f"SSIM needs maps of more than {radius} rows and cols; enlarge them, or take spearman")

    def window(values: Tensor) -> Tensor:
        return torch.from_numpy(scipy.ndimage.gaussian_filter(values.numpy(), sigma, truncate=3.5, axes=(1, 2)))

    mx, my = window(x), window(y)
    vx, vy, vxy = window(x * x) - mx**2, window(y * y) - my**2, window(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    local = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return local.mean(dim=(1, 2))


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (part - part.mean(dim=1, keepdim=True) for part in (a, b))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(lengths > 0, (a * b).sum(dim=1) / lengths, torch.nan).clamp(-1, 1).cpu()


def _paired(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.shape != second.shape or first.ndim != 3:
        raise MetricError(f"maps {tuple(first.shape)} and {tuple(second.shape)} differ; give both as (b, rows, cols)")
    a, b = (part.detach().flatten(1).double() for part in (first, second))
    # The mean of equal values is not always that value: a constant map is told by its range.
    return tuple(torch.where((p.amax(1) == p.amin(1))[:, None], torch.zeros_like(p), p) for p in (a, b))  # type: ignore[return-value]
