"""A batch's metrics from one trace: rows of one value a picture, method and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitscope.bench.ask import Found, Given, maps_of
from vitscope.bench.tasks import Group, Task
from vitscope.bench.traced import Traced, batch_of, truth_of
from vitscope.bench.truth import BatchTruth
from vitscope.errors import text_of
from vitscope.explainer import Explainer
from vitscope.methods import Method
from vitscope.metrics import (
    Forwards,
    ModelScorer,
    Result,
    evaluate,
    name_of,
    over_alterations,
    rows_of,
)
from vitscope.trace.chunks import out_of_memory

AT_ONCE = 64
"""Altered pictures in one forward."""

Row = tuple[str, str, str, float | None, int | None, int | None, str | None]
"""image, method, metric, value, target, prediction, error."""


@dataclass
class RowBuffer:
    """Rows that are not written yet.

    Attributes:
        rows: so far.
        left_out: preset -> pictures that it leaves out.
        failed: pictures with an error.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, set[str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def take(self, other: RowBuffer) -> None:
        """Add another's."""
        self.rows += other.rows
        self.failed |= other.failed
        for preset, images in other.left_out.items():
            self.left_out.setdefault(preset, set()).update(images)

    def fail(self, image: str, labels: Iterable[str], tasks: Iterable[Task], reason: str) -> None:
        """A row with the error for every method and metric of a picture of which nothing is known."""
        for task in tasks:
            for label in labels:
                self._null(image, label, task, None, None, reason)

    def add(
        self, task: Task, label: str, traced: Traced, result: Result | str, truth: BatchTruth | None = None
    ) -> None:
        """One method's values of a batch, or why there are none; NaN where a value is not defined for a picture.

        Where the metric's truth is not known of a picture, its values are not defined either; where it cannot be read,
        that is the error. None is for a metric that brings its own.
        """
        kind = task.facts.truth
        targets = traced.classes[traced.asked[task.asks[0]]].tolist()
        columns = {} if isinstance(result, str) else kept(task, result)
        for image, shot in enumerate(traced.shots):
            predicted = int(traced.predicted[image])
            target = int(targets[image])
            if traced.left_out(task, image):
                self.left_out.setdefault(task.preset, set()).add(shot.id)
            elif reason := (
                traced.why_not(task, label, image)
                or (truth and truth.why_not(kind, image))
                or (result if isinstance(result, str) else None)
            ):
                self._null(shot.id, label, task, target, predicted, reason)
            elif truth is not None and not truth.there[kind][image]:
                for name in task.rows:
                    self.rows.append((shot.id, label, name, float("nan"), target, predicted, None))
            else:
                for name, values in columns.items():
                    self.rows.append((shot.id, label, name, values[image], target, predicted, None))

    def _null(self, image: str, label: str, task: Task, target: int | None, predicted: int | None, reason: str) -> None:
        self.failed.add(image)
        text = " ".join(reason.split())
        self.rows += [(image, label, name, None, target, predicted, text) for name in task.rows]


def kept(task: Task, result: Result) -> dict[str, list[float]]:
    """The columns of a result that a task keeps: the values that are asked for, parts and curves."""
    columns = rows_of(task.metric, result)
    unwanted = {name_of(task.metric, name) for name in result.values} - set(task.names)
    return {name: column.tolist() for name, column in columns.items() if name not in unwanted}


def measure(
    explainer: Explainer, methods: Mapping[str, Method], group: Group, traced: Traced, rows: RowBuffer, alone: bool
) -> None:
    """All batched metrics of a group, for all methods.

    Args:
        explainer: of the model.
        methods: by label.
        group: what is computed.
        traced: the batch.
        rows: where they go.
        alone: whether the batch is one picture by itself, so that what a metric fails at is a row; otherwise it raises.

    Raises:
        Exception: whatever a metric fails at, where not `alone`; a lack of memory always.
    """
    left = [place for place in range(len(traced.shots)) if not _left_out_by_all(group, traced, place, rows)]
    if not left:
        return
    traced = traced if len(left) == len(traced.shots) else traced.only(left)
    truth = truth_of(traced)
    scorer = ModelScorer.of(explainer.anatomy)
    at_once = min(AT_ONCE, explainer.passes.fit() or AT_ONCE)
    forwards = Forwards(scorer, traced.pictures, traced.found.logits.to(traced.pictures.tensor.device), at_once)
    for task in group.batched:
        compute = {"map": _of_map, "pair": _of_pair, "forward": _of_forward, "explain": _of_stability}[task.facts.kind]
        results = _results(partial(compute, explainer, task, traced, truth, forwards), methods, alone)
        for label in methods:
            rows.add(task, label, traced, results.get(label, f"{label} gave no map of the altered pictures"), truth)


def _left_out_by_all(group: Group, traced: Traced, image: int, rows: RowBuffer) -> bool:
    """Whether no task wants the picture, which is then not measured; the rows are told."""
    if not all(traced.left_out(task, image) for task in group.batched):
        return False
    for task in group.batched:
        rows.left_out.setdefault(task.preset, set()).add(traced.shots[image].id)
    return True


Results = dict[str, Result | str]


def _results(compute: Callable[[Mapping[str, Method]], Results], methods: Mapping[str, Method], alone: bool) -> Results:
    """Of one metric; where it fails at a picture alone, method by method, so that each failure is its own method's."""
    try:
        return compute(methods)
    except Exception as error:
        if not alone or out_of_memory(error):
            raise
        if len(methods) == 1:
            return dict.fromkeys(methods, text_of(error))
    each = (_results(compute, {label: method}, alone) for label, method in methods.items())
    return {label: result for found in each for label, result in found.items()}


def _of_map(_: Any, task: Task, traced: Traced, truth: BatchTruth, __: Any, methods: Mapping[str, Method]) -> Results:
    known = truth.of(task.facts.truth)
    return {label: task.metric(traced.maps(task.asks[0], label), known) for label in methods}  # type: ignore[operator]


def _of_pair(_: Any, task: Task, traced: Traced, truth: BatchTruth, __: Any, methods: Mapping[str, Method]) -> Results:
    known = truth.of(task.facts.truth)
    first, second = task.asks
    return {
        label: task.metric(traced.maps(first, label), traced.maps(second, label), known)  # type: ignore[operator]
        for label in methods
    }


def _of_forward(
    _: Any, task: Task, traced: Traced, __: Any, forwards: Forwards, methods: Mapping[str, Method]
) -> Results:
    results = evaluate([(task.metric, traced.maps(task.asks[0], label)) for label in methods], forwards)  # type: ignore[misc]
    return dict(zip(methods, results, strict=True))


def _of_stability(
    explainer: Explainer, task: Task, traced: Traced, _: Any, __: Any, methods: Mapping[str, Method]
) -> Results:
    explained = traced.classes[traced.asked["explained"]].tolist()

    def explains(pictures: Tensor, index: Tensor) -> Mapping[str, Tensor]:
        batch = batch_of(pictures)
        found = maps_of(explainer, methods, batch, [Given(tuple(explained[image] for image in index.tolist()))])
        return with_gaps(found, 0)

    maps = {label: traced.maps("explained", label).values for label in methods}
    return dict(over_alterations(task.metric, traced.pictures, maps, explains, len(traced.shots)))  # type: ignore[arg-type]


def with_gaps(found: Found, place: int) -> dict[str, Tensor]:
    """The maps of one question, NaN where a method has none."""
    maps = {label: values.clone() for label, values in found.maps[place].items()}
    for asked, label, image in found.why_not:
        if asked == place:
            maps[label][image] = torch.nan
    return maps
