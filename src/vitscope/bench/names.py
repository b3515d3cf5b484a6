"""What the names of a run's rows mean: which metric gave them; values, parts of a state, or points of a curve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vitscope.errors import MetricError
from vitscope.metrics import Facts, Metric, as_metrics, name_of


@dataclass(frozen=True, eq=False)
class Computation:
    """All rows of one metric with its options.

    Attributes:
        metric: or None where no metric of this name is registered; its rows are then values of unknown direction.
        group: "agcam".
        ends: "@0.5", what stands behind every name.
        values: full name -> its facts, None where unknown: one value an image.
        parts: full names that the state alone reads.
        points: curve's name without group -> x -> full name.
        without: full names of values of a set under which images stand of which there is no value: that failed, or
            whose truth is not known. A metric of which such values alone are asked has no other name for them.
    """

    metric: Metric | None
    group: str
    ends: str = ""
    values: dict[str, Facts | None] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    points: dict[str, dict[float, str]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        """All of its rows' names."""
        return [*self.values, *self.without, *self.summed]

    @property
    def summed(self) -> list[str]:
        """Those that its state reads: parts and points."""
        return [*self.parts, *(name for curve in self.points.values() for name in curve.values())]

    @property
    def over_set(self) -> dict[str, Facts]:
        """Full name -> facts of the values of a whole set that its state gives."""
        if self.metric is None:
            return {}
        return {name_of(self.metric, facts.name): facts for facts in self.metric.facts if facts.over_set}

    @property
    def headline(self) -> str | None:
        """The value that stands for the metric in an overview: "iou", or that of the metric's own name, or the first
        that has a direction; None where it gives only values of a set.
        """
        directed = [
            name for name, facts in self.values.items() if facts is not None and facts.higher_is_better is not None
        ]
        wanted = (f"{self.group}/iou{self.ends}", f"{self.group}/{self.group}{self.ends}")
        return next((name for name in wanted if name in directed), directed[0] if directed else None)


def computations_of(names: Iterable[str]) -> list[Computation]:
    """The rows of a run by the metric that gave them, in the order in which they come."""
    found: dict[str, Computation] = {}
    for full in names:
        metric, group, value, x, ends = _read(full)
        one = found.setdefault(group + ends, Computation(metric, group, ends))
        if x:
            one.points.setdefault(value, {})[float(x)] = full
        elif value.startswith("."):
            one.parts.append(full)
        else:
            known = () if metric is None else metric.facts
            facts = next((facts for facts in known if facts.name == f"{group}/{value}"), None)
            if facts is not None and facts.over_set:
                one.without.append(full)
            else:
                one.values[full] = facts
    return list(found.values())


def short(name: str) -> str:
    """A value's name without its group: "iou@0.5"."""
    return name.partition("/")[2] or name


def _read(full: str) -> tuple[Metric | None, str, str, str, str]:
    """Metric, group, value's name, x of a curve's point or "", and what its full names end with."""
    body, colon, options = full.partition(":")
    head, *at = body.split("@")
    group, _, value = head.partition("/")
    try:
        parameter = next(iter(as_metrics(group).values())).metric.parameter
        own = at.pop() if parameter and at else ""
        asked = group + (f"@{own}" if own else "") + colon + options
        metric = next(iter(as_metrics(asked).values())).metric
        ends = name_of(metric, "/").removeprefix("/")
        x = at[0] if at else ""
        if len(at) > 1 or (x and not _is_number(x)) or not full.endswith(ends):
            raise MetricError(full)
    except (MetricError, ValueError):
        return None, group, full.partition("/")[2] or full, "", ""
    return metric, group, value, x, ends


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
