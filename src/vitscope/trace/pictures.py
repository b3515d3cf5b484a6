"""The model run on altered pictures: what it scores them, for the targets of the pictures that are explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vitscope.errors import MethodError, ModelError
from vitscope.images import Placement
from vitscope.models import Anatomy, Grid
from vitscope.once import once
from vitscope.trace.capture import NO_GRADIENT, check_output
from vitscope.trace.chunks import Chunks
from vitscope.trace.frozen import FrozenWeights
from vitscope.trace.guard import left_as_found
from vitscope.trace.hide import hidden
from vitscope.trace.hold import Held, at_least_float32
from vitscope.trace.hooks import hooks

Report = Callable[[int, int], object]
"""Is told of forwards: how many are done, and of how many."""

Alter = Callable[[int, int], Tensor]
"""Makes the altered pictures from the first to the one before the last, (k 3 H W)."""


@dataclass
class Meter:
    """Counts a method's forwards, a picture each, and reports them."""

    report: Report | None = None
    total: int = 0
    done: int = 0

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        if self.report is not None:
            self.report(self.done, max(self.done, self.total))


@dataclass(frozen=True)
class Pictures:
    """The pictures that are explained and the model, to score altered copies of them.

    Axis n: altered copies, of which `image` (n) says each one's original; axis m: the targets. They are run some at a
    time, as memory holds them (`Chunks`), and the model is left exactly as found.

    Attributes:
        anatomy: the model's description.
        images: the batch, (b 3 H W), normalised, on the model's device and of its dtype.
        held: the targets, as they are on the unaltered pictures.
        grid: patch grid (rows, cols).
        meter: counts forwards.
        limit: how many pictures at once at most, where that is not left to memory.
    """

    anatomy: Anatomy
    images: Tensor
    held: Held
    grid: Grid
    meter: Meter = field(default_factory=Meter)
    limit: int | None = None

    @once
    def _chunks(self) -> dict[bool, Chunks]:
        """Without a graph, and with one."""
        return {graph: Chunks(self._device, self.limit) for graph in (False, True)}

    def reporting(self, report: Report | None) -> Pictures:
        """The same, counting from 0 and telling `report`."""
        return dataclasses.replace(self, meter=Meter(report))

    def expect(self, forwards: int) -> None:
        """Say how many forwards there will be, for the reports."""
        self.meter.total = forwards

    def unaltered(self, probability: bool = False) -> Tensor:
        """What the unaltered pictures score, (b m), from the pass that was recorded."""
        output, image = self.held.logits, torch.arange(len(self.held.logits), device=self.held.logits.device)
        if not probability:
            return torch.stack([at_least_float32(slope.value) for slope in self.held.slopes], dim=1)
        features = [slope.where for aim, slope in zip(self.held.aims, self.held.slopes, strict=True) if aim.of_features]
        return self.held.probabilities(output, features[0] if features else None, image)

    def has_probability(self) -> Tensor:
        """Whether each target is a class that has a probability, (m) bool."""
        return torch.tensor([self.held.has_probability(slot) for slot in range(len(self.held.aims))])

    def scores(
        self,
        image: Tensor,
        alter: Alter | None = None,
        keep: Tensor | None = None,
        probability: bool = False,
    ) -> Tensor:
        """What altered copies score, (n m), on the CPU.

        Args:
            image: of which picture each is a copy, (n).
            alter: makes them, some at a time; otherwise they are as the originals are.
            keep: (n P) bool, False for patch tokens that are left out; see `hidden`.
            probability: a class's probability in place of its logit, where the head has any.

        Raises:
            ModelError: tokens cannot be left out of this model, or its output is not usable.
            MethodError: one picture by itself does not fit into memory.
        """
        held = self.held.probabilities if probability else self.held.scores
        image = image.to(self._device)

        chunks = self._chunks[False]
        plain = keep is None and not self.held.of_features

        def job(start: int, stop: int) -> Tensor:
            rows = self.images[image[start:stop]] if alter is None else alter(start, stop)
            if plain and chunks.measured:
                found = held(self._plain(rows), None, image[start:stop])
            else:
                shown = None if keep is None else keep[start:stop].to(self._device)
                found = held(*self._run(rows, shown), image[start:stop])
            return found.detach().cpu()

        compiled = plain and self.anatomy.running.compiled
        with left_as_found(self.anatomy.model, watched=not compiled), torch.no_grad():
            return chunks.over(len(image), job, self.meter.advance)

    def differentiable(self, slot: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Target `slot` as a differentiable function of altered copies (n 3 H W) and `image` (n), which gives (n).

        A copy's score depends on that copy alone, so that values and gradients are both taken in the forward pass, some
        copies at a time, and no more than these are ever held in a graph.
        """

        def score(rows: Tensor, image: Tensor) -> Tensor:
            value: Tensor = WithGradient.apply(rows, lambda: self._with_gradients(slot, rows.detach(), image))
            return value

        return score

    def gradients(self) -> Tensor:
        """Every target's gradient at the unaltered pictures, (b m 3 H W), in a pass with a graph for each target."""
        index = torch.arange(len(self.images), device=self._device)
        found = [self._with_gradients(slot, self.images, index)[1] for slot in range(len(self.held.aims))]
        return torch.stack(found, dim=1)

    def tokens(self) -> Tensor:
        """The patch tokens behind every block, (b blocks P D), in one more forward; an attention pool has none."""
        anatomy = self.anatomy
        last = anatomy.blocks[-1]
        sites = [block.norm for block in anatomy.blocks[1:]]
        if last.residual:  # no attention pool
            sites.append(anatomy.final_site or last.feedforward_site)

        def job(start: int, stop: int) -> Tensor:
            seen: list[Tensor] = []
            with hooks() as hook:
                for site in sites:
                    hook.before(site, lambda x: seen.append(x[:, len(anatomy.prefix) :]))
                anatomy.forward(self.images[start:stop])
            if last.residual and anatomy.final_site is None:
                seen[-1] = seen[-1] + last.feedforward(seen[-1])
            seen = [tokens.float().cpu() for tokens in seen]
            if len(seen) != len(sites):
                raise ModelError(f"{anatomy.name} runs a block more than once; its adapter does not fit it")
            return torch.stack(seen, dim=1)

        with left_as_found(anatomy.model), torch.no_grad():
            return self._chunks[False].over(len(self.images), job, self.meter.advance)

    @property
    def count(self) -> int:
        """How many targets there are."""
        return len(self.held.aims)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.images.shape[-2], self.images.shape[-1]

    def without_channels(self, values: Tensor) -> Tensor:
        """Sums over the channels, (n 3 H W) -> (n H W)."""
        return values.sum(dim=1)

    def over_channels(self, masks: Tensor) -> Tensor:
        """Masks (k H W), to be multiplied with copies (k 3 H W)."""
        return masks[:, None]

    def cell_sums(self, values: Tensor) -> Tensor:
        """Sums over each patch's pixels, (... H W) -> (... rows cols).

        Without patches, as where attention stays within windows, a pixel belongs to the cell that covers its corner.
        Where the model cuts patches from another image than it is given, a pixel belongs to the patch that shows it.
        """
        height, width = (self._cells(axis).to(values) for axis in (0, 1))
        summed: Tensor = height.T @ (values.mT if self.placement.transposed else values) @ width
        return summed

    def cell_means(self, values: Tensor) -> Tensor:
        """The same means; 0 where a patch shows no pixel of the image, as in padding."""
        counts = self.cell_sums(torch.ones_like(values[..., :1, :1]).expand_as(values))
        return self.cell_sums(values) / counts.clamp_min(1)

    def to_pixels(self, masks: Tensor, corners: bool = False) -> Tensor:
        """Bilinearly from the patch grid to the pixels of the image, (k rows cols) -> (k 1 H W)."""
        placement = self.placement
        whole = F.interpolate(masks[:, None], size=placement.inner, mode="bilinear", align_corners=corners)
        return placement.to_outer(whole)

    @property
    def placement(self) -> Placement:
        """How the image that is cut into patches lies on the one that the model is given."""
        return self.anatomy.placement((self.images.shape[-2], self.images.shape[-1]))

    def _cells(self, axis: int) -> Tensor:
        """Whether each pixel along an inner axis lies in each cell, (pixels cells)."""
        inner, cells = self.placement.inner[axis], self.grid[axis]
        at = self.placement.inner_at(axis).floor().long()
        cell = at * cells // inner if self.anatomy.windows else at // self.anatomy.patch[axis]
        return cell[:, None] == torch.arange(cells)

    @property
    def _device(self) -> torch.device:
        return self.held.logits.device

    def _plain(self, rows: Tensor) -> Tensor:
        """Output (n c) of pictures (n 3 H W), by a forward that nothing watches."""
        rows = rows.to(self.images)
        output = self.anatomy.plain(rows)
        check_output(output, rows)
        return output

    def _run(self, rows: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Output (n c) and, where a target reads them, features (n F) of pictures (n 3 H W)."""
        anatomy = self.anatomy
        pooled = keep is not None and anatomy.rows_read is None
        read: list[Tensor] = []
        with ExitStack() as stack:
            if keep is not None:
                stack.enter_context(hidden(anatomy, keep))
            if (self.held.of_features or pooled) and anatomy.blocks:
                site = anatomy.final_site or anatomy.blocks[-1].feedforward_site
                stack.enter_context(hooks()).before(
                    site, lambda x: read.append(anatomy.running.wide(x[:, : anatomy.rows_read]))
                )
            rows = rows.to(self.images)
            output = anatomy.forward(rows)
        check_output(output, rows)
        if not read:
            return output, output
        last = read[0] if anatomy.final_site is not None else read[0] + anatomy.blocks[-1].feedforward(read[0])
        if not pooled:
            return output, anatomy.features(last)
        assert keep is not None
        features = _features_of_kept(anatomy, last, keep)
        return anatomy.output(features), features

    def _with_gradients(self, slot: int, rows: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Target `slot` on altered copies, (n), and its gradient at them, (n 3 H W), where and as `rows` are."""
        shape, image = rows.shape[1:], image.to(self._device)

        def job(start: int, stop: int) -> Tensor:
            some, index = rows[start:stop].to(self.images), image[start:stop]
            if len(some) == 1 and normed_by_batch(self.anatomy):
                some, index = some.repeat(2, 1, 1, 1), index.repeat(2)
            with torch.enable_grad(), FrozenWeights(self.anatomy.model):
                leaf = some.requires_grad_()
                value = self.held.score(slot, *self._run(leaf), index)
                if not value.requires_grad:
                    raise MethodError(NO_GRADIENT)
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            both = torch.cat([value.detach()[:, None].to(rows), gradient.flatten(1).to(rows)], dim=1)
            return both[: stop - start]

        with left_as_found(self.anatomy.model):
            both = self._chunks[True].over(len(rows), job, self.meter.advance)
        return both[:, 0].clone(), both[:, 1:].unflatten(1, shape)


def normed_by_batch(anatomy: Anatomy) -> bool:
    """Whether the model has batch norms, so that a lone picture must go in twice where gradients reach the pictures.

    Of ONE picture torch (2.15, on a CPU) gives a wrong gradient through a batch norm in evaluation, where what comes
    back to it is transposed, as behind a convolution whose pixels become tokens.
    """
    return any(isinstance(module, nn.BatchNorm2d) for module in anatomy.model.modules())


class WithGradient(torch.autograd.Function):
    """A function of each row by itself, whose values and gradients are taken together."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, both: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        """The values (n) that `both` gives."""
        values, gradients = both()
        ctx.save_for_backward(gradients)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradients (n ...) that `both` gave, weighted."""
        (gradients,) = ctx.saved_tensors
        return gradient.view(-1, *[1] * (gradients.ndim - 1)) * gradients, None


def _features_of_kept(anatomy: Anatomy, tokens: Tensor, keep: Tensor) -> Tensor:
    """The features (n F) of x_{B+1} (n N D) without the rows of the patch tokens that are left out.

    Pictures that keep as many tokens are read together.
    """
    kept = torch.cat([keep.new_ones(len(keep), len(anatomy.prefix)), keep], dim=1)
    counts = kept.sum(dim=1)
    order, found = [], []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        left = tokens[rows][kept[rows]].unflatten(0, (len(rows), count))
        found.append(anatomy.features(left))
        order.append(rows)
    return torch.cat(found)[torch.cat(order).argsort()]
