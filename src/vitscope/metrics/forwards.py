"""The model's output for altered pictures: planned by metrics, made lazily, run in full batches for all methods.

metric.plan(pictures, maps) -> Plan        which pictures, each made when it is its turn
Forwards(scorer, pictures)(plans)          runs them, whatever method or metric they are of, in batches of one size;
                                           pictures that do not depend on a map are run once for all
metric.finish(pictures, maps, scores) -> Result
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from vitscope.activation import Activation, activated
from vitscope.errors import MetricError
from vitscope.metrics.base import Asked, Facts, GridMaps, Pictures, Result
from vitscope.models import Anatomy
from vitscope.trace import left_as_found
from vitscope.trace.guard import fitted

UNALTERED = "unaltered"
"""The key of the pictures as they are."""

Read = Callable[[Tensor, Tensor], Tensor]
"""Outputs (k c) of altered pictures and the indices (k) of their originals -> one value each (k)."""


NO_PROBABILITIES = (
    "is defined on probabilities, and the model's outputs are none, as those of a regression or a single output; use "
    "a metric of the output itself (srg, mif_lif, box_sensitivity), or give the activation sigmoid or softmax"
)


Name = TypeVar("Name", bound=Hashable)


class Scorer(Protocol):
    """The model's output for altered pictures."""

    def __call__(self, pictures: Tensor, index: Tensor) -> Tensor:
        """Outputs (k c) of normalised pictures (k 3 H W) whose originals in the batch are `index` (k)."""
        ...


@dataclass(frozen=True)
class ModelScorer:
    """A plain module as a Scorer: evaluation mode, no gradients, in its own dtype; the model is left as found.

    Attributes:
        model: images (b 3 H W) -> output (b c).
        call: images -> output, where the model's own output is not such a tensor, or where it is run in another way
            (`Anatomy.plain`); None: the model.
        compiled: whether `call` is compiled by torch; what is not asked for is run as it was written.
    """

    model: nn.Module
    call: Callable[[Tensor], Tensor] | None = None
    compiled: bool = False

    @classmethod
    def of(cls, anatomy: Anatomy) -> ModelScorer:
        """A model, run as its description says."""
        return cls(anatomy.model, anatomy.plain, anatomy.running.compiled)

    def __call__(self, pictures: Tensor, index: Tensor) -> Tensor:
        """One forward."""
        with left_as_found(self.model, watched=not self.compiled), torch.no_grad():
            output: Tensor = (self.call or self.model)(fitted(pictures, self.model))
        return output


@dataclass(frozen=True)
class Plan:
    """Altered pictures of a batch, not yet made. Axis s: the steps.

    Attributes:
        keys: a step each: None, or what names the alteration where it does not depend on a map; pictures of one key
            are run once a batch, for all methods and metrics.
        alter: step, indices of images (k) -> these images altered, (k 3 H W) normalised.
        read: what is kept of the output; see `Read`.
    """

    keys: tuple[Hashable | None, ...]
    alter: Callable[[int, Tensor], Tensor]
    read: Read

    def __len__(self) -> int:
        return len(self.keys)


class ForwardMetric(Protocol):
    """A metric of what the model says to altered pictures."""

    facts: ClassVar[tuple[Facts, ...]]
    parameter: ClassVar[str]
    of_probability: ClassVar[bool] = False
    """Whether it reads a probability, so that it is not defined for a head without any."""

    @property
    def asks(self) -> tuple[Asked]:
        """The class whose map is taken."""
        ...

    def plan(self, pictures: Pictures, maps: GridMaps) -> Plan:
        """What shall be run for one method's maps."""
        ...

    def finish(self, pictures: Pictures, maps: GridMaps, scores: Tensor) -> Result:
        """One value a picture, of what was read of every step, (b s) float64."""
        ...


class Forwards:
    """The perturbation forwards of one batch of pictures, for all its methods and metrics.

    Attributes:
        count: how many pictures the scorer was given so far.
    """

    def __init__(self, scorer: Scorer, pictures: Pictures, unaltered: Tensor | None = None, at_once: int = 64) -> None:
        """For one batch.

        Args:
            scorer: runs the model.
            pictures: the batch.
            unaltered: the outputs (b c) of the pictures as they are, where they are known from the trace.
            at_once: pictures in one call of the scorer.

        Raises:
            MetricError: `at_once` is less than 1.
        """
        if at_once < 1:
            raise MetricError(f"{at_once} pictures at once are none; give 1 or more")
        self.scorer, self.pictures, self.at_once = scorer, pictures, at_once
        self.count = 0
        self._known: dict[Hashable, Tensor] = {} if unaltered is None else {UNALTERED: unaltered.detach()}

    def __call__(self, plans: Sequence[Plan]) -> list[Tensor]:
        """What is read of every step of every plan: (b s) float64 on the CPU each.

        Raises:
            MetricError: the scorer does not give an output a picture.
        """
        size = len(self.pictures)
        shared: dict[Hashable, tuple[Plan, int]] = {}
        for plan in plans:
            for step, key in enumerate(plan.keys):
                if key is not None and key not in self._known:
                    shared.setdefault(key, (plan, step))
        for (key, _), index, output in self._run([(key, *where) for key, where in shared.items()]):
            if key not in self._known:
                self._known[key] = output.new_empty(size, output.shape[1])
            self._known[key][index] = output
        scores = [torch.full((size, len(plan)), torch.nan, dtype=torch.float64) for plan in plans]
        everyone = torch.arange(size, device=self.pictures.tensor.device)
        alone = []
        for place, plan in enumerate(plans):
            for step, key in enumerate(plan.keys):
                if key is None:
                    alone.append((place, plan, step))
                else:
                    known = self._known[key].to(everyone.device)
                    scores[place][:, step] = plan.read(known, everyone).double().cpu()
        for (place, step), index, output in self._run(alone):
            scores[place][index.cpu(), step] = plans[place].read(output, index).double().cpu()
        return scores

    def _run(self, jobs: Sequence[tuple[Name, Plan, int]]) -> Iterator[tuple[tuple[Name, int], Tensor, Tensor]]:
        """Every job's step for every picture: (name, step), indices (k), outputs (k c), in full calls of the scorer."""
        device = self.pictures.tensor.device
        waiting: list[tuple[Name, int, Tensor, Tensor]] = []
        room = self.at_once
        for name, plan, step in jobs:
            start = 0
            while start < len(self.pictures):
                index = torch.arange(start, min(start + room, len(self.pictures)), device=device)
                waiting.append((name, step, index, plan.alter(step, index)))
                start += len(index)
                room -= len(index)
                if not room:
                    yield from self._score(waiting)
                    waiting, room = [], self.at_once
        if waiting:
            yield from self._score(waiting)

    def _score(
        self, waiting: Sequence[tuple[Name, int, Tensor, Tensor]]
    ) -> Iterator[tuple[tuple[Name, int], Tensor, Tensor]]:
        index = torch.cat([one for _, _, one, _ in waiting])
        outputs = self.scorer(torch.cat([altered for *_, altered in waiting]), index)
        if outputs.ndim != 2 or len(outputs) != len(index):
            raise MetricError(
                f"the scorer gave {tuple(outputs.shape)} for {len(index)} pictures; give outputs (k, classes)"
            )
        self.count += len(index)
        parts = (
            outputs.detach()
            .to(torch.promote_types(outputs.dtype, torch.float32))
            .split([len(one) for _, _, one, _ in waiting])
        )
        for (name, step, one, _), output in zip(waiting, parts, strict=True):
            yield (name, step), one.to(output.device), output


def evaluate(pairs: Iterable[tuple[ForwardMetric, GridMaps]], forwards: Forwards) -> list[Result]:
    """Any metrics of any methods' maps of one batch: a result each.

    The rank images of one pair are kept at a time, so that memory does not grow with the number of methods; what the
    pairs share (the pictures as they are, wholly altered, or altered at random) is run once.
    """
    results = []
    for metric, maps in pairs:
        (scores,) = forwards([metric.plan(forwards.pictures, maps)])
        results.append(metric.finish(forwards.pictures, maps, scores))
    return results


def probability(classes: Tensor, activation: Activation) -> Read:
    """Probability of a class an image, (b), by the activation of the model's head.

    Raises:
        MetricError: the outputs are no probabilities.
    """
    if activation == "none":
        raise MetricError(f"this metric {NO_PROBABILITIES}")
    return lambda output, index: activated(output.double(), activation).gather(1, _of(classes, output, index))[:, 0]


def logit(classes: Tensor) -> Read:
    """Output of a class an image, (b)."""
    return lambda output, index: output.gather(1, _of(classes, output, index))[:, 0]


def hit(classes: Tensor) -> Read:
    """Whether the highest output is that of a class an image, (b): 1 or 0."""
    return lambda output, index: (output.argmax(dim=1, keepdim=True) == _of(classes, output, index))[:, 0].double()


def _of(classes: Tensor, output: Tensor, index: Tensor) -> Tensor:
    return classes.to(output.device)[index.to(output.device)][:, None]
