"""One forward pass of the model itself, watched by hooks and by `watch`'s function mode."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitscope.errors import ModelError, RefusedError
from vitscope.models import Anatomy
from vitscope.trace.block import BlockCapture
from vitscope.trace.frozen import FrozenWeights
from vitscope.trace.guard import sized
from vitscope.trace.hooks import hooks
from vitscope.trace.needs import Blocks, Needs
from vitscope.trace.transform import Measure
from vitscope.trace.watch import AttentionWatch

NO_GRADIENT = (
    "no gradient leads from the model's output to its input: it is detached, or made by steps that have none; take "
    "such steps out of the model, or use a method without a backward pass, such as attention"
)


@dataclass
class ForwardCapture:
    """The whole pass: its output (b c), the rows of x_{B+1} that the head reads (b r D), and every block's record."""

    logits: Tensor
    final: Tensor
    start: Tensor | None = None  # (b n D), the second block's input, where a backward pass ends there
    pictures: Tensor | None = None  # (b 3 H W), where it ends at them
    reached: bool = False  # whether there the first block's input carries a gradient
    ungraphed: tuple[int, ...] = ()  # of a thorough pass: the blocks that the model runs without a graph
    blocks: list[BlockCapture] = field(default_factory=list)


def forward(anatomy: Anatomy, images: Tensor, needs: Needs, *, thorough: bool = False) -> ForwardCapture:
    """Run the model once on `images` (b 3 H W) and keep what `needs` names.

    Where the head reads the class token alone and the last block is plain, its attention and feed-forward compute this
    row alone, and the residual sums spread it over the patch rows, which nobody reads any more. With `thorough`, as
    `verify` runs it to show that the head reads no other row, all rows are computed, every block's x_b and t_b are
    kept, and it is seen which blocks the model runs without a graph, though none is built, as the weights are frozen.

    Raises:
        ModelError: the model's output is not (b c) and finite, or a block's attention was not seen.
    """
    records = [BlockCapture() for _ in anatomy.blocks]
    grid = anatomy.grid((images.shape[-2], images.shape[-1]))
    measured = needs.feedforward_transform > Blocks.NONE
    lean = not (thorough or measured) and anatomy.rows_read == 1 and anatomy.blocks[-1].plain
    watch = AttentionWatch(anatomy, needs, records, lean)
    final: list[Tensor] = []
    graph = watch.graph
    second = anatomy.class_row and needs.every_row < Blocks.ALL and all(block.plain for block in anatomy.blocks)
    second = second and not needs.input_gradient
    start: list[Tensor] = []
    reached: list[bool] = []
    graphed = [True] * len(records)
    if needs.input_gradient:
        images = images.detach().requires_grad_()

    def look(index: int, _: Tensor) -> None:
        graphed[index] = torch.is_grad_enabled()

    def begin(tokens: Tensor) -> Tensor:
        start.append(tokens.detach().requires_grad_())
        return start[0]

    outward = max(needs.skip_gradient, needs.feedforward_gradient, needs.own_gradient)
    deepest = 0 if outward == Blocks.ALL else len(records) - 1
    measure = Measure(anatomy, needs, records)
    with hooks() as hook, watch:
        for index, block in enumerate(anatomy.blocks):
            if thorough:
                hook.before(block.module, partial(look, index))
            hook.before(block.attention, partial(watch.enter, index))
            hook.after(block.attention, watch.leave)
            if index >= deepest or (graph and index == 0):
                hook.before(block.feedforward_site, partial(records[index].keep_residual, block.rows))
            level = Blocks.LAST if index + 1 == len(records) else Blocks.ALL
            if thorough or (not block.affine_keys and needs.sensitivity >= level):
                hook.after(block.norm, records[index].keep_tokens)
            if needs.rerun and level == Blocks.LAST:
                hook.before(block.norm, records[index].keep_input)
            if thorough or (graph and index + 1 == len(records)):
                hook.before(block.norm, partial(records[index].keep_incoming, block.rows))
        measure.install(hook)
        if graph and not needs.input_gradient:
            hook.replace_input(anatomy.blocks[1 if second else 0].module, begin)
        if needs.input_gradient:
            hook.before(anatomy.blocks[0].module, lambda x: reached.append(x.requires_grad))
        if lean:
            hook.replace_input(anatomy.blocks[-1].attention, partial(watch.narrow, grid))
            hook.replace_input(anatomy.blocks[-1].feedforward_site, lambda x: x[:, :1])
        if anatomy.final_site is not None:
            hook.before(anatomy.final_site, measure.leave)
            hook.before(anatomy.final_site, lambda x: final.append(x.detach()[:, : anatomy.rows_read].clone()))
        frozen = FrozenWeights(anatomy.model) if thorough else nullcontext()
        with torch.set_grad_enabled(graph or thorough), frozen, sized(anatomy, images):
            logits = anatomy.forward(images)
    unseen = [block.name for block, record in zip(anatomy.blocks, records, strict=True) if record.rows is None]
    if unseen:
        raise RefusedError(
            f"the attention of {', '.join(unseen[:3])} was not seen: it uses a kernel that torch does not show; "
            "switch the model to torch's scaled_dot_product_attention"
        )
    check_output(logits, images, anatomy.outputs)
    for record in records:
        record.widen(anatomy.running)
    if not final:
        residual = records[-1].residual
        assert residual is not None
        with torch.no_grad():
            final.append(residual + anatomy.blocks[-1].feedforward(residual))
        measure.leave(final[0])
    return ForwardCapture(
        logits.detach(),
        anatomy.running.wide(final[0]),
        start[0] if graph and second else None,
        images if needs.input_gradient else None,
        any(reached),
        tuple(index for index, kept in enumerate(graphed) if not kept),
        records,
    )


def check_tokens(anatomy: Anatomy, seen: ForwardCapture, grid: tuple[int, int]) -> None:
    """Hold the number of tokens that attention worked on against prefix and grid.

    Raises:
        ModelError: they differ.
    """
    expected = len(anatomy.prefix) + grid[0] * grid[1]
    for block, row in zip(anatomy.blocks, seen.blocks, strict=True):
        tokens = _tokens(row)
        if tokens not in (None, expected):
            raise ModelError(
                f"{block.name} works on {tokens} tokens where {len(anatomy.prefix)} prefix tokens and "
                f"{grid[0]} x {grid[1]} patches make {expected}; its adapter does not fit the model"
            )


def _tokens(row: BlockCapture) -> int | None:
    """How many keys the block's attention ran over, where it was recorded."""
    if row.scores is not None:
        return row.scores.shape[-1]
    return None if row.attended is None else row.attended[1].shape[-2]


def check_output(logits: Any, images: Tensor, outputs: int = 0) -> None:
    """Raise ModelError where the model's output is not (b c) and finite, or c is not `outputs`; 0 for any."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model's output must be a tensor (images, outputs), got {found}; wrap the model")
    if not logits.is_floating_point() or logits.shape[1] != (outputs or max(1, logits.shape[1])):
        raise ModelError(
            f"the model's output must be {outputs or 'some'} floating-point numbers an image, got {logits.shape[1]} of "
            f"{logits.dtype}; wrap the model"
        )
    if not torch.isfinite(logits).all():
        index = int((~torch.isfinite(logits)).any(dim=1).nonzero()[0])
        raise RefusedError(f"the model's output for image {index} is not finite; check its weights and its input")
