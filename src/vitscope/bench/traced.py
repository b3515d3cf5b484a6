"""A batch of pictures with all methods' maps, from one trace."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vitscope.bench.ask import Found, Given, InOrder, Question, maps_of, single
from vitscope.bench.tasks import Group, Task
from vitscope.bench.truth import BatchTruth, joined, known_of
from vitscope.datasets import Opened
from vitscope.explainer import Explainer
from vitscope.images import Batch, Geometry, Preprocessing, prepare
from vitscope.methods import Method
from vitscope.metrics import Asked, GridMaps, Pictures
from vitscope.models import Anatomy
from vitscope.provenance import reach_of


def key_of(image: str, seed: int) -> int:
    """The number that decides, with a metric's own seed, what is drawn at random for a picture."""
    return zlib.crc32(f"{seed}/{image}".encode())


@dataclass(frozen=True)
class Shot:
    """A picture that could be read, with its truth.

    Attributes:
        id: its name in the data set.
        labels: its true classes among the model's outputs.
        opened: its truth, without the picture; None where that is no longer needed.
        inputs: the picture as the model takes it, a batch of one, by `key_of_inputs`.
    """

    id: str
    labels: tuple[int, ...]
    opened: Opened | None
    inputs: Mapping[str, Batch]

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
        window: of the input that the maps cover, as of `GridMaps`.
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
    window: tuple[float, float, float, float] | None = None

    def light(self) -> Traced:
        """The same without the photographs."""
        batch = replace(self.batch, originals=())
        return replace(self, batch=batch, shots=[replace(shot, opened=None, inputs={}) for shot in self.shots])

    def only(self, places: Sequence[int]) -> Traced:
        """The same of some of its pictures."""
        index = torch.tensor(places)
        there = index.to(self.pictures.tensor.device)
        pictures = replace(
            self.pictures,
            tensor=self.pictures.tensor[there],
            explained=self.pictures.explained[there],
            labels=None if self.pictures.labels is None else self.pictures.labels[there],
            keys=tuple(self.pictures.keys[place] for place in places),
            made={},
        )
        return replace(
            self,
            shots=[self.shots[place] for place in places],
            batch=Batch.join([single(self.batch, place) for place in places]),
            pictures=pictures,
            geometries=[self.geometries[place] for place in places],
            classes=[classes[index] for classes in self.classes],
            found=self.found.only(places),
            predicted=self.predicted[index],
        )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the input."""
        return self.pictures.size

    def maps(self, which: Asked, label: str) -> GridMaps:
        """One method's maps of one asked class."""
        return GridMaps(self.found.maps[self.asked[which]][label], self.size, self.window)

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


def key_of_inputs(fields: Mapping[str, Any]) -> str:
    """What tells inputs of one preprocessing from those of another, by the fields that differ from the model's own."""
    return json.dumps(fields, sort_keys=True)


def shot_of(opened: Opened, own: Preprocessing, groups: Sequence[Mapping[str, Any]], masks: bool) -> Shot:
    """What is taken from an opened picture, from then on without the picture.

    Args:
        opened: it.
        own: the model's preprocessing.
        groups: the fields of each group that differ from it.
        masks: whether its masks are wanted; those that cannot be read are told when they are asked for.
    """
    inputs = {
        key: prepare(opened.picture, own.replaced(**fields)).light()
        for key, fields in {key_of_inputs(fields): fields for fields in groups}.items()
    }
    wanted = opened if masks else replace(opened, item=replace(opened.item, load_masks=None))
    return Shot(opened.item.id, opened.item.labels or (), wanted.without_picture(needed=False), inputs)


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
        explainer.anatomy.placement(batch.size).sides(explainer.anatomy.patch),
        explainer.preprocessing.mean,
        explainer.preprocessing.std,
        classes[asked["explained"]].to(tensor.device),
        torch.tensor([_within(label, found.logits.shape[1]) for label in labels], device=tensor.device),
        keys,
        activation=explainer.activation,
    )
    predicted = found.logits.argmax(dim=1)
    window = window_of(explainer.anatomy, batch)
    return Traced(shots, batch, pictures, batch.geometries, asked, classes, found, predicted, group.target, window)


def window_of(anatomy: Anatomy, batch: Batch) -> tuple[float, float, float, float] | None:
    """What of the model's input its maps cover, as of `GridMaps`; None where that is all of it."""
    placement = anatomy.placement(batch.size)
    window = placement.window(reach_of(anatomy, placement, anatomy.grid(batch.size)))
    return None if placement.identical or window == (0, 0, *batch.size) else window


def truth_of(traced: Traced) -> BatchTruth:
    """What is known of the batch."""
    explained = traced.classes[traced.asked["explained"]].tolist()
    known = [
        known_of(shot.opened, geometry, target)
        for shot, geometry, target in zip(traced.shots, traced.geometries, explained, strict=True)
        if shot.opened
    ]
    return joined(known, [shot.label for shot in traced.shots], traced.size)


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
