"""Metrics of a part as a whole: models with random weights, made once a part; mosaics of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitscope.bench.ask import Given, maps_of
from vitscope.bench.measure import RowBuffer, with_gaps
from vitscope.bench.tasks import Group, Task
from vitscope.bench.traced import Traced, batch_of, window_of
from vitscope.errors import VitscopeError, text_of
from vitscope.explainer import Explainer
from vitscope.methods import Method
from vitscope.metrics import GridMaps, Randomisation, Result, Truth, mosaics
from vitscope.metrics.base import Whole


def measure_whole(
    explainer: Explainer, methods: Mapping[str, Method], group: Group, part: Sequence[Traced], rows: RowBuffer
) -> None:
    """All metrics of a group that go part by part; where one fails, every picture has a row that says so.

    Args:
        explainer: of the model.
        methods: by label.
        group: what is computed.
        part: all batches of the part.
        rows: where the values go.
    """
    for task in group.of_part:
        try:
            for label, traced, result in _WHOLE[task.whole](explainer, methods, task, part):
                rows.add(task, label, traced, result)
        except Exception as error:
            reason = text_of(error)
            for traced in part:
                for label in methods:
                    rows.add(task, label, traced, reason)


@dataclass(frozen=True)
class _Altered:
    """Maps of one randomised depth: a batch's place -> label -> (b rows cols), NaN where there is none."""

    maps: Sequence[Mapping[str, Tensor]]


Measured = tuple[str, Traced, Result | str]


def _sanity(explainer: Explainer, methods: Mapping[str, Method], task: Task, part: Sequence[Traced]) -> list[Measured]:
    """Every method's maps at every depth, for the classes that were explained."""
    assert isinstance(task.metric, Randomisation)
    blocks = [block.name for block in explainer.anatomy.blocks]
    running = replace(explainer.anatomy.running, compiled=False)  # each of these models is met once
    depths: list[_Altered | None] = []
    for step in task.metric.steps(explainer.anatomy.model, blocks):
        try:
            altered = Explainer(
                step.model,
                preprocessing=explainer.preprocessing,
                running=running,
                activation=explainer.activation,
            )
            depths.append(_Altered([_again(altered, methods, traced) for traced in part]))
        except VitscopeError:  # a network of random weights may have no finite output: a depth without maps
            depths.append(None)
    return [
        (label, traced, _compared(task.metric, traced.maps("explained", label), label, depths, place))
        for place, traced in enumerate(part)
        for label in methods
    ]


def _again(explainer: Explainer, methods: Mapping[str, Method], traced: Traced) -> dict[str, Tensor]:
    asked = Given(tuple(traced.classes[traced.asked["explained"]].tolist()))
    return with_gaps(maps_of(explainer, methods, traced.batch, [asked]), 0)


def _compared(
    metric: Randomisation, original: GridMaps, label: str, depths: Sequence[_Altered | None], place: int
) -> Result:
    """Picture by picture where a depth lacks a map of one of them, else together."""
    maps = [None if depth is None else depth.maps[place][label] for depth in depths]
    if not any(one is not None and bool(one.isnan().any()) for one in maps):
        return metric.compare(original, [None if one is None else replace(original, values=one) for one in maps])
    results = []
    for image in range(len(original)):
        cut = slice(image, image + 1)
        mine = [
            None if one is None or bool(one[cut].isnan().any()) else replace(original, values=one[cut]) for one in maps
        ]
        results.append(metric.compare(replace(original, values=original.values[cut]), mine))
    return Result.join(results)


def _mosaics(explainer: Explainer, methods: Mapping[str, Method], task: Task, part: Sequence[Traced]) -> list[Measured]:
    """Fours of the part's correctly classified pictures; not defined for those that are in none."""
    places = [(number, image) for number, traced in enumerate(part) for image in range(len(traced.shots))]
    labels = {place: int(part[place[0]].predicted[place[1]]) for place in places if part[place[0]].correct(place[1])}
    values = {
        label: [torch.full((len(traced.shots),), torch.nan, dtype=torch.float64) for traced in part]
        for label in methods
    }
    for four in _fours(labels):
        made = mosaics(torch.stack([part[n].batch.tensor[i] for n, i in four]), [labels[place] for place in four])
        batch = batch_of(made.tensor)
        found = maps_of(explainer, methods, batch, [Given(tuple(made.labels.tolist()))])
        for label in methods:
            maps = GridMaps(found.maps[0][label], batch.size, window_of(explainer.anatomy, batch))
            shares = _shares(task, maps, made.cells)
            for place, (number, image) in enumerate(four):
                if (0, label, place) not in found.why_not:
                    values[label][number][image] = shares[place]
    return [
        (label, traced, Result({"share": values[label][number]}))
        for number, traced in enumerate(part)
        for label in methods
    ]


def _shares(task: Task, maps: GridMaps, cells: Tensor) -> Tensor:
    result: Result = task.metric(maps, Truth(masks=cells))  # type: ignore[operator]
    return result.values["share"]


def _fours(labels: Mapping[tuple[int, int], int]) -> Iterator[list[tuple[int, int]]]:
    """Fours of different classes: each begins with the first that is left, and takes the next that fit."""
    left = list(labels)
    while left:
        four: list[tuple[int, int]] = []
        for place in left:
            if len(four) < 4 and labels[place] not in {labels[one] for one in four}:
                four.append(place)
        if len(four) < 4:
            return
        left = [place for place in left if place not in four]
        yield four


_WHOLE: Mapping[Whole, Callable[..., list[Measured]]] = {"sanity": _sanity, "mosaics": _mosaics}
