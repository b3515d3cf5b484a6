"""A batch explained in one pass, or in as many as memory asks for."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from vitscope.errors import VitscopeError
from vitscope.methods import Maps, Method
from vitscope.models import Anatomy
from vitscope.models.guard import undisturbed
from vitscope.outcome import Progress, Seen, maps_of
from vitscope.targets import Class, Concept, Contrast, Custom, Neighbours, Output, Predicted, Probability, Target
from vitscope.targets.names import UNNAMED, ClassNames
from vitscope.trace import Chunks, Needs, record, within

_log = logging.getLogger(__name__)

Found = dict[str, Maps | VitscopeError]
"""Label -> the maps for all targets, or why there are none."""

Part = TypeVar("Part")


class Passes:
    """Runs batches of one model; how many pictures fit into a pass is known from the first of its kind.

    With a limit, the first picture is a pass by itself, whose memory is measured, and then as many make a pass as fit;
    where not even one does, rows and samples are taken in smaller chunks all the same, and it is said. Where memory is
    exhausted without a limit, or in spite of it, the pass is halved.
    """

    def __init__(self, anatomy: Anatomy, limit: int | None = None) -> None:
        """Of one model.

        Args:
            anatomy: its description.
            limit: bytes that a pass may take on the model's device beside weights and pictures; None for all there is.
        """
        self._anatomy, self._limit = anatomy, limit
        self._known: dict[Hashable, Chunks] = {}

    def explain(
        self,
        images: Tensor,
        needs: Needs,
        aims: Sequence[Target],
        methods: Mapping[str, Method],
        strict: bool,
        progress: Progress | None,
    ) -> tuple[Seen, Found]:
        """The maps of `images` (b 3 H W) by all methods for all targets, and what is kept of the passes.

        Raises:
            VitscopeError: a pass fails; with `strict`, a method.
        """

        def job(start: int, stop: int, some: Sequence[Target], tell: Progress | None) -> tuple[Seen, Found]:
            trace = record(self._anatomy, images[start:stop], needs, some)
            return Seen.of(trace), {label: maps_of(label, each, trace, strict, tell) for label, each in methods.items()}

        parts = self.of_targets(images, ("explain", needs, tuple(methods), len(aims)), aims, job, progress)
        if len(parts) == 1:
            return parts[0]
        maps = {label: joined_maps([found[label] for _, found in parts]) for label in methods}
        return Seen.join([seen for seen, _ in parts]), maps

    def of_targets(
        self,
        images: Tensor,
        kind: Hashable,
        aims: Sequence[Target],
        job: Callable[[int, int, Sequence[Target], Progress | None], Part],
        progress: Progress | None,
    ) -> list[Part]:
        """What `job` gives for all images, from the first of a pass, the one after its last, and their targets.

        Args:
            images, kind: as for `over`.
            aims: the targets of the batch.
            job: makes a pass, and reports its forwards.
            progress: is called for the whole batch.

        Raises:
            VitscopeError: a pass fails; the text names its images where they are not the whole batch.
        """
        count = len(images)
        together = None if progress is None else _Together(progress, count)

        def one(start: int, stop: int) -> Part:
            whole = stop - start == count
            some = aims if whole else [part_of(aim, start, stop, count) for aim in aims]
            try:
                found = job(start, stop, some, None if together is None else together.part(stop))
            except VitscopeError as error:
                if whole:
                    raise
                raise type(error)(f"of images {start} to {stop - 1} of the batch: {error}") from error
            if together is not None:
                together.keep()
            return found

        return self.over(images, kind, one)

    def over(self, images: Tensor, kind: Hashable, job: Callable[[int, int], Part]) -> list[Part]:
        """What `job` gives for all images, from the first and the one behind the last of each pass.

        Args:
            images: (b 3 H W).
            kind: of pass, so that passes of one kind take the same of a picture of the same size.
            job: makes a pass.

        Raises:
            MethodError: one picture by itself does not fit into memory.
        """
        key = kind, images.shape[1:]
        device = next(self._anatomy.model.parameters()).device
        if key not in self._known:
            self._known[key] = (
                Chunks.whole(device, _log.warning)
                if self._limit is None
                else Chunks(device, 2**62, limit=self._limit, say=_log.warning)
            )
        with within(self._limit), undisturbed(device):
            return self._known[key].parts(len(images), job)

    def fit(self) -> int | None:
        """How many pictures make a pass by what has been measured; None where nothing limits them."""
        return None if self._limit is None else min((chunks.size for chunks in self._known.values()), default=1)


class _Together:
    """Tells of a method's forwards in all parts of a batch as of one, where those to come are taken to need as many."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress, self._count = progress, count
        self._before: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def part(self, stop: int) -> Progress:
        """What is told of the part that ends before image `stop`, whether or not it was begun before and given up."""
        self._now = {}

        def tell(label: str, done: int, total: int) -> None:
            before = self._before.get(label, 0)
            self._now[label] = done
            self._progress(label, before + done, -(-(before + total) * self._count // stop))

        return tell

    def keep(self) -> None:
        """The part is done."""
        self._before |= {label: self._before.get(label, 0) + done for label, done in self._now.items()}


@dataclass(frozen=True)
class _PartOf:
    """A target of a batch, asked of some of its images: the others' rows are filled up, and their values left out.

    So it stays right where a target knows something of each image, as a list of classes does.
    """

    aim: Target
    start: int
    stop: int
    count: int

    @property
    def of_features(self) -> bool:
        return self.aim.of_features

    @property
    def linear(self) -> bool:
        return self.aim.linear

    def score(self, output: Any) -> Tensor:
        values = self.aim.score(tree_map(self._filled, output))
        fits = isinstance(values, Tensor) and values.shape == (self.count,)
        return values[self.start : self.stop] if fits else values

    def classes(self, output: Tensor) -> Tensor | None:
        found = self.aim.classes(self._filled(output))
        return None if found is None else found[self.start : self.stop]

    def describe(self, names: ClassNames = UNNAMED) -> str:
        return self.aim.describe(names)

    def _filled(self, rows: Any) -> Any:
        """(b ...) from those of the images that there are; what is no tensor of these stays."""
        if not isinstance(rows, Tensor) or rows.ndim == 0 or len(rows) != self.stop - self.start:
            return rows
        other = rows[:1].detach()
        before, after = self.start, self.count - self.stop
        return torch.cat([other.expand(before, *rows.shape[1:]), rows, other.expand(after, *rows.shape[1:])])


def reads_raw_output(aim: Target) -> bool:
    """Whether a target is a function of whatever the model returns, or such a function of a part of a batch."""
    return isinstance(aim, Custom) or (isinstance(aim, _PartOf) and reads_raw_output(aim.aim))


def part_of(aim: Target, start: int, stop: int, count: int) -> Target:
    """The target of some images of a batch: itself, where it asks the same of an image wherever that stands."""
    if type(aim) is Neighbours:
        return dataclasses.replace(aim, first=aim.first + start)
    alike = type(aim) in (Predicted, Contrast, Output, Concept)
    if alike or (type(aim) in (Class, Probability) and isinstance(aim.index, int)):  # type: ignore[attr-defined]
        return aim
    if type(aim) in (Class, Probability) and len(aim.index) == count:  # type: ignore[attr-defined]
        return dataclasses.replace(aim, index=aim.index[start:stop])  # type: ignore[type-var,attr-defined]
    return _PartOf(aim, start, stop, count)


def joined_maps(parts: Sequence[Maps | VitscopeError]) -> Maps | VitscopeError:
    """A method's maps of the whole batch; a failure where it failed at some of the images."""
    found: list[Maps] = []
    for part in parts:
        if isinstance(part, VitscopeError):
            return part
        found.append(part)
    values, blocks, heads = (
        None if any(each is None for each in of) else torch.cat([each for each in of if each is not None])
        for of in ([getattr(part, name) for part in found] for name in ("values", "blocks", "heads"))
    )
    assert values is not None
    return Maps(values, blocks, heads)
