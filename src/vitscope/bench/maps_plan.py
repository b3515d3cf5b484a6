"""What maps at scale are of: model, pictures and methods under a hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

from vitscope.activation import Activation
from vitscope.bench.digests import target_of
from vitscope.bench.plan import Part, deciding, hash_of, parts_of
from vitscope.defaults import PART
from vitscope.errors import VitscopeError
from vitscope.explainer import Explainer
from vitscope.methods import as_methods
from vitscope.models import Running
from vitscope.parse import as_unicode
from vitscope.provenance import parameters_of
from vitscope.targets import Target

Kind = Literal["float32", "float16"]


@dataclass(frozen=True)
class MapsPlan:
    """Which maps are made of which pictures.

    Attributes:
        model, weights: as they were named.
        parameters: SHA-256 of all parameters and buffers.
        images: paths.
        methods: labels, with their options.
        asked: the target in words.
        target: SHA-256 of all that it is made of: two concepts, or banks, may be called the same.
        preprocessing: of the pictures.
        dtype: of the maps' values.
        max_forwards: for methods that sample altered pictures.
        part_size: pictures in a part.
        versions: of the packages.
        running: how the model is run.
        activation: what turns its outputs into probabilities.
        weights_key: of the weights in their file, or None.
    """

    model: str
    weights: str | None
    parameters: str
    images: tuple[str, ...] = field(repr=False)
    methods: tuple[str, ...] = ()
    asked: str = ""
    target: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    dtype: Kind = "float32"
    max_forwards: int | None = None
    part_size: int = PART
    versions: Mapping[str, str] = field(default_factory=dict)
    running: Running = field(default_factory=Running)
    activation: Activation = "softmax"
    weights_key: str | None = None

    def describe(self) -> dict[str, Any]:
        """Ready for JSON; of the pictures their number, and the SHA-256 of their paths."""
        content = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "images"}
        content["running"] = self.running.describe()
        digest = hashlib.sha256("\n".join(map(as_unicode, self.images)).encode()).hexdigest()
        plain: dict[str, Any] = json.loads(json.dumps(content | {"images": {"count": self.count, "paths": digest}}))
        return plain

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of all that decides the rows."""
        return hash_of(deciding(self.describe()))

    @property
    def count(self) -> int:
        """Of pictures."""
        return len(self.images)

    def parts(self) -> list[Part]:
        """The units of work."""
        return parts_of(self.count, self.part_size)


def plan_maps(
    explainer: Explainer,
    images: Sequence[str | os.PathLike[str]],
    methods: str | Sequence[str],
    target: Target,
    *,
    dtype: Kind = "float32",
    max_forwards: int | None = None,
    part_size: int = PART,
) -> MapsPlan:
    """Hold model and methods against each other, before a picture is read.

    Raises:
        VitscopeError: no picture, a type that is no dtype, a path twice, or a method that is unknown.
    """
    paths = tuple(str(path) for path in images)
    if not paths:
        raise VitscopeError("there is no picture to explain; name pictures, or a folder with pictures in it")
    if len(set(paths)) < len(paths):
        raise VitscopeError(f"{next(p for p in paths if paths.count(p) > 1)}: is named twice; name each picture once")
    if dtype not in ("float32", "float16"):
        raise VitscopeError(f"--dtype {dtype}: give float32 or float16")
    labels = list(as_methods(methods)) if isinstance(methods, str) else list(methods)
    source = explainer.source
    return MapsPlan(
        model=str(source["model"] or type(explainer.anatomy.model).__name__),
        weights=None if source["weights"] is None else str(source["weights"]),
        parameters=parameters_of(explainer.anatomy.model),
        images=paths,
        methods=tuple(labels),
        asked=target.describe(explainer.names),
        target=target_of(target),
        preprocessing=explainer.preprocessing.describe(),
        dtype=dtype,
        max_forwards=max_forwards,
        part_size=part_size,
        versions={name: version(name) for name in ("vitscope", "torch", "timm")},
        running=explainer.anatomy.running,
        activation=explainer.activation,
        weights_key=source["weights_key"],
    )
