"""A plan run part by part, in this process or by Ray; an interrupted run goes on where it was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from vitscope.bench.on_ray import OnRay, facts_of
from vitscope.bench.plan import Part, Plan
from vitscope.bench.store import Store
from vitscope.bench.worker import Computed, Say, Worker
from vitscope.explainer import Explainer
from vitscope.metrics import name_of

Progress = Callable[[int, int], object]
"""Is told how many pictures are done, those of an earlier run among them, and of how many."""


class Run(Protocol):
    """What is run: a plan of metrics or of maps."""

    @property
    def hash(self) -> str:
        """Of all that decides the rows."""
        ...

    @property
    def count(self) -> int:
        """Of pictures."""
        ...

    def parts(self) -> list[Part]:
        """The units of work."""
        ...

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        ...


Compute = Callable[[Sequence[Part], Callable[[int], object]], Generator[tuple[Part, Computed], None, None]]
"""An engine: the parts that are missing, and what is to be told how many pictures are done -> the parts computed, in
any order."""


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        folder: with its manifest and parts.
        images: of the plan.
        failed: pictures with an error.
        left_out: preset -> misclassified pictures that it leaves out.
        computed: parts that this call computed; the others were there.
    """

    folder: Path
    images: int
    failed: int
    left_out: Mapping[str, int]
    computed: int


def bench(
    plan: Plan,
    folder: str | os.PathLike[str],
    *,
    explainer: Explainer | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 16,
    readers: int | None = 0,
    resume: bool = False,
    overwrite: bool = False,
    engine: OnRay | None = None,
    progress: Progress = lambda done, total: None,
    say: Say = lambda line: None,
) -> Outcome:
    """Run a plan.

    Args:
        plan: from `make_plan`.
        folder: for the parts and the manifest.
        explainer: of the plan's model, where it is at hand.
        device: for a model that is loaded; one at hand stays where it is.
        batch_size: pictures in a pass; the rows do not depend on it, but for the rounding of the model's own numbers.
        readers: processes that read pictures ahead of the passes; 0 reads in this one, None leaves it to the machine.
            An engine's workers read their own.
        resume: go on with an interrupted run.
        overwrite: delete what another run left in the folder.
        engine: Ray's actors; None computes in this process.
        progress: is told how far it is: by Ray's actors, after each part.
        say: is told what a person should know, such as a batch that was halved.

    Raises:
        VitscopeError: model, data or folder do not go with the plan, or the disk is full.
    """
    store = Store.begin(Path(folder), plan.describe(), plan.hash, resume=resume, overwrite=overwrite)
    known = {} if explainer is None else {"classes": list(explainer.names.names)}
    explainer = explainer or plan.load(None if engine else device)
    facts = {**facts_of(engine, explainer), **manifest_of(plan), **known}
    if engine is not None:
        build = partial(worker_of, plan, batch_size)
        return run_parts(plan, store, engine.over(build, explainer, say), facts, progress)
    worker = Worker(plan, explainer=explainer, batch_size=batch_size, readers=readers, say=say)
    return run_parts(plan, store, in_turn(worker), facts, progress)


def worker_of(plan: Plan, batch_size: int, explainer: Explainer, say: Say) -> Worker:
    """A worker of a model that is at hand."""
    return Worker(plan, explainer=explainer, batch_size=batch_size, say=say)


class Local(Protocol):
    """What computes parts in this process: `Worker`, `MapsWorker`."""

    def expect(self, parts: Sequence[Part]) -> None:
        """These parts will be computed, in this order."""
        ...

    def compute(self, part: Part, advance: Callable[[int], object]) -> Computed:
        """A part's rows."""
        ...

    def close(self) -> None:
        """There are no more."""
        ...


def in_turn(worker: Local) -> Compute:
    """The engine of one worker on this machine."""

    def engine(parts: Sequence[Part], advance: Callable[[int], object]) -> Generator[tuple[Part, Computed], None, None]:
        with closing(worker):
            worker.expect(parts)
            for part in parts:
                yield part, worker.compute(part, advance)

    return engine


def run_parts(run: Run, store: Store, engine: Compute, facts: Mapping[str, Any], progress: Progress) -> Outcome:
    """Compute the parts that are missing, write each, and sum them up in the manifest.

    Args:
        run: what is run.
        store: its folder.
        engine: computes parts.
        facts: for the manifest.
        progress: is told how far it is.

    Raises:
        VitscopeError: the disk is full, or the folder cannot be written.
    """
    parts = run.parts()
    missing = store.missing(parts)
    done = run.count - sum(map(len, missing))
    head = {"plan": run.describe(), "parts": len(parts), **facts}
    store.write_manifest({"status": "running", **head})
    progress(done, run.count)
    reached = [done]

    def advance(more: int) -> None:
        reached[0] += more
        progress(reached[0], run.count)

    began = time.monotonic()
    with closing(engine(missing, advance)) as found_parts:
        for part, computed in found_parts:
            store.write(part, computed.table, computed.facts)
    found = [store.facts(part) or {} for part in parts]
    left_out: dict[str, int] = {}
    for one in found:
        for preset, count in one.get("left_out", {}).items():
            left_out[preset] = left_out.get(preset, 0) + count
    failed = sum(one.get("failed", 0) for one in found)
    store.write_manifest(
        {
            "status": "complete",
            **head,
            "images": run.count,
            "failed": failed,
            "left_out": left_out,
            "last_session": {"parts": len(missing), "seconds": round(time.monotonic() - began, 1)},
        }
    )
    return Outcome(store.folder, run.count, failed, left_out, len(missing))


def manifest_of(plan: Plan) -> dict[str, Any]:
    """What a reader of the rows should know: each value's facts, settings and preset, and what is not there and why."""
    metrics = []
    for group in plan.groups():
        for task in group.tasks:
            facts = {name_of(task.metric, one.name): one for one in task.metric.facts}
            for name in (*task.names, *task.over_set):
                one = facts[name]
                metrics.append(
                    {
                        "metric": name,
                        "title": one.title,
                        "paper": one.paper,
                        "higher_is_better": one.higher_is_better,
                        "range": [limit if abs(limit) != float("inf") else None for limit in one.range],
                        "kind": one.kind,
                        "over_set": one.over_set,
                        "preset": task.preset,
                        "images": "correct" if task.correct else "all",
                        "target": group.target,
                        "preprocessing": {**plan.own, **group.preprocessing},
                    }
                )
    return {"metrics": metrics, "skipped": plan.skipped()}
