"""From presets to what is computed from one trace: metrics that share preprocessing and target share its maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vitscope.activation import Activation
from vitscope.errors import MetricError
from vitscope.metrics import Asked, Metric, Preset, computations, possible
from vitscope.metrics.base import Facts, Whole
from vitscope.metrics.forwards import NO_PROBABILITIES
from vitscope.metrics.registry import whole_of


@dataclass(frozen=True)
class Task:
    """One metric, as a preset asks for it, or several that are alike.

    Attributes:
        metric: with its options.
        names: full names of its values that are asked for, one a picture.
        over_set: full names of those that are of the whole set.
        preset: whose it is; several have commas between.
        correct: whether misclassified pictures are left out.
    """

    metric: Metric
    names: tuple[str, ...]
    over_set: tuple[str, ...]
    preset: str
    correct: bool

    def with_(self, other: Task) -> Task:
        """With the values that an alike preset asks for, of the same metric."""
        return replace(
            self,
            names=self.names + other.names,
            over_set=self.over_set + other.over_set,
            preset=f"{self.preset}, {other.preset}",
        )

    @property
    def facts(self) -> Facts:
        """What its values have in common: kind and truth."""
        return self.metric.facts[0]

    @property
    def rows(self) -> tuple[str, ...]:
        """The metrics of which every picture has a row, whatever happens to it."""
        return self.names or self.over_set

    @property
    def asks(self) -> tuple[Asked, ...]:
        """The classes whose maps it takes."""
        return getattr(self.metric, "asks", ("explained",))

    @property
    def whole(self) -> Whole:
        """What it does with a part as a whole: "sanity", "mosaics", or "" where it goes batch by batch."""
        return whole_of(self.metric)


@dataclass(frozen=True)
class Group:
    """Tasks that share a trace.

    Attributes:
        preprocessing: fields that differ from the model's own.
        target: the class that is explained.
        tasks: what is computed.
    """

    preprocessing: Mapping[str, Any]
    target: str
    tasks: tuple[Task, ...]

    @property
    def batched(self) -> tuple[Task, ...]:
        """Those that go batch by batch."""
        return tuple(task for task in self.tasks if not task.whole)

    @property
    def of_part(self) -> tuple[Task, ...]:
        """Those that go part by part."""
        return tuple(task for task in self.tasks if task.whole)

    @property
    def asks(self) -> tuple[Asked, ...]:
        """The classes whose maps are taken, each once, the explained one first."""
        return tuple(dict.fromkeys(("explained", *(which for task in self.batched for which in task.asks))))


def groups_of(
    presets: Sequence[Preset], truth: Sequence[str], activation: Activation = "softmax"
) -> tuple[list[Group], dict[str, str]]:
    """What is to be computed, and what the data set or the model cannot answer: full name -> why.

    Raises:
        MetricError: nothing is possible, or two presets ask for one metric in two ways: it has one curve a picture.
    """
    tasks: dict[str, dict[Metric, Task]] = {}
    settings: dict[str, Preset] = {}
    owners: dict[Metric, Preset] = {}
    asked: set[str] = set()
    skipped: dict[str, str] = {}
    for preset in presets:
        chosen, lacking = possible(preset.chosen(), truth)
        lacking |= {name: reason for name in chosen if (reason := _unknown_labels(preset, truth))}
        if activation == "none":
            lacking |= {
                name: f"{preset.name}: {name.split('/')[0]} {NO_PROBABILITIES}"
                for name, one in chosen.items()
                if getattr(one.metric, "of_probability", False)
            }
        skipped |= lacking
        key = json.dumps([preset.preprocessing, preset.target], sort_keys=True)
        settings.setdefault(key, preset)
        wanted = {}
        for name, one in chosen.items():
            if name in lacking:
                continue
            owner = owners.setdefault(one.metric, preset)
            if not _alike(owner, preset):
                raise MetricError(
                    f"{owner.name} and {preset.name} both measure {name}, each on pictures or preprocessing of "
                    "its own; run them into two folders"
                )
            if name not in asked:
                asked.add(name)
                wanted[name] = one
        for metric, names in computations(wanted).items():
            single = tuple(name for name in names if not wanted[name].facts.over_set)
            rest = tuple(name for name in names if wanted[name].facts.over_set)
            task = Task(metric, single, rest, preset.name, preset.images == "correct")
            mine = tasks.setdefault(key, {})
            mine[metric] = mine[metric].with_(task) if metric in mine else task
    if not tasks:
        raise MetricError(next(iter(skipped.values()), "no metric is named") + "; name others, or use another dataset")
    return [
        Group(settings[key].preprocessing, settings[key].target, tuple(found.values())) for key, found in tasks.items()
    ], skipped


def _alike(first: Preset, second: Preset) -> bool:
    return all(getattr(first, part) == getattr(second, part) for part in ("preprocessing", "target", "images"))


def _unknown_labels(preset: Preset, truth: Sequence[str]) -> str:
    if "label" in truth or (preset.images == "all" and preset.target == "predicted"):
        return ""
    what = "leaves misclassified pictures out" if preset.images == "correct" else "explains the true class"
    return f"{preset.name} {what}, and of this dataset no true class among the model's outputs is known; use " + (
        "--images all" if preset.images == "correct" else "--target predicted"
    )
