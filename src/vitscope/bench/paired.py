"""Paired tests between methods on the same images, and Holm's correction for their number.

The test is the sign-flip permutation test of the mean difference: under the hypothesis that two methods are as good, an
image's difference has either sign equally often. It asks about the mean, which is what a table shows; Wilcoxon's
signed-rank test asks about the order of the differences, and can prefer the method of the lower mean.

- Up to 13 images that differ: all flips, exactly.
- Up to 2000: random flips; where fewer than 10 of them reach the observed mean, they cannot resolve p, and Student's
  paired t gives it, to which the flips' distribution tends, yet no less than the 2 of 2^n flips that are always there.
- Beyond: Student's paired t.

Axes: m methods, n images, p pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

EXACT, RANDOM = 13, 2000
FLIPS = 9999
RESOLVED = 10
_CHUNK = 512
_TIE = 1 - 1e-9


@dataclass(frozen=True)
class Pair:
    """Two methods on the same images, by one metric.

    Attributes:
        metric: full name.
        first, second: the methods.
        difference: mean of first minus second over the images that both have.
        n: of these images.
        p: two-sided; 1 where no image differs.
        corrected: by Holm, for the number of the metric's pairs.
        test: which test gave p.
    """

    metric: str
    first: str
    second: str
    difference: float
    n: int
    p: float
    corrected: float
    test: str


def pairs_of(metric: str, methods: Sequence[str], values: NDArray[np.float64], seed: int = 0) -> list[Pair]:
    """Every pair of methods that share an image.

    Args:
        metric: full name.
        methods: m labels.
        values: (m n), NaN where a method has none.
        seed: of the random flips.
    """
    places = [
        (a, b)
        for a, b in combinations(range(len(methods)), 2)
        if bool((np.isfinite(values[a]) & np.isfinite(values[b])).any())
    ]
    if not places:
        return []
    differences = np.stack([values[a] - values[b] for a, b in places])
    shared = np.isfinite(differences).sum(axis=1)
    found, tests = sign_flip(differences, seed)
    corrected = holm(found)
    return [
        Pair(metric, methods[a], methods[b], float(np.nanmean(d)), int(n), float(p), float(c), test)
        for (a, b), d, n, p, c, test in zip(places, differences, shared, found, corrected, tests, strict=True)
    ]


def sign_flip(differences: NDArray[np.float64], seed: int = 0) -> tuple[NDArray[np.float64], list[str]]:
    """Two-sided p of the mean difference, (p), and the name of the test that gave each.

    Args:
        differences: (p n), NaN where a pair has none.
        seed: of the random flips.
    """
    filled = np.nan_to_num(differences)
    counts = np.count_nonzero(filled, axis=1)
    found = np.ones(len(filled))
    tests = ["no image differs"] * len(filled)
    drawn = np.flatnonzero((counts > EXACT) & (counts <= RANDOM))
    for place in np.flatnonzero((counts > 0) & (counts <= EXACT)).tolist():
        found[place] = _all_flips(filled[place][filled[place] != 0])
        tests[place] = "sign flips, all"
    if len(drawn):
        reached = _reached(filled[drawn], seed)
        for place, times in zip(drawn.tolist(), reached.tolist(), strict=True):
            found[place], tests[place] = (times + 1) / (FLIPS + 1), f"sign flips, {FLIPS} at random"
            if times < RESOLVED:
                tail = max(_student(differences[place]), 2.0 ** (1 - int(counts[place])))
                found[place], tests[place] = min(found[place], tail), "sign flips, tail by Student's t"
    for place in np.flatnonzero(counts > RANDOM).tolist():
        found[place], tests[place] = _student(differences[place]), "Student's paired t"
    return found, tests


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction: the k-th smallest of N times N - k + 1, never falling, at most 1 (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def _all_flips(differences: NDArray[np.float64]) -> float:
    """Share of all 2^n flips whose sum is at least as far from 0."""
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= abs(differences.sum()) * _TIE).mean())


def _reached(filled: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """(p) how many of `FLIPS` random flips have a sum at least as far from 0; all pairs see the same flips."""
    generator = np.random.default_rng(seed)
    observed = np.abs(filled.sum(axis=1)) * _TIE
    count = np.zeros(len(filled), dtype=np.int64)
    n = filled.shape[1]
    for start in range(0, FLIPS, _CHUNK):
        size = min(_CHUNK, FLIPS - start)
        bits = np.frombuffer(generator.bytes(size * ((n + 7) // 8)), dtype=np.uint8).reshape(size, -1)
        signs = np.unpackbits(bits, axis=1, count=n).astype(np.float64) * 2 - 1
        count += (np.abs(signs @ filled.T) >= observed).sum(axis=0)
    return count


def _student(differences: NDArray[np.float64]) -> float:
    """p of the paired t-test; 0 where all differences are the same."""
    values = differences[np.isfinite(differences)]
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(2 * student.sf(abs(values.mean()) / spread, len(values) - 1)) if spread > 0 else 0.0
