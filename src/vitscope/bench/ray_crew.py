"""The actors of Ray's that compute a run's parts, and what becomes of a part whose actor dies."""

from __future__ import annotations

import importlib
import io
import os
import platform
from collections import Counter, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from vitscope.bench.plan import Part
from vitscope.bench.worker import Advance, Computed, Say
from vitscope.errors import VitscopeError, text_of
from vitscope.explainer import Explainer
from vitscope.images.notes import collected, note

TRIES = 3
"""How often a part is begun by an actor that then dies, and how many actors in a row may fail to load the model."""


class Computer(Protocol):
    """What computes parts: `Worker`, `MapsWorker`."""

    def compute(self, part: Part, advance: Advance = ...) -> Computed:
        """A part's rows."""
        ...


Build = Callable[[Explainer, Say], Computer]
"""Makes a worker of a model. It is sent to the actors, so that it must be of a module that they can import."""


@dataclass
class Crew:
    """The actors of a run, and what is left for them.

    Attributes:
        workers: how many.
        cores, gpus: of each; it has as many threads as cores.
        device: of the model in each.
        packed: what each loads.
        say: see above.
        waiting: parts that no actor has.
        running: what is awaited -> the actor, and its part; None while it loads the model.
        refused: why actors could not load the model, those since the last part.
        deaths: of actors, by part.
        failed: parts that are given up, and why.
    """

    workers: int
    cores: int
    gpus: float
    device: str
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
        count, content = len(self.waiting), library().put(self.packed)
        try:
            for _ in range(min(self.workers, count)):
                self._hire(content)
            while self.waiting or any(part for _, part in self.running.values()):
                if not self.running:
                    raise VitscopeError(f"no worker of Ray's can start: {self.refused[-1]}")
                if (done := self._next(content)) is not None:
                    yield done
                    advance(len(done[0]))
        finally:
            for actor, _ in self.running.values():
                library().kill(actor)
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            raise VitscopeError(
                f"{len(self.failed)} of {count} parts are not computed ({name}: {reason}); the others are written; "
                "run again with --resume"
            )

    def _hire(self, content: Any) -> None:
        """Start an actor and let it load the model."""
        kind = library().remote(_Actor)
        actor = kind.options(num_cpus=self.cores, num_gpus=self.gpus, max_restarts=0).remote()
        self.running[actor.load.remote(content, self.device, os.getcwd())] = (actor, None)

    def _next(self, content: Any) -> tuple[Part, Computed] | None:
        """Wait until an actor is done with something, and give it the next part; the part that it was, if any."""
        ray = library()
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
        computed, said, notes = found
        for line in said:
            self.say(line)
        for line in notes:
            note(line)
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
            library().kill(actor)
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
        build, explainer = torch.load(io.BytesIO(content), map_location=device, weights_only=False)  # nosec B614  # what this run's own driver has put there
        self._worker = build(explainer, self._said.append)

    def compute(self, part: Part) -> tuple[Computed, list[str], list[str]]:
        """A part's rows, what was said meanwhile, and what was noted of its images."""
        assert self._worker is not None
        with collected() as notes:
            computed = self._worker.compute(part, lambda done: None)
        said = [f"{platform.node()}: {line}" for line in self._said]
        self._said.clear()
        return computed, said, notes


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


def library() -> Any:
    """Ray.

    Raises:
        VitscopeError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise VitscopeError(f'--engine ray: needs ray ({error}); pip install "vitscope[ray]"') from error
