"""The metrics by name, and the reading of "group/name@parameter:option=value,option=value"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor

from vitscope.errors import MethodError, MetricError, nearest
from vitscope.methods.registry import choices_of, read_option, split_methods
from vitscope.metrics.base import Curve, Facts, Kind, Metric, Result, Whole

_METRICS: dict[str, type[Metric]] = {}
M = TypeVar("M", bound=type)


@dataclass(frozen=True)
class Chosen:
    """One value that is asked for: the metric that gives it, and which of its values."""

    metric: Metric
    facts: Facts


def register_metric(metric: M) -> M:
    """Register a metric class under its group; used as a decorator above `@dataclass(frozen=True)`."""
    kind: type[Metric] = metric
    group = group_of(kind)
    if group in _METRICS:
        raise ValueError(f"a metric called {group} is registered already")
    if any(facts.name.split("/")[0] != group for facts in kind.facts):
        raise ValueError(f"the values of {group} do not share its group")
    if kind.parameter and kind.parameter not in _fields(kind):
        raise ValueError(f"{group} has no option '{kind.parameter}' to stand after the @")
    if whole_of(kind) not in get_args(Whole):
        raise ValueError(
            f"{group} is measured by '{whole_of(kind)}'; there is {', '.join(filter(None, get_args(Whole)))}"
        )
    _METRICS[group] = kind
    return metric


def group_of(metric: Metric | type[Metric]) -> str:
    """The group of its values: "agcam"."""
    return metric.facts[0].name.split("/")[0]


def whole_of(metric: Metric | type[Metric]) -> Whole:
    """How it is measured where that is not batch by batch, else ""; see `Whole`."""
    return getattr(metric, "whole", "")


def list_metrics() -> list[Facts]:
    """The facts of every value of every metric, kind by kind; `name_of` adds the parameter."""
    return [facts for metric in _in_order() for facts in metric.facts]


def default_names() -> dict[str, Facts]:
    """Every value by the full name that it has with the default options: "agcam/iou@0.5"."""
    return {name: chosen.facts for name, chosen in as_metrics([group_of(metric) for metric in _in_order()]).items()}


def options_of(group: str) -> dict[str, tuple[str, Any]]:
    """A metric's options: name -> (what it may be, its default).

    Raises:
        MetricError: an unknown group.
    """
    kind = _known(group, group)
    hints = get_type_hints(kind)
    return {name: (choices_of(hints[name]), field.default) for name, field in _fields(kind).items()}


def name_of(metric: Metric, name: str) -> str:
    """The full name of a metric's value, by which rows are kept: group/name@parameter:option=value.

    Args:
        metric: with its options; those that differ from their defaults are named.
        name: the value's, with or without its group.
    """
    return (name if "/" in name else f"{group_of(metric)}/{name}") + _ending(metric)


def as_metrics(wanted: str | Sequence[str | Metric]) -> dict[str, Chosen]:
    """The values that a user's words mean, by their full names.

    Args:
        wanted: "agcam/iou@0.5", a group "agcam" or "agcam@0.3" for all its values, options after a colon
            ("srg:steps=20"); several with commas between or as a sequence; or Metrics, for all their values.

    Raises:
        MetricError: an unknown name or option, or a value twice.
    """
    found: dict[str, Chosen] = {}
    for entry in split_methods(wanted) if isinstance(wanted, str) else wanted:
        for chosen in _chosen(entry) if isinstance(entry, str) else _all_of(entry):
            name = name_of(chosen.metric, chosen.facts.name)
            if name in found:
                raise MetricError(f"{name} is named twice; name it once")
            found[name] = chosen
    if not found:
        raise MetricError(f"no metric is named; known: {', '.join(_METRICS)}")
    return found


def computations(chosen: Mapping[str, Chosen]) -> dict[Metric, list[str]]:
    """Each metric once, with the full names of its values that are asked for."""
    found: dict[Metric, list[str]] = {}
    for name, one in chosen.items():
        found.setdefault(one.metric, []).append(name)
    return found


def rows_of(metric: Metric, result: Result, curves: bool = True) -> dict[str, Tensor]:
    """A result as columns, full name -> (b) float64.

    Values are "group/name", what only a state reads "group/.name", and the points of a curve "group/name@x".

    Args:
        metric: that gave it.
        result: of a batch.
        curves: whether the curves are wanted; a state that reads them cannot be made again without.
    """
    ends = _ending(metric)
    head = group_of(metric)
    columns = {f"{head}/{name}{ends}": column for name, column in result.values.items()}
    columns |= {f"{head}/.{name}{ends}": column for name, column in result.parts.items()}
    for name, curve in result.curves.items() if curves else ():
        points = zip(curve.x.tolist(), curve.y.unbind(dim=1), strict=True)
        columns |= {f"{head}/{name}@{x:.6g}{ends}": column for x, column in points}
    return columns


def result_of(metric: Metric, rows: Mapping[str, Tensor]) -> Result:
    """The result again, from `rows_of` as they were stored; rows of other metrics are left alone."""
    head, ends = f"{group_of(metric)}/", _ending(metric)
    values: dict[str, Tensor] = {}
    parts: dict[str, Tensor] = {}
    points: dict[str, list[tuple[float, Tensor]]] = {}
    for full, column in rows.items():
        name = full.removeprefix(head)
        if name == full or not name.endswith(ends):
            continue
        name, _, x = name.removesuffix(ends).partition("@")
        if ":" in name + x:  # of the same metric with other options
            continue
        if x:
            points.setdefault(name, []).append((float(x), column))
        else:
            (parts if name.startswith(".") else values)[name.removeprefix(".")] = column
    curves = {}
    for name, of_curve in points.items():
        of_curve.sort(key=lambda point: point[0])
        curves[name] = Curve(
            torch.tensor([x for x, _ in of_curve], dtype=torch.float64), torch.stack([y for _, y in of_curve], dim=1)
        )
    return Result(values, curves, parts)


def _ending(metric: Metric) -> str:
    """What the full names of a metric's values end with: @parameter:options."""
    fields = _fields(type(metric))
    changed = [
        f"{key}={_text(getattr(metric, key))}"
        for key, field in fields.items()
        if key != metric.parameter and getattr(metric, key) != field.default
    ]
    parameter = f"@{_text(getattr(metric, metric.parameter))}" if metric.parameter else ""
    return parameter + (":" + ",".join(changed) if changed else "")


def _chosen(words: str) -> list[Chosen]:
    """Of one entry "group", "group/name", with @parameter and :options where there are any."""
    head, _, options = words.strip().partition(":")
    name, _, parameter = head.partition("@")
    group, _, value = name.partition("/")
    kind = _known(group, name)
    offered = [facts for facts in kind.facts if not value or facts.name == name]
    if not offered:
        there = ", ".join(facts.name for facts in kind.facts)
        raise MetricError(f"unknown metric '{name}'; {group} gives {there}")
    given = [f"{kind.parameter}={parameter}"] if parameter else []
    if parameter and not kind.parameter:
        raise MetricError(f"{group} takes no parameter after @; write {name}")
    metric = _built(kind, group, [*given, *filter(None, options.split(","))])
    return [Chosen(metric, facts) for facts in offered]


def _built(kind: type[Metric], group: str, options: Sequence[str]) -> Metric:
    hints, fields = get_type_hints(kind), _fields(kind)
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in fields:
            offer = f"it takes {', '.join(sorted(fields))}" if fields else "it takes no options"
            raise MetricError(f"{group} has no option '{key}'; {offer}")
        try:
            values[key] = read_option(value, hints[key], f"{group}:{key}")
        except MethodError as error:
            raise MetricError(str(error)) from error
    return kind(**values)


def _all_of(metric: Metric) -> list[Chosen]:
    return [Chosen(metric, facts) for facts in metric.facts]


def _in_order() -> list[type[Metric]]:
    """Every metric, in the order of listings: by kind, then by name."""
    kinds = get_args(Kind)
    return sorted(_METRICS.values(), key=lambda metric: (kinds.index(metric.facts[0].kind), group_of(metric)))


def _known(group: str, name: str) -> type[Metric]:
    if group not in _METRICS:
        raise MetricError(f"unknown metric '{name}'{nearest(group, _METRICS) or '; known: ' + ', '.join(_METRICS)}")
    return _METRICS[group]


def _fields(kind: type[Metric]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
