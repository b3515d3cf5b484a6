"""A run's parts computed by Ray: on this machine's cores or GPUs, or on a cluster's.

Plain actors, not Ray Data's `map_batches`. The unit of work is a part, which is neither a row nor a block of rows: Ray
Data would be given a data set of part numbers only to hand each back as a table. And an actor that dies is brought
back by Ray Data with its block as often as it dies, while an exception ends the whole pipeline; here a part is tried a
fixed number of times, is set aside where that is not enough, and the others go on. What is left is small: each actor
has one part at a time, and the parts go to this process, which alone writes, in the order in which they are done.

The model is sent to the actors, with the targets, once a machine: no actor fetches weights, and all compute with the
parameters that were planned with. The pictures are read where the actors run, under the same paths.
"""

from __future__ import annotations

import importlib
import io
import os
import platform
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from vitscope.bench.measure import text_of
from vitscope.bench.plan import Part
from vitscope.bench.worker import Advance, Computed, Say
from vitscope.errors import VitscopeError
from vitscope.explainer import Explainer

TRIES = 3
"""How often a part is begun by an actor that then dies, and how many actors in a row may fail to load the model."""


class Computer(Protocol):
    """What computes parts: `Worker`, `MapsWorker`."""

    def compute(self, part: Part, advance: Advance = ...) -> Computed:
        """A part's rows."""
        ...


Build = Callable[[Explainer, Say], Computer]
"""Makes a worker of a model. It is sent to the actors, so that it must be of a module that they can import."""


@dataclass(frozen=True)
class OnRay:
    """Where a run's parts are computed.

    Attributes:
        workers: actors, each with the model.
        gpus_per_worker: of each; a share where several have one GPU together. None: one where `device` is CUDA's, else
            none.
        address: of a cluster ("auto", "ray://head:10001"); None starts Ray on this machine and ends it afterwards. A
            program that is connected already stays so.
        device: of the model in each actor; "cuda" where they have GPUs.

    Raises:
        VitscopeError: no worker, less than no GPU, or Ray is not installed.
    """

    workers: int = 1
    gpus_per_worker: float | None = None
    address: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise VitscopeError(f"--workers {self.workers}: give 1 or more")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus % 1):
            raise VitscopeError(f"--gpus-per-worker {self.gpus:g}: give a whole number, or a share of one GPU")
        _library()

    @property
    def gpus(self) -> float:
        """Of an actor."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return float(self.device.startswith("cuda"))

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "engine": "ray",
            "ray": _library().__version__,
            "workers": self.workers,
            "gpus_per_worker": self.gpus,
            "device": "cuda" if self.gpus else self.device,
        }

    def over(
        self, build: Build, explainer: Explainer, say: Say
    ) -> Callable[[Sequence[Part], Advance], Generator[tuple[Part, Computed], None, None]]:
        """The engine.

        Args:
            build: makes a worker.
            explainer: of the plan's model; a copy is sent to each actor.
            say: is told what a person should know, such as an actor that died.
        """

        def engine(parts: Sequence[Part], advance: Advance) -> Generator[tuple[Part, Computed], None, None]:
            if parts:
                content = packed(build, explainer)
                with self._connected(say) as cores:
                    yield from _Crew(self, cores, content, say, deque(parts)).run(advance)

        return engine

    @contextmanager
    def _connected(self, say: Say) -> Iterator[int]:
        """Connected to Ray, which reports to nobody; gives an actor's cores.

        Raises:
            VitscopeError: no cluster is at the address, or this machine has not what the workers need.
        """
        ray = _library()
        if ray.is_initialized():
            self._check_room(ray, say, grows=True)
            yield 1
            return
        own: dict[str, Any] = {"address": self.address}
        cores = 1
        if self.address is None:
            cores = max(1, (os.cpu_count() or 1) // self.workers)
            own = {"address": "local", "num_cpus": cores * self.workers, "include_dashboard": False}
        before = os.environ.get("RAY_USAGE_STATS_ENABLED")
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            ray.init(**own, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            where = f"--address {self.address}: no Ray cluster answers" if self.address else "Ray does not start"
            raise VitscopeError(
                f"{where} ({text_of(error)}); " + ("give another" if self.address else "take --engine local")
            ) from error
        finally:
            os.environ.pop("RAY_USAGE_STATS_ENABLED")
            if before is not None:
                os.environ["RAY_USAGE_STATS_ENABLED"] = before
        try:
            self._check_room(ray, say, grows=self.address is not None)
            yield cores
        finally:
            ray.shutdown()

    def _check_room(self, ray: Any, say: Say, grows: bool) -> None:
        """Hold the workers against what there is; a cluster may grow, so that there it is only said."""
        there = ray.cluster_resources()
        for kind, each in (("GPU", self.gpus), ("CPU", 1)):
            need, have = each * self.workers, there.get(kind, 0)
            if need <= have:
                continue
            lack = f"{self.workers} workers need {need:g} {kind}s, and Ray has {have:g}"
            if not grows:
                raise VitscopeError(f"{lack}; give fewer --workers, or a smaller --gpus-per-worker")
            say(f"{lack}; those that find no room wait for it")


@dataclass
class _Crew:
    """The actors of a run, and what is left for them.

    Attributes:
        on: how many, and of what kind.
        cores: of each, and so its threads.
        packed: what each loads.
        say: see above.
        waiting: parts that no actor has.
        running: what is awaited -> the actor, and its part; None while it loads the model.
        refused: why actors could not load the model, those since the last part.
        deaths: of actors, by part.
        failed: parts that are given up, and why.
    """

    on: OnRay
    cores: int
    packed: bytes
    say: Say
    waiting: deque[Part]
    running: dict[Any, tuple[Any, Part | None]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    deaths: Counter[Part] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, advance: Advance) -> Generator[tuple[Part, Computed], None, None]:
        """The parts, as they are done.

        Raises:
            VitscopeError: no actor can load the model; or, after all the others, parts that were not computed.
        """
        count, content = len(self.waiting), _library().put(self.packed)
        try:
            for _ in range(min(self.on.workers, count)):
                self._hire(content)
            while self.waiting or any(part for _, part in self.running.values()):
                if not self.running:
                    raise VitscopeError(f"no worker of Ray's can start: {self.refused[-1]}")
                if (done := self._next(content)) is not None:
                    yield done
                    advance(len(done[0]))
        finally:
            for actor, _ in self.running.values():
                _library().kill(actor)
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            raise VitscopeError(
                f"{len(self.failed)} of {count} parts are not computed ({name}: {reason}); the others are written; "
                "run again with --resume"
            )

    def _hire(self, content: Any) -> None:
        """Start an actor and let it load the model."""
        kind = _library().remote(_Actor)
        actor = kind.options(num_cpus=self.cores, num_gpus=self.on.gpus, max_restarts=0).remote()
        device = "cuda" if self.on.gpus else self.on.device
        self.running[actor.load.remote(content, device, os.getcwd())] = (actor, None)

    def _next(self, content: Any) -> tuple[Part, Computed] | None:
        """Wait until an actor is done with something, and give it the next part; the part that it was, if any."""
        ray = _library()
        (ready,), _ = ray.wait(list(self.running), num_returns=1)
        actor, part = self.running.pop(ready)
        try:
            found = ray.get(ready)
        except ray.exceptions.RayTaskError as error:  # what the worker raised: the actor lives
            self._raised(actor, part, text_of(getattr(error, "cause", None) or error))
            return None
        except ray.exceptions.RayError as error:  # the actor is lost, or its machine
            ray.kill(actor)
            self._lost(part, f"{type(error).__name__}: {str(error).splitlines()[0].rstrip('.')}", content)
            return None
        self._give(actor)
        if part is None:
            return None
        computed, said = found
        for line in said:
            self.say(line)
        self.refused.clear()
        return part, computed

    def _give(self, actor: Any) -> None:
        """The next part, if there is one; an actor without goes."""
        if self.waiting:
            part = self.waiting.popleft()
            self.running[actor.compute.remote(part)] = (actor, part)

    def _raised(self, actor: Any, part: Part | None, reason: str) -> None:
        if part is None:
            self._refuse(reason)
            _library().kill(actor)
            return
        self.failed[part.name] = reason
        self.say(f"{part.name} fails ({reason}); going on with the others")
        self._give(actor)

    def _lost(self, part: Part | None, reason: str, content: Any) -> None:
        if part is None:
            self._refuse(reason)
            if len(self.refused) < TRIES:
                self._hire(content)
            return
        self.deaths[part] += 1
        if self.deaths[part] < TRIES:
            self.waiting.appendleft(part)
        else:
            self.failed[part.name] = f"its worker died {TRIES} times, {reason}"
        self.say(f"a worker died at {part.name} ({reason}); starting another")
        if self.waiting:
            self._hire(content)

    def _refuse(self, reason: str) -> None:
        self.refused.append(reason)
        self.say(f"a worker cannot start ({reason})")


class _Actor:
    """In a process of Ray's: holds the model once, computes parts."""

    def __init__(self) -> None:
        self._worker: Computer | None = None
        self._said: list[str] = []

    def load(self, content: bytes, device: str, folder: str) -> None:
        """Take the model in.

        Args:
            content: from `packed`.
            device: for the model.
            folder: the one that paths start from.

        Raises:
            VitscopeError: the folder or the data are not on this machine, or it has no such device.
        """
        if not Path(folder).is_dir():
            raise VitscopeError(f"{folder}: is not on {platform.node()}; begin the run in a folder that all share")
        os.chdir(folder)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise VitscopeError(f"{platform.node()}: PyTorch sees no GPU there; install its CUDA build")
        build, explainer = torch.load(io.BytesIO(content), map_location=device, weights_only=False)
        self._worker = build(explainer, self._said.append)

    def compute(self, part: Part) -> tuple[Computed, list[str]]:
        """A part's rows, and what was said meanwhile."""
        assert self._worker is not None
        computed = self._worker.compute(part, lambda done: None)
        said = [f"{platform.node()}: {line}" for line in self._said]
        self._said.clear()
        return computed, said


def packed(build: Build, explainer: Explainer) -> bytes:
    """A worker's recipe and its model, for any device.

    Raises:
        VitscopeError: the model holds something that cannot be sent.
    """
    buffer = io.BytesIO()
    try:
        torch.save((build, explainer), buffer, pickle_module=importlib.import_module("ray.cloudpickle"))
    except Exception as error:  # a model may hold anything
        raise VitscopeError(
            f"the model cannot be sent to Ray's workers ({text_of(error)}); use --engine local"
        ) from error
    return buffer.getvalue()


def facts_of(on: OnRay | None, device: object) -> Mapping[str, Any]:
    """Of an engine, for the manifest."""
    return {"device": str(device or "cpu"), "engine": "local"} if on is None else on.describe()


def _library() -> Any:
    """Ray.

    Raises:
        VitscopeError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise VitscopeError(f'--engine ray: needs ray ({error}); pip install "vitscope[ray]"') from error
