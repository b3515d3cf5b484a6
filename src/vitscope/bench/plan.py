"""What a run computes, frozen: model, data, methods, metrics, seed; and a hash that tells two runs apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vitscope.activation import Activation
from vitscope.bench.digests import annotations_of, files_of
from vitscope.bench.tasks import Group, groups_of
from vitscope.bench.truth import kinds_of_truth
from vitscope.datasets import Dataset, open_dataset
from vitscope.defaults import PART
from vitscope.errors import MethodError, VitscopeError
from vitscope.explainer import Explainer
from vitscope.methods import Method, as_methods, with_budget
from vitscope.metrics import Preset, as_presets
from vitscope.models import Running
from vitscope.provenance import parameters_of


@dataclass(frozen=True)
class Part:
    """A fixed slice of a plan's pictures: the unit of work, of files and of resuming.

    Attributes:
        index: its number.
        start, stop: of the plan's pictures, the last one left out.
    """

    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"part-{self.index:05d}"

    def __len__(self) -> int:
        return self.stop - self.start


def parts_of(count: int, size: int) -> list[Part]:
    """`count` pictures in parts of `size`."""
    starts = range(0, count, size)
    return [Part(index, start, min(start + size, count)) for index, start in enumerate(starts)]


@dataclass(frozen=True)
class Plan:
    """A benchmark; two that would give other rows have other hashes. Batch size and device are no part of it.

    Attributes:
        model: its name, or the class of a module.
        weights: the file that was named, or None.
        parameters: SHA-256 of all parameters and buffers.
        source: the data set as it was named, with its options.
        dataset: what makes the data the same again (`open_dataset`), the SHA-256 of the pictures' names among it; and
            of data that lie in files, that of the `annotations`, and of the `files` that its options name.
        methods: labels, with their options.
        presets: metrics with their preprocessing, target and choice of pictures.
        truth: what the data set can tell.
        own: the preprocessing that the presets start from, and what of it was asked for by name.
        seed: of all that is drawn at random for a picture, and of the choice of pictures where there is a limit.
        max_forwards: for methods that sample altered pictures, or None.
        part_size: pictures in a part; mosaics and randomised models are made a part.
        versions: of the packages that the numbers rest on.
        running: how the model is run.
        activation: what turns its outputs into probabilities.
        weights_key: of the weights in their file, or None.
    """

    model: str
    weights: str | None
    parameters: str
    source: str
    dataset: Mapping[str, Any]
    methods: tuple[str, ...]
    presets: tuple[Preset, ...]
    truth: tuple[str, ...]
    own: Mapping[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    max_forwards: int | None = None
    part_size: int = PART
    versions: Mapping[str, str] = field(default_factory=dict)
    running: Running = field(default_factory=Running)
    activation: Activation = "softmax"
    weights_key: str | None = None

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        content = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        content["presets"] = [preset.describe() for preset in self.presets]
        content["running"] = self.running.describe()
        plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
        return plain

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of all that decides the rows."""
        return hash_of(deciding(self.describe()))

    @property
    def count(self) -> int:
        """Of pictures."""
        return int(self.dataset["count"])

    def parts(self) -> list[Part]:
        """The units of work."""
        return parts_of(self.count, self.part_size)

    def chosen_methods(self) -> dict[str, Method]:
        """By label, in the order of the table."""
        return with_budget(as_methods(list(self.methods)), self.max_forwards)

    def groups(self) -> list[Group]:
        """What is computed from one trace each."""
        return groups_of(self.presets, self.truth, self.activation)[0]

    def skipped(self) -> dict[str, str]:
        """Metrics that the data set or the model cannot answer: full name -> why."""
        return groups_of(self.presets, self.truth, self.activation)[1]

    def open(self) -> Dataset:
        """The data set.

        Raises:
            DatasetError: it is not there.
            VitscopeError: its pictures, or the files that its options name, are others than the plan's.
        """
        found = dataset_of(self.source, self.dataset["root"], self.dataset["limit"], self.dataset["seed"])
        if found.provenance["ids"] != self.dataset["ids"]:
            raise VitscopeError(
                f"{self.dataset['root'] or self.source}: holds other pictures than when the run was planned; "
                "put them back, or begin a new run in another folder"
            )
        here, planned = _behind(found, annotations=False), self.dataset.get("files", {})
        if other := [key for key, digest in planned.items() if here.get("files", {}).get(key) != digest]:
            raise VitscopeError(
                f"{self.source}: the file of {other[0]}= is another than when the run was planned; put it back, or "
                "begin a new run in another folder"
            )
        return found

    def load(self, device: str | torch.device | None = None) -> Explainer:
        """The model.

        Raises:
            ModelError: it cannot be loaded.
            VitscopeError: its parameters are others than the plan's.
        """
        explainer = Explainer(
            self.model,
            self.weights,
            preprocessing=dict(self.asked),
            device=device,
            running=self.running,
            activation=self.activation,
            weights_key=self.weights_key,
        )
        if parameters_of(explainer.anatomy.model) != self.parameters:
            raise VitscopeError(f"{self.model}: has other weights than when the run was planned; give the same file")
        return explainer


def make_plan(
    explainer: Explainer,
    source: str,
    root: str | os.PathLike[str] | None = None,
    *,
    methods: str | Sequence[str] = "daam,agcam,cdam",
    metrics: str | Sequence[str | Preset] = "agcam",
    limit: int | None = None,
    seed: int | None = None,
    asked: Mapping[str, Any] | None = None,
    max_forwards: int | None = None,
    part_size: int = PART,
) -> Plan:
    """Hold model, data, methods and metrics against each other, before anything is computed.

    Args:
        explainer: of the model, which must have a classifier.
        source: the data set with its options, as for `open_dataset`.
        root: its folder.
        methods: names, or a list of these.
        metrics: presets and metrics as for `as_presets`, or presets.
        limit: at most so many pictures: the first, or with a seed a random choice.
        seed: of that choice, and of all that is drawn at random; None takes the first, and 0 for what is drawn.
        asked: fields of the preprocessing that go before the presets' own.
        max_forwards: for methods that sample altered pictures.
        part_size: pictures in a part.

    Raises:
        VitscopeError: anything unknown, missing or impossible.
    """
    anatomy = explainer.anatomy
    if not anatomy.outputs:
        raise VitscopeError(
            f"{anatomy.name} has no classifier, so that no class is predicted; give weights with a head"
        )
    labels = list(as_methods(methods)) if isinstance(methods, str) else list(methods)
    chosen = with_budget(as_methods(labels), max_forwards)
    for label, method in chosen.items():
        if reason := explainer.why_not(label, method):
            raise MethodError(f"{reason}; leave it out of --methods")
    if part_size < 1:
        raise VitscopeError(f"{part_size} pictures make no part; give 1 or more")
    presets = _presets(metrics, dict(asked or {}))
    for preset in presets:
        explainer.preprocessing.replaced(**preset.preprocessing)
    dataset = dataset_of(source, root, limit, seed)
    truth = kinds_of_truth(dataset)
    groups_of(presets, truth, explainer.activation)
    return Plan(
        model=str(explainer.source["model"] or type(anatomy.model).__name__),
        weights=None if explainer.source["weights"] is None else str(explainer.source["weights"]),
        parameters=parameters_of(anatomy.model),
        source=source,
        dataset={**dataset.provenance, **_behind(dataset)},
        methods=tuple(labels),
        presets=tuple(presets),
        truth=truth,
        own=explainer.preprocessing.describe(),
        asked=dict(asked or {}),
        seed=seed or 0,
        max_forwards=max_forwards,
        part_size=part_size,
        versions={name: version(name) for name in ("vitscope", "torch", "timm", "numpy", "scipy", "captum", "pillow")},
        running=anatomy.running,
        activation=explainer.activation,
        weights_key=explainer.source["weights_key"],
    )


def dataset_of(source: str, root: str | os.PathLike[str] | None, limit: int | None, seed: int | None) -> Dataset:
    """A data set under its folder's whole path."""
    return open_dataset(source, None if root is None else Path(root).resolve(), limit=limit, seed=seed)


def deciding(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plan decides its rows: not where the weights or the data lie, nor how forwards are made faster.

    The weights are known by their own hash, the data by that of the pictures' names and annotations and by their
    folder's own name, as pictures of another folder may be called the same. In place of a file that the data set's
    options name stands its content's; the source as it was typed, which names it too, is then left out, as the options
    say the same. A precision of float32 and an activation of softmax go without saying, so that runs from before there
    was another go on.

    Args:
        content: from `Plan.describe`, `MapsPlan.describe`, or as a manifest has it: no file is looked at.
    """
    precision = content["running"]["precision"]
    kept = {key: value for key, value in content.items() if key not in ("weights", "weights_key", "running")}
    if kept.get("activation") == "softmax":
        del kept["activation"]
    data = dict(kept.get("dataset", {}))
    if root := data.get("root"):
        kept["dataset"] = data = data | {"root": Path(root).name}
    if files := data.pop("files", None):
        kept["dataset"] = data | {"options": {**data["options"], **files}}
        del kept["source"]
    return kept if precision == "float32" else kept | {"precision": precision}


def hash_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _behind(dataset: Dataset, annotations: bool = True) -> dict[str, Any]:
    """What decides the truth of an opened data set beside its pictures' names; of drawn data its options say all."""
    facts = dataset.provenance
    files = files_of(facts["dataset"], facts["options"])
    found: dict[str, Any] = {"files": files} if files else {}
    if annotations and dataset.info.needs_root:
        found["annotations"] = annotations_of(dataset)
    return found


def _presets(metrics: str | Sequence[str | Preset], asked: dict[str, Any]) -> list[Preset]:
    named = [metrics] if isinstance(metrics, str) else list(metrics)
    found = [preset for one in named for preset in ([one] if isinstance(one, Preset) else as_presets(one))]
    return [dataclasses.replace(one, preprocessing={**one.preprocessing, **asked}) for one in found]
