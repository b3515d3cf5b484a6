"""A mean over images with what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` images and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of one value an image; the interval is the percentile bootstrap's, over images, 2000 resamples, seed 0."""
        array = np.asarray(values, dtype=np.float64)
        mean = float(array.mean())
        if len(array) < 2 or np.ptp(array) == 0:
            return cls(mean, mean, mean, len(array))
        interval = bootstrap(
            (array,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        return cls(mean, float(interval.low), float(interval.high), len(array))
