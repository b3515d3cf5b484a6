"""What a run found, as records. Axes: m methods, n images, k metric values."""

from __future__ import annotations

from dataclasses import dataclass, field

from vitscope.bench.paired import Pair


@dataclass(frozen=True)
class Settings:
    """How the statistics are made.

    Attributes:
        confidence: of the intervals; 1 minus it is the level of the tests.
        resamples: draws of the bootstrap.
        seed: of all draws.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Line:
    """One method by one metric.

    Attributes:
        method: its label.
        metric: full name.
        mean: over images, or the set's value; None where there is none.
        low, high: ends of its interval; None where one image, or the state, gives none.
        n: images with a finite value.
        errors: images that failed.
        undefined: images whose value is not defined (NaN), left out of the mean.
        missing: images that others have and this method has no row for.
        higher_is_better: or lower; None where it is neither or unknown.
        over_set: whether it is one value of the set, from the metric's state.
        rank, rank_low, rank_high: mean rank over images on which all methods have a value, 1 the best.
        ranked: these images.
        best: whether its mean is the best.
        near_best: whether it is the best or cannot be told from it (corrected p not below the level).
        p_best: corrected p against the best; None for the best itself.
        beats_trivial: whether it is better than every trivial baseline that was run, each with a corrected p below the
            level; None where none was run, and for the baselines.
        note: what else must be known.
    """

    method: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    errors: int
    undefined: int
    missing: int
    higher_is_better: bool | None
    over_set: bool = False
    rank: float | None = None
    rank_low: float | None = None
    rank_high: float | None = None
    ranked: int = 0
    best: bool = False
    near_best: bool = False
    p_best: float | None = None
    beats_trivial: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class MeanCurve:
    """A method's mean curve; the band is 1.96 standard errors wide on both sides, None where one image has none.

    Attributes:
        curve: full name without the point: "abpc/morf".
        method: its label.
        x, mean, low, high: point by point.
        n: images, at most.
    """

    curve: str
    method: str
    x: tuple[float, ...]
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    n: int


@dataclass(frozen=True)
class ClassMean:
    """A method's mean over the images of which this class was explained."""

    metric: str
    method: str
    label: int
    mean: float
    n: int


@dataclass(frozen=True)
class Extremes:
    """A method's best and worst images by one metric, the most extreme first: image and value."""

    metric: str
    method: str
    best: tuple[tuple[str, float], ...]
    worst: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Findings:
    """All that one metric's rows give."""

    lines: list[Line] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    curves: list[MeanCurve] = field(default_factory=list)
    classes: list[ClassMean] = field(default_factory=list)
    extremes: list[Extremes] = field(default_factory=list)
