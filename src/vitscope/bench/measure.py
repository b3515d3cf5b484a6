"""A batch's metrics from one trace: rows of one value a picture, method and metric."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vitscope.bench.ask import Found, Given, InOrder, Question, maps_of
from vitscope.bench.tasks import Group, Task
from vitscope.bench.truth import BatchTruth, joined, known_of
from vitscope.datasets import Opened
from vitscope.errors import VitscopeError
from vitscope.explainer import Explainer
from vitscope.images import Batch, Geometry, Preprocessing, prepare
from vitscope.methods import Method
from vitscope.metrics import (
    Asked,
    Forwards,
    GridMaps,
    ModelScorer,
    Pictures,
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


def key_of(image: str, seed: int) -> int:
    """The number that decides, with a metric's own seed, what is drawn at random for a picture."""
    return zlib.crc32(f"{seed}/{image}".encode())


@dataclass(frozen=True)
class Shot:
    """A picture that could be read, with its truth.

    Attributes:
        id: its name in the data set.
        labels: its true classes among the model's outputs.
        opened: picture and truth; None where they are no longer needed.
    """

    id: str
    labels: tuple[int, ...]
    opened: Opened | None

    @property
    def label(self) -> int | None:
        """The true class, where it has one only."""
        return self.labels[0] if len(self.labels) == 1 else None


@dataclass(frozen=True)
class Traced:
    """A batch with its maps.

    Attributes:
        shots: the pictures.
        batch: as the model takes them.
        pictures: the same, for metrics that alter them.
        geometries: where the input lies on each original.
        asked: class asked for -> its place among the questions.
        classes: a question's classes, (b) each.
        found: maps of all methods for all questions.
        predicted: (b).
        target: the class that the group explains: "predicted" or "label".
    """

    shots: Sequence[Shot]
    batch: Batch
    pictures: Pictures
    geometries: Sequence[Geometry]
    asked: Mapping[Asked, int]
    classes: Sequence[Tensor]
    found: Found
    predicted: Tensor
    target: str

    def light(self) -> Traced:
        """The same without the photographs."""
        batch = replace(self.batch, originals=())
        return replace(self, batch=batch, shots=[replace(shot, opened=None) for shot in self.shots])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the input."""
        return self.pictures.size

    def maps(self, which: Asked, label: str) -> GridMaps:
        """One method's maps of one asked class."""
        return GridMaps(self.found.maps[self.asked[which]][label], self.size)

    def correct(self, image: int) -> bool:
        """Whether the predicted class is a true one."""
        return int(self.predicted[image]) in self.shots[image].labels

    def why_not(self, task: Task, label: str, image: int) -> str | None:
        """Why a task has no value for one method and picture: what is unknown of its class, or why there is no map."""
        shot, outputs = self.shots[image], self.found.logits.shape[1]
        of_label = "label" in (self.target if which == "explained" else which for which in task.asks)
        strange = [index for index in shot.labels if not 0 <= index < outputs]
        if strange and (of_label or task.correct or task.facts.truth == "label"):
            return f"{shot.id}: its class {strange[0]} is none of the model's {outputs} outputs; check the labels"
        if task.correct and not shot.labels:
            return (
                f"{shot.id}: its true class is not known, so that it cannot be called misclassified; use --images all"
            )
        if of_label and shot.label is None:
            return f"{shot.id}: has no one true class; use --target predicted"
        places = (self.asked[which] for which in task.asks)
        return next((why for place in places if (why := self.found.why_not.get((place, label, image)))), None)

    def in_range(self, image: int) -> bool:
        """Whether the model has an output for each of a picture's classes."""
        return all(0 <= index < self.found.logits.shape[1] for index in self.shots[image].labels)

    def left_out(self, task: Task, image: int) -> bool:
        """Whether a task leaves a picture out, as misclassified."""
        return task.correct and bool(self.shots[image].labels) and self.in_range(image) and not self.correct(image)


def prepared(shots: Sequence[Shot], preprocessing: Preprocessing) -> Batch:
    """The pictures as the model takes them."""
    return Batch.join([prepare(shot.opened.picture, preprocessing) for shot in shots if shot.opened])


def trace(
    explainer: Explainer, methods: Mapping[str, Method], group: Group, shots: Sequence[Shot], batch: Batch, seed: int
) -> Traced:
    """One pass over a batch for all methods and all classes that the group's metrics ask for.

    Raises:
        VitscopeError: the pass fails.
    """
    keys = tuple(key_of(shot.id, seed) for shot in shots)
    asked: dict[Asked, int] = {}
    questions: list[Question] = []
    for which in group.asks:
        question = _question(which, group.target, shots, keys, explainer.anatomy.outputs)
        if question not in questions:
            questions.append(question)
        asked[which] = questions.index(question)
    found = maps_of(explainer, methods, batch, questions)
    classes = [question.classes(found.logits) for question in questions]
    labels = [shot.label for shot in shots]
    tensor = batch.tensor.to(next(explainer.anatomy.model.parameters()).device)
    pictures = Pictures(
        tensor,
        explainer.anatomy.patch,
        explainer.preprocessing.mean,
        explainer.preprocessing.std,
        classes[asked["explained"]].to(tensor.device),
        torch.tensor([_within(label, found.logits.shape[1]) for label in labels], device=tensor.device),
        keys,
    )
    predicted = found.logits.argmax(dim=1)
    return Traced(shots, batch, pictures, batch.geometries, asked, classes, found, predicted, group.target)


def truth_of(traced: Traced) -> BatchTruth:
    """What is known of the batch.

    Raises:
        ImageError, DatasetError: a mask cannot be read.
    """
    explained = traced.classes[traced.asked["explained"]].tolist()
    known = [
        known_of(shot.opened, geometry, target)
        for shot, geometry, target in zip(traced.shots, traced.geometries, explained, strict=True)
        if shot.opened
    ]
    return joined(known, [shot.label for shot in traced.shots], traced.size)


@dataclass
class Rows:
    """Rows under way.

    Attributes:
        rows: so far.
        left_out: preset -> pictures that it leaves out.
        failed: pictures with an error.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, set[str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def take(self, other: Rows) -> None:
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

    def add(self, task: Task, label: str, traced: Traced, there: Tensor, result: Result | str) -> None:
        """One method's values of a batch, or why there are none; NaN where a value is not defined for a picture.

        Where the metric's truth is not known of a picture, its values are not defined either.
        """
        targets = traced.classes[traced.asked[task.asks[0]]].tolist()
        columns = {} if isinstance(result, str) else kept(task, result)
        for image, shot in enumerate(traced.shots):
            predicted = int(traced.predicted[image])
            target = int(targets[image])
            if traced.left_out(task, image):
                self.left_out.setdefault(task.preset, set()).add(shot.id)
            elif reason := traced.why_not(task, label, image) or (result if isinstance(result, str) else None):
                self._null(shot.id, label, task, target, predicted, reason)
            elif not there[image]:
                for name in task.names:
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
    explainer: Explainer, methods: Mapping[str, Method], group: Group, traced: Traced, rows: Rows, alone: bool
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
        Exception: whatever a metric or a mask fails at, where not `alone`; a lack of memory always.
    """
    truth = truth_of(traced)
    scorer = ModelScorer(explainer.anatomy.model, explainer.anatomy.forward)
    forwards = Forwards(scorer, traced.pictures, traced.found.logits.to(traced.pictures.tensor.device), AT_ONCE)
    for task in group.batched:
        compute = {"map": _of_map, "pair": _of_pair, "forward": _of_forward, "explain": _of_stability}[task.facts.kind]
        there = truth.there[task.facts.truth]
        try:
            results = compute(explainer, methods, task, traced, truth, forwards)
        except Exception as error:
            if not alone or out_of_memory(error):
                raise
            results = dict.fromkeys(methods, text_of(error))
        for label in methods:
            rows.add(task, label, traced, there, results.get(label, f"{label} gave no map of the altered pictures"))


def text_of(error: BaseException) -> str:
    """An error as one line; the kind of one that is not ours is named."""
    words = " ".join(str(error).split())
    return words if isinstance(error, VitscopeError) else f"{type(error).__name__}: {words[:300]}"


Results = dict[str, Result | str]


def _of_map(_: Any, methods: Mapping[str, Method], task: Task, traced: Traced, truth: BatchTruth, __: Any) -> Results:
    known = truth.of(task.facts.truth)
    return {label: task.metric(traced.maps(task.asks[0], label), known) for label in methods}  # type: ignore[operator]


def _of_pair(_: Any, methods: Mapping[str, Method], task: Task, traced: Traced, truth: BatchTruth, __: Any) -> Results:
    known = truth.of(task.facts.truth)
    first, second = task.asks
    return {
        label: task.metric(traced.maps(first, label), traced.maps(second, label), known)  # type: ignore[operator]
        for label in methods
    }


def _of_forward(
    _: Any, methods: Mapping[str, Method], task: Task, traced: Traced, __: Any, forwards: Forwards
) -> Results:
    results = evaluate([(task.metric, traced.maps(task.asks[0], label)) for label in methods], forwards)  # type: ignore[misc]
    return dict(zip(methods, results, strict=True))


def _of_stability(
    explainer: Explainer, methods: Mapping[str, Method], task: Task, traced: Traced, _: Any, __: Any
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


def batch_of(pictures: Tensor) -> Batch:
    """Normalised pictures (b 3 H W) of which there are no originals."""
    height, width = pictures.shape[-2:]
    names = tuple(f"image-{index}" for index in range(len(pictures)))
    return Batch(pictures, (Geometry.identity(height, width),) * len(pictures), (), names)


def _within(label: int | None, outputs: int) -> int:
    return 0 if label is None or not 0 <= label < outputs else label


def _question(which: Asked, target: str, shots: Sequence[Shot], keys: tuple[int, ...], outputs: int) -> Question:
    """What is asked of a batch; where the data set cannot say, of the predicted class, and that is thrown away."""
    if which == "explained":
        which = "label" if target == "label" else "predicted"
    pick: dict[str, Callable[[Shot], int | None]] = {
        "label": lambda shot: shot.label,
        "object": lambda shot: shot.labels[0] if len(shot.labels) == 2 else None,
        "other object": lambda shot: shot.labels[1] if len(shot.labels) == 2 else None,
    }
    if which not in pick:
        return InOrder(which, keys)
    indices = [pick[which](shot) for shot in shots]
    return Given(tuple(None if index is None or not 0 <= index < outputs else index for index in indices))
