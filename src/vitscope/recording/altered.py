"""Any network run on altered copies of its input: what they score, for the targets of the originals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.errors import MethodError
from vitscope.once import once
from vitscope.recording.output import scored
from vitscope.recording.record import resized
from vitscope.trace.capture import NO_GRADIENT
from vitscope.trace.chunks import Chunks
from vitscope.trace.frozen import FrozenWeights
from vitscope.trace.guard import left_as_found
from vitscope.trace.pictures import Alter, Meter, Report, WithGradient


@dataclass(frozen=True)
class BoundTarget:
    """A target of one sample, as it is on the unaltered input.

    Attributes:
        value: of a raw output of n copies, (n).
        probability: the class's probability of these, (n); None where the target has none.
    """

    value: Callable[[Any], Tensor]
    probability: Callable[[Any], Tensor] | None = None


@dataclass(frozen=True)
class AlteredInputs:
    """A network and its unaltered input, to score altered copies.

    Copies are run some at a time, as memory holds them, and the network is left as it was found.

    Attributes:
        model: the network.
        calls: for each sample, runs the network on copies of it, beside the sample's other inputs.
        targets: for each sample, its bound targets.
        images: the input, (b ...), of the network's dtype and on its device.
        spatial: the axes of `images` that have places.
        grid: of the maps.
        limit: how many copies at once; None for as many as memory holds.
        meter: counts forwards.
    """

    model: nn.Module
    calls: Sequence[Callable[[nn.Module, Tensor], Any]]
    targets: Sequence[Sequence[BoundTarget]]
    images: Tensor
    spatial: tuple[int, ...]
    grid: tuple[int, ...]
    limit: int | None = None
    meter: Meter = field(default_factory=Meter)

    @once
    def _chunks(self) -> dict[bool, Chunks]:
        """Without a graph, and with one."""
        return {graph: Chunks(self.images.device, self.limit) for graph in (False, True)}

    def reporting(self, report: Report | None) -> AlteredInputs:
        """The same, counting forwards from 0 and reporting them."""
        return dataclasses.replace(self, meter=Meter(report))

    def expect(self, forwards: int) -> None:
        """Set how many forwards there will be, for the reports."""
        self.meter.total = forwards

    @property
    def count(self) -> int:
        """How many targets there are."""
        return len(self.targets[0])

    @property
    def size(self) -> tuple[int, ...]:
        """The extent of the spatial axes."""
        return tuple(self.images.shape[axis] for axis in self.spatial)

    def has_probability(self) -> Tensor:
        """Whether each target is a class that has a probability, (m) bool."""
        return torch.tensor([target.probability is not None for target in self.targets[0]])

    def scores(self, image: Tensor, alter: Alter | None = None, probability: bool = False) -> Tensor:
        """What altered copies of one sample score, (n m), on the CPU.

        Args:
            image: the sample's index, n times.
            alter: gives the copies from the first to the one before the last; None for copies without a change.
            probability: a class's probability instead of its logit, where it has one.

        Raises:
            MethodError: one copy by itself does not fit into memory.
            TargetError: a target does not fit the output of copies.
        """
        index = self._one(image)
        bound = self.targets[index]

        def job(start: int, stop: int) -> Tensor:
            rows = self.images[image[start:stop]] if alter is None else alter(start, stop)
            raw = self.calls[index](self.model, rows.to(self.images))
            asked = [each.probability if probability and each.probability else each.value for each in bound]
            return torch.stack([scored(score, raw, stop - start) for score in asked], dim=1).float().cpu()

        with left_as_found(self.model), torch.no_grad():
            return self._chunks[False].over(len(image), job, self.meter.advance)

    def differentiable(self, slot: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Target `slot` as a differentiable function of copies (n ...) of one sample and its index, n times: (n)."""

        def score(rows: Tensor, image: Tensor) -> Tensor:
            value: Tensor = WithGradient.apply(rows, lambda: self._with_gradients(slot, rows.detach(), image))
            return value

        return score

    def cell_sums(self, values: Tensor) -> Tensor:
        """Sums over each cell's places, (... spatial axes) -> (... grid)."""
        return resized(values, self.grid)

    def cell_means(self, values: Tensor) -> Tensor:
        """Means over each cell's places, (... spatial axes) -> (... grid)."""
        return resized(values, self.grid) * (math.prod(self.grid) / math.prod(self.size))

    def without_channels(self, values: Tensor) -> Tensor:
        """Sums over the axes without places, (n, axes of the input) -> (n, spatial axes)."""
        channels = [axis for axis in range(1, values.ndim) if axis not in self.spatial]
        return values.sum(dim=channels) if channels else values

    def over_channels(self, masks: Tensor) -> Tensor:
        """Masks (k, spatial axes), to be multiplied with copies (k ...)."""
        found: Tensor = masks.view(
            len(masks), *(self.images.shape[axis] if axis in self.spatial else 1 for axis in range(1, self.images.ndim))
        )
        return found

    def _with_gradients(self, slot: int, rows: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The target of copies, (n), and its gradient at them."""
        index, shape = self._one(image), rows.shape[1:]
        target = self.targets[index][slot]

        def job(start: int, stop: int) -> Tensor:
            with torch.enable_grad(), FrozenWeights(self.model):
                leaf = rows[start:stop].to(self.images).requires_grad_()
                value = scored(target.value, self.calls[index](self.model, leaf), stop - start)
                if not value.requires_grad:
                    raise MethodError(NO_GRADIENT)
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            return torch.cat([value.detach()[:, None].to(rows), gradient.flatten(1).to(rows)], dim=1)

        with left_as_found(self.model):
            both = self._chunks[True].over(len(rows), job, self.meter.advance)
        return both[:, 0].clone(), both[:, 1:].unflatten(1, shape)

    @staticmethod
    def _one(image: Tensor) -> int:
        """The only index in `image`, since each sample has its own other inputs."""
        (index,) = image.unique().tolist()
        return int(index)
