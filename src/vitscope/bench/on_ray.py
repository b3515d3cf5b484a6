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

import os
import re
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vitscope.bench.plan import Part
from vitscope.bench.ray_crew import Build, Crew, library, packed
from vitscope.bench.worker import Advance, Computed, Say
from vitscope.errors import VitscopeError, text_of
from vitscope.explainer import Explainer


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
        library()

    @property
    def gpus(self) -> float:
        """Of an actor."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return float(self.device.startswith("cuda"))

    @property
    def where(self) -> str:
        """The model's device in an actor: Ray shows each its own GPUs only."""
        return "cuda" if self.gpus else self.device

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "engine": "ray",
            "ray": library().__version__,
            "workers": self.workers,
            "gpus_per_worker": self.gpus,
            "device": self.where,
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
                    yield from Crew(self.workers, cores, self.gpus, self.where, content, say, deque(parts)).run(advance)

        return engine

    @contextmanager
    def _connected(self, say: Say) -> Iterator[int]:
        """Connected to Ray, which reports to nobody; gives an actor's cores.

        Raises:
            VitscopeError: no cluster is at the address, or this machine has not what the workers need.
        """
        ray = library()
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
            if self.address is not None:
                _knock(self.address)
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


def facts_of(on: OnRay | None, explainer: Explainer) -> Mapping[str, Any]:
    """Of an engine, for the manifest; the local one computes where its model is."""
    if on is not None:
        return on.describe()
    return {"device": str(next(explainer.anatomy.model.parameters()).device), "engine": "local"}


def _knock(address: str) -> None:
    """OSError where nobody listens at host:port, which takes Ray minutes to tell; other forms are left to Ray."""
    if found := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address):
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
