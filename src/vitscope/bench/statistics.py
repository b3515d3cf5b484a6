"""A mean over images with what it is worth: bootstrap intervals over images, ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata

_CELLS = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` images and the ends of its 95 % interval; NaN, all three, over none."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of one value an image; the interval is the percentile bootstrap's, over images, 2000 resamples, seed 0."""
        array = np.asarray(values, dtype=np.float64)
        if not len(array):
            return cls(np.nan, np.nan, np.nan, 0)
        mean = float(array.mean())
        if len(array) < 2 or np.ptp(array) == 0:
            return cls(mean, mean, mean, len(array))
        interval = bootstrap(
            (array,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        return cls(mean, float(interval.low), float(interval.high), len(array))


def resampled_means(values: NDArray[np.float64], resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap over images: the means of many columns, all on the same draws of images.

    A draw of n images is a vector of counts, so that all means of many draws are two matrix products.

    Args:
        values: (k n), NaN where an image has none; a mean is over those that are drawn and there.
        resamples: r, how many draws.
        seed: of the draws.

    Returns:
        (r k), NaN where a draw has no image with a value.
    """
    there = np.isfinite(values)
    filled, present = np.where(there, values, 0.0).T, there.T.astype(np.float64)
    n = values.shape[1]
    parts = []
    for drawn in draws(n, resamples, seed):
        counts = np.stack([np.bincount(one, minlength=n) for one in drawn]).astype(np.float64)
        with np.errstate(invalid="ignore"):
            parts.append((counts @ filled) / (counts @ present))
    return np.concatenate(parts)


def draws(n: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Draws of n images with replacement, (some n) at a time, `resamples` in all."""
    generator = np.random.default_rng(seed)
    size = max(1, min(resamples, _CELLS // max(n, 1)))
    for start in range(0, resamples, size):
        yield generator.integers(n, size=(min(size, resamples - start), n))


def interval(means: NDArray[np.float64], confidence: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the percentile intervals of resampled values (r k), k each; draws that are NaN do not count."""
    nothing = ~np.isfinite(means).any(axis=0)
    low, high = np.nanquantile(np.where(nothing, 0.0, means), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.where(nothing, np.nan, low), np.where(nothing, np.nan, high)


def ranks(values: NDArray[np.float64], higher_is_better: bool) -> NDArray[np.float64]:
    """Each method's rank on each image, 1 the best, ties share their mean rank.

    Args:
        values: (m n), NaN where a method has none.
        higher_is_better: or lower.

    Returns:
        (m n); NaN for methods without any value, and for images on which one of the others has none.
    """
    found = np.full(values.shape, np.nan)
    measured = np.isfinite(values).any(axis=1)
    if measured.any():
        complete = np.isfinite(values[measured]).all(axis=0)
        some = values[np.ix_(measured, complete)]
        found[np.ix_(measured, complete)] = rankdata(-some if higher_is_better else some, axis=0)
    return found
