"""All that a run's rows say, as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitscope.bench.about import About
from vitscope.bench.findings import ClassMean, Extremes, Line, MeanCurve, Settings
from vitscope.bench.names import Computation
from vitscope.bench.paired import Pair
from vitscope.bench.rows import Failure
from vitscope.methods import Facts as MethodFacts
from vitscope.metrics import Published


@dataclass(frozen=True)
class Compared:
    """A measured number beside one that a paper prints; `differs` says in what the two are not the same."""

    line: Line
    printed: Published
    differs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Summary:
    """What a run found.

    Attributes:
        folder: of the run.
        about: what was run.
        settings: of the statistics.
        methods: label -> what is known of the method, None where it is not registered.
        computations: the metrics.
        lines, pairs, curves, classes, extremes: see `findings`.
        compared: with printed numbers.
        images, rows: how many.
        failures: rows that failed, by what they say; `failed` counts all.
    """

    folder: Path
    about: About
    settings: Settings
    methods: Mapping[str, MethodFacts | None]
    computations: Sequence[Computation]
    lines: Sequence[Line]
    pairs: Sequence[Pair]
    curves: Sequence[MeanCurve]
    classes: Sequence[ClassMean]
    extremes: Sequence[Extremes]
    compared: Sequence[Compared]
    images: int
    rows: int
    failures: Sequence[Failure]
    failed: int

    @property
    def trivial(self) -> list[str]:
        """The labels of the baselines that know nothing of the model."""
        return [label for label, facts in self.methods.items() if facts is not None and facts.trivial]

    @property
    def headlines(self) -> list[str]:
        """The values that stand for their metrics in the overview, those that were measured."""
        measured = {line.metric for line in self.lines}
        named = [one.headline or next(iter(one.over_set), "") for one in self.computations]
        return [name for name in named if name in measured]

    def of(self, metric: str) -> list[Line]:
        """The lines of one value, method by method."""
        return [line for line in self.lines if line.metric == metric]
