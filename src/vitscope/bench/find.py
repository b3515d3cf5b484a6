"""How one metric's rows become findings. Axes: m methods, n images, k metric values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from vitscope.bench.findings import ClassMean, Extremes, Findings, Line, MeanCurve, Settings
from vitscope.bench.names import Computation
from vitscope.bench.paired import Pair, holm, pairs_of
from vitscope.bench.rows import ERROR, NO_TARGET, NONE, UNDEFINED, VALUE, Block
from vitscope.bench.sets import SetValues, set_values
from vitscope.bench.statistics import interval, ranks, resampled_means
from vitscope.metrics import Facts, MaxOverThresholds

SHOWN = 4
"""Images that are kept as a method's best and as its worst, each."""

Array = NDArray[np.float64]


def find(
    found: Computation,
    block: Block,
    methods: Sequence[str],
    trivial: Sequence[str],
    images: Sequence[str],
    settings: Settings,
) -> Findings:
    """Everything of one metric.

    Args:
        found: the metric and its rows' names.
        block: the rows.
        methods: m labels.
        trivial: those that know nothing of the model.
        images: n names.
        settings: of the statistics.
    """
    here = np.flatnonzero(np.any([kinds != NONE for kinds in block.known.values()], axis=(0, 1)))
    names = [images[place] for place in here.tolist()]
    block = block.of(slice(None), here)
    out = Findings()
    for name, lines, pairs in (
        *_of_values(found, block, methods, settings),
        *_of_set(found, block, methods, names, settings),
    ):
        out.pairs.extend(pairs)
        out.lines.extend(_judged(lines, pairs, trivial, 1 - settings.confidence))
        if name == found.headline:
            out.classes.extend(_by_class(name, block, methods))
            out.extremes.extend(_extremes(name, bool(lines[0].higher_is_better), block.values[name], methods, names))
    out.curves.extend(_curves(found, block, methods))
    return out


Told = list[tuple[str, list[Line], list[Pair]]]


def _of_values(found: Computation, block: Block, methods: Sequence[str], settings: Settings) -> Told:
    """Of every value that is one an image: lines, without what depends on the others' lines, and pairs."""
    if not found.values:
        return []
    order = {
        name: ranks(block.values[name], facts.higher_is_better)
        for name, facts in found.values.items()
        if facts is not None and facts.higher_is_better is not None
    }
    # Values and ranks of all the metric's names share their draws of images.
    columns = [block.values[name] for name in found.values] + list(order.values())
    means = resampled_means(np.concatenate(columns), settings.resamples, settings.seed)
    low, high = (ends.reshape(len(columns), -1) for ends in interval(means, settings.confidence))
    out: Told = []
    for place, (name, facts) in enumerate(found.values.items()):
        values, known = block.values[name], block.known[name]
        lines = [
            _line(label, name, facts, values[m], known[m], (low[place, m], high[place, m]))
            for m, label in enumerate(methods)
            if (known != NONE).any()
        ]
        if name in order:
            rank = order[name]
            at = len(found.values) + list(order).index(name)
            lines = [
                replace(
                    line,
                    rank=_mean(rank[m]),
                    rank_low=_known(low[at, m]),
                    rank_high=_known(high[at, m]),
                    ranked=int(np.isfinite(rank[m]).sum()),
                )
                for m, line in enumerate(lines)
            ]
        pairs = pairs_of(name, methods, values, settings.seed) if name in order else []
        out.append((name, lines, pairs))
    return out


def _line(
    label: str, name: str, facts: Facts | None, values: Array, known: NDArray[np.uint8], ends: tuple[float, float]
) -> Line:
    n = int(np.isfinite(values).sum())
    low, high = (_known(end) if n > 1 else None for end in ends)
    counts = {kind: int((known == kind).sum()) for kind in (NONE, UNDEFINED, ERROR)}
    higher = None if facts is None else facts.higher_is_better
    note = "" if n else "no image has a value"
    return Line(
        label, name, _mean(values), low, high, n, counts[ERROR], counts[UNDEFINED], counts[NONE], higher, note=note
    )


def _of_set(
    found: Computation, block: Block, methods: Sequence[str], images: Sequence[str], settings: Settings
) -> Told:
    """Of every value of the whole set; an image counts once: as measured, failed, undefined or missing."""
    facts = found.over_set
    if not facts or not (found.summed or found.without):
        return []
    given = [set_values(found, block, m, images, settings.resamples, settings.seed) for m in range(len(methods))]
    states = np.stack([block.known[name] for name in found.rows])  # k m n
    left = np.ones(states.shape[1:], dtype=bool)
    if found.summed:
        left = np.any([block.known[name] != VALUE for name in found.summed], axis=0)
    counts = {}
    for kind in (ERROR, UNDEFINED):
        here = left & (states == kind).any(axis=0)
        counts[kind], left = here.sum(axis=1), left & ~here
    counts[NONE] = left.sum(axis=1)
    out: Told = []
    for name, one in facts.items():
        lines = []
        for m, (label, mine) in enumerate(zip(methods, given, strict=True)):
            low, high = _ends(mine, name, settings.confidence)
            lines.append(
                Line(
                    label,
                    name,
                    mine.values.get(name),
                    low,
                    high,
                    mine.n,
                    int(counts[ERROR][m]),
                    int(counts[UNDEFINED][m]),
                    int(counts[NONE][m]),
                    one.higher_is_better,
                    over_set=True,
                    note=mine.note,
                )
            )
        out.append((name, lines, [] if one.higher_is_better is None else _drawn_pairs(name, methods, given)))
    return out


def _ends(mine: SetValues, name: str, confidence: float) -> tuple[float | None, float | None]:
    if name not in mine.drawn:
        return None, None
    low, high = interval(mine.drawn[name][:, None], confidence)
    return _known(low[0]), _known(high[0])


def _drawn_pairs(name: str, methods: Sequence[str], given: Sequence[SetValues]) -> list[Pair]:
    """Pairs by the paired bootstrap: the difference over its standard deviation over the draws, as normal.

    The share of draws beyond 0 could not resolve a p that is to stand a correction for many pairs.
    """
    found = []
    able = [m for m, mine in enumerate(given) if name in mine.drawn]
    for a, b in ((a, b) for a in able for b in able if a < b):
        r = min(len(given[a].drawn[name]), len(given[b].drawn[name]))
        drawn = given[a].drawn[name][:r] - given[b].drawn[name][:r]
        difference = given[a].values[name] - given[b].values[name]
        spread = float(np.nanstd(drawn, ddof=1))
        p = float(2 * norm.sf(abs(difference) / spread)) if spread > 1e-12 else float(abs(difference) <= 1e-12)
        n = min(given[a].n, given[b].n)
        found.append(Pair(name, methods[a], methods[b], difference, n, p, p, f"paired bootstrap, {r} draws"))
    corrected = holm(np.array([pair.p for pair in found]))
    return [replace(pair, corrected=float(c)) for pair, c in zip(found, corrected, strict=True)]


def _judged(lines: list[Line], pairs: Sequence[Pair], trivial: Sequence[str], level: float) -> list[Line]:
    """Lines with what a method is worth beside the others."""
    measured = [line for line in lines if line.mean is not None]
    if not measured or lines[0].higher_is_better is None:
        return lines
    sign = 1 if lines[0].higher_is_better else -1
    top = max(sign * (line.mean or 0.0) for line in measured)
    best = next(line.method for line in measured if sign * (line.mean or 0.0) == top)
    told: Mapping[tuple[str, str], tuple[float, float]] = {
        key: (turn * sign * pair.difference, pair.corrected)
        for pair in pairs
        for key, turn in (((pair.first, pair.second), 1), ((pair.second, pair.first), -1))
    }
    bars = [line.method for line in measured if line.method in trivial]
    out = []
    for line in lines:
        first = line.mean is not None and sign * line.mean == top
        p = told[line.method, best][1] if (line.method, best) in told else None
        beats = None
        if bars and line.method not in trivial and line.mean is not None:
            against = [told.get((line.method, bar)) for bar in bars]
            beats = all(one is not None and one[0] > 0 and one[1] < level for one in against)
        near = first or (p is not None and p >= level)
        out.append(replace(line, best=first, near_best=near, p_best=p, beats_trivial=beats))
    return out


def _curves(found: Computation, block: Block, methods: Sequence[str]) -> list[MeanCurve]:
    """The mean of every curve; where a state counts how many images reach a value, that share too."""
    out = []
    for name, points in found.points.items():
        x = tuple(sorted(points))
        y = np.stack([block.values[points[one]] for one in x])  # t m n
        curves = {f"{found.group}/{name}{found.ends}": y}
        state = found.metric.state() if found.over_set else None  # type: ignore[union-attr]
        if isinstance(state, MaxOverThresholds) and state.curve == name:
            for delta in state.deltas:
                reached = np.where(np.isfinite(y), y >= delta, np.nan)
                curves[f"{found.group}/share of images with IoU ≥ {delta:g}{found.ends}"] = reached
        for title, values in curves.items():
            out += [_mean_curve(title, label, x, values[:, m]) for m, label in enumerate(methods)]
    return [curve for curve in out if curve.n]


def _mean_curve(title: str, label: str, x: tuple[float, ...], y: Array) -> MeanCurve:
    """Of values (t n)."""
    n = np.isfinite(y).sum(axis=1)
    sums = np.nansum(y, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / n
        error = np.sqrt(np.nansum((y - mean[:, None]) ** 2, axis=1) / (n - 1) / n)
    low, high = (tuple(map(_known, mean + side * 1.96 * error)) for side in (-1, 1))
    return MeanCurve(title, label, x, tuple(map(_known, mean)), low, high, int(n.max()))


def _by_class(name: str, block: Block, methods: Sequence[str]) -> list[ClassMean]:
    """Every class's mean; of images whose class is not written, nothing."""
    out = []
    for m, label in enumerate(methods):
        there = (block.known[name][m] == VALUE) & (block.targets != NO_TARGET)
        classes, place = np.unique(block.targets[there], return_inverse=True)
        count = np.bincount(place, minlength=len(classes))
        sums = np.bincount(place, weights=block.values[name][m, there], minlength=len(classes))
        out += [
            ClassMean(name, label, int(c), float(s / k), int(k)) for c, s, k in zip(classes, sums, count, strict=True)
        ]
    return out


def _extremes(name: str, higher: bool, values: Array, methods: Sequence[str], images: Sequence[str]) -> list[Extremes]:
    out = []
    for m, label in enumerate(methods):
        there = np.flatnonzero(np.isfinite(values[m]))
        order = there[np.argsort(-values[m, there] if higher else values[m, there], kind="stable")]
        half = min(SHOWN, len(order) // 2)
        best, worst = (
            tuple((images[place], float(values[m, place])) for place in some)
            for some in (order[:half], order[::-1][:half])
        )
        out.append(Extremes(name, label, best, worst))
    return out


def _mean(values: Array) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
