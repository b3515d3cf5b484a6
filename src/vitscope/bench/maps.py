"""Maps at scale: the raw maps of any number of pictures as Parquet parts; `read.py` reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from vitscope.attribution import Subject
from vitscope.bench.digests import target_of
from vitscope.bench.maps_plan import Kind, MapsPlan
from vitscope.bench.on_ray import OnRay, facts_of
from vitscope.bench.plan import Part
from vitscope.bench.run import Outcome, Progress, in_turn, run_parts
from vitscope.bench.store import Store
from vitscope.bench.worker import Advance, Computed, Say, halving
from vitscope.errors import VitscopeError, text_of
from vitscope.explainer import Explainer
from vitscope.images import Batch, Preprocessing, ReadAhead, Unread, prepare
from vitscope.methods import Method, as_methods, with_budget
from vitscope.parse import as_unicode
from vitscope.provenance import parameters_of
from vitscope.targets import Target

MOST = 64
"""Outputs that are all kept; of models with more, the highest ones."""
TOP = 10
"""How many these are."""


def schema_of(dtype: Kind) -> pa.Schema:
    """Of the parts.

    `classes` and `logits` are all outputs of a model of at most 64, else the 10 highest, in falling order; `values` are
    rows times cols numbers, row by row. The list has no fixed size, since a row with an error has none.
    """
    values = pa.float16() if dtype == "float16" else pa.float32()
    return pa.schema(
        [
            ("image", pa.string()),
            ("method", pa.string()),
            ("target", pa.int64()),
            ("prediction", pa.int64()),
            ("probability", pa.float64()),
            ("target_logit", pa.float64()),
            ("classes", pa.list_(pa.int32())),
            ("logits", pa.list_(pa.float32())),
            ("rows", pa.int32()),
            ("cols", pa.int32()),
            ("values", pa.list_(values)),
            ("error", pa.string()),
        ]
    )


Record = dict[str, Any]


class MapsWorker:
    """Computes the parts of one plan of maps, with the model held once."""

    def __init__(
        self,
        plan: MapsPlan,
        explainer: Explainer,
        target: Target,
        *,
        batch_size: int = 16,
        readers: int | None = 0,
        say: Say = lambda line: None,
    ) -> None:
        """Of one plan.

        Args:
            plan: what is computed.
            explainer: of its model.
            target: what is explained.
            batch_size: pictures in a pass.
            readers: processes that read pictures, as of `ReadAhead`.
            say: is told what a person should know.

        Raises:
            VitscopeError: the model is another than the plan's.
        """
        if parameters_of(explainer.anatomy.model) != plan.parameters:
            raise VitscopeError(f"{plan.model}: has other weights than when the run was planned; give the same file")
        self.plan, self.batch_size = plan, batch_size
        self._explainer, self._target, self._say = explainer, target, say
        self._methods: dict[str, Method] = with_budget(as_methods(list(plan.methods)), plan.max_forwards)
        self._schema = schema_of(plan.dtype)
        read = partial(_prepared, preprocessing=explainer.preprocessing)
        self._reader = ReadAhead(read, workers=readers, ahead=batch_size, say=say)

    def expect(self, parts: Sequence[Part]) -> None:
        """Begin to read these parts' pictures, which will be computed in this order."""
        self._reader.expect([path for part in parts for path in self.plan.images[part.start : part.stop]])

    def close(self) -> None:
        """End what reads."""
        self._reader.close()

    def compute(self, part: Part, advance: Advance = lambda done: None) -> Computed:
        """The maps of a part; whatever fails is a row with its error."""
        records: list[Record] = []
        said: dict[str, Any] = {}

        def compute(paths: Sequence[str], _: bool) -> None:
            fresh, ready = self._read(paths)
            if ready:
                fresh += self._explain(ready, said)
            records.extend(fresh)

        paths = self.plan.images[part.start : part.stop]
        self.batch_size = halving(
            paths,
            self.batch_size,
            compute,
            lambda path, why: records.extend(self._failed(path, why)),
            advance,
            self._say,
        )
        records.sort(key=lambda record: (record["image"], record["method"]))
        provenance = json.dumps(said | {"plan": self.plan.describe()}, ensure_ascii=False)
        schema = self._schema.with_metadata({"vitscope.provenance": provenance})
        table = pa.Table.from_pylist(records, schema=schema)
        return Computed(table, {"failed": len({one["image"] for one in records if one["error"]})})

    def _read(self, paths: Sequence[str]) -> tuple[list[Record], list[tuple[str, Batch]]]:
        failed: list[Record] = []
        ready = []
        for path, found in zip(paths, self._reader.take(paths), strict=True):
            if isinstance(found, Unread):
                failed += self._failed(path, found.reason)
            else:
                ready.append((path, found))
        return failed, ready

    def _explain(self, ready: Sequence[tuple[str, Batch]], said: dict[str, Any]) -> list[Record]:
        """The rows of a batch.

        Raises:
            VitscopeError: it fails as a whole; or in one method, where it is of several pictures.
        """
        batch = Batch.join([one for _, one in ready], next(self._explainer.anatomy.model.parameters()).device)
        explanation = self._explainer(batch, self._methods, self._target, strict=False)
        if explanation.failures and len(ready) > 1:
            return [record for one in ready for record in self._explain_alone(one, said)]
        said.update(explanation.subject.provenance)
        records = []
        for place, (path, _) in enumerate(ready):
            head = _head(explanation.subject, place)
            for label in self._methods:
                record = {"image": path, "method": label, **head, "error": None}
                if label in explanation.attributions:
                    values = explanation.attributions[label].values[place].detach().cpu()
                    numbers = values.to(getattr(torch, self.plan.dtype)).flatten().numpy()
                    record |= {"rows": values.shape[0], "cols": values.shape[1], "values": numbers}
                else:
                    record["error"] = " ".join(explanation.failures[label].split())
                records.append(record)
        return records

    def _explain_alone(self, one: tuple[str, Batch], said: dict[str, Any]) -> list[Record]:
        try:
            return self._explain([one], said)
        except VitscopeError as error:
            return self._failed(one[0], text_of(error))

    def _failed(self, path: str, reason: str) -> list[Record]:
        about = {"image": as_unicode(path), "error": " ".join(reason.split())}
        return [about | {"method": label} for label in self._methods]


def store_maps(
    plan: MapsPlan,
    explainer: Explainer,
    target: Target,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 16,
    readers: int | None = 0,
    resume: bool = False,
    overwrite: bool = False,
    engine: OnRay | None = None,
    progress: Progress = lambda done, total: None,
    say: Say = lambda line: None,
) -> Outcome:
    """Write the maps of a plan's pictures into a folder, part by part; `read_maps` reads them.

    Args:
        plan: from `plan_maps`.
        explainer: of its model.
        target: what is explained.
        folder: for the parts and the manifest.
        batch_size, readers, resume, overwrite, engine, progress, say: as for `bench`.

    Raises:
        VitscopeError: the target is another than the plan's, the folder holds another run or cannot be written, or the
            disk is full.
    """
    if target_of(target) != plan.target:
        raise VitscopeError(f"the target is another than when the run was planned ({plan.asked}); plan with the same")
    store = Store.begin(Path(folder), plan.describe(), plan.hash, resume=resume, overwrite=overwrite)
    facts = {**facts_of(engine, explainer), "kind": "maps"}
    if engine is not None:
        build = partial(worker_of, plan, target, batch_size)
        return run_parts(plan, store, engine.over(build, explainer, say), facts, progress)
    worker = MapsWorker(plan, explainer, target, batch_size=batch_size, readers=readers, say=say)
    return run_parts(plan, store, in_turn(worker), facts, progress)


def _prepared(path: str, preprocessing: Preprocessing) -> Batch:
    return prepare(path, preprocessing).light()


def worker_of(plan: MapsPlan, target: Target, batch_size: int, explainer: Explainer, say: Say) -> MapsWorker:
    """A worker of a model that is at hand."""
    return MapsWorker(plan, explainer, target, batch_size=batch_size, say=say)


def _head(subject: Subject, place: int) -> Record:
    """What all methods' rows of a picture share."""
    logits = subject.logits[place].detach().float().cpu()
    predicted, asked = subject.prediction(place), subject.class_of(place)
    top = logits.sort(descending=True) if len(logits) <= MOST else logits.topk(TOP)
    kept = subject.classifier
    return {
        "target": None if asked is None else asked["index"],
        "prediction": None if predicted is None else predicted["index"],
        "probability": None if asked is None else asked["probability"],
        "target_logit": None if asked is None else asked["logit"],
        "classes": top.indices.tolist() if kept else None,
        "logits": top.values.tolist() if kept else None,
    }
