"""The trace: one forward pass for all methods and the whole batch, and a backward pass where a method needs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitscope.activation import resolved_activation
from vitscope.errors import MethodError, ModelError
from vitscope.images import Placement
from vitscope.models import Anatomy
from vitscope.trace import capture
from vitscope.trace.aim import Aim, Slope, seeds_of, slopes_of
from vitscope.trace.backward import Rules
from vitscope.trace.block import BlockCapture, Transformation
from vitscope.trace.classpath import full_gradients, own_gradients, shares_of_reads, skip_gradients, token_sensitivity
from vitscope.trace.everyrow import EveryRow
from vitscope.trace.guard import fitted, left_as_found
from vitscope.trace.hold import Held
from vitscope.trace.needs import Blocks, Needs
from vitscope.trace.pictures import Pictures, Report, normed_by_batch
from vitscope.trace.propagate import Propagated, propagate
from vitscope.trace.rerun import LastBlock, of_last_block
from vitscope.trace.scaled import NEEDS as SCALED_NEEDS
from vitscope.trace.scaled import Scaled, along_scaled
from vitscope.trace.windows import WindowTrace, watch_windows


class BlockTrace:
    """One block's record, patch tokens and prefix tokens alike on axis n, in the model's dtype.

    Of the class row: scores z (b h n), attention a (b h n), output T (b h d); skip_gradient, feedforward_gradient,
    full_gradient and own_gradient of every target m at T (b h m d); values v (b h n d). Of every token: its
    value_transform; of every token that passes the feed-forward: its feedforward_transform. Where `sensitivity` is
    needed, of each row r that the head reads (the class token; in a distilled DeiT the distillation token too):
    row_attention (b h r n), row_output (b h r d), row_gradient along the skip path (b h m r d), score_change (b h r n);
    and value_change (b h n d). Where `every_row` is needed, the attention of all rows with their full gradients.
    Reading what no method declared in its needs is a MethodError.

    A block without a class row, as in a model that pools its tokens, has `every_row` alone, wherever its attention or
    sensitivity is needed; its `class_row` is False.
    """

    class_row: bool
    scores: Tensor
    attention: Tensor
    values: Tensor
    output: Tensor
    skip_gradient: Tensor
    feedforward_gradient: Tensor
    full_gradient: Tensor
    own_gradient: Tensor
    value_transform: Transformation
    feedforward_transform: Transformation
    row_attention: Tensor
    row_output: Tensor
    row_gradient: Tensor
    value_change: Tensor
    score_change: Tensor
    every_row: EveryRow

    def __init__(self, quantities: dict[str, Tensor | EveryRow | Transformation], class_row: bool = True) -> None:
        self.class_row = class_row
        self.__dict__.update(quantities)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("__"):
            raise AttributeError(name)
        raise MethodError(f"'{name}' was not recorded for this block; declare it in the method's needs")

    def has(self, name: str) -> bool:
        """Whether the quantity was recorded."""
        return name in self.__dict__

    def gradient(self, path: str) -> Tensor:
        """Every target's gradient at T (b h m d) by `path`: "skip", "feedforward", "full", "own" or the rules' name."""
        gradient: Tensor = getattr(self, f"{path}_gradient")
        return gradient


@dataclass(frozen=True)
class Trace:
    """What methods read: the output, the blocks' class rows with the targets' gradients, the token layout.

    Axis m: the targets that are explained in one call.

    Attributes:
        logits: the model's output, (b c).
        features: what the classifier reads, (b F); the output where there is no affine classifier.
        reached: whether a target has any gradient where it is defined, (b m) bool.
        carried: whether the classifier carries it on to the features, (b m) bool.
        of_features: whether a target is a function of the features, which the classifier reads, (m) bool.
        blocks: a record a block.
        prefix: number of tokens before the patch tokens.
        grid: patch grid (rows, cols).
        placement: how the image that the grid lies on lies on the one that the model is given; None where it is that.
        reads: the rows of each part that the head reads, as of `Anatomy.reads`.
        shares: how much of each target comes from each part, (b m p), 1 in all; None where there is one.
        residual: whether each block has a residual stream; an attention pool has none.
        last: the last block, to be run again on altered tokens, where a method declared that it needs to.
        scaled: the last block's attention along scaled pictures, by the number of steps, where a method declared that.
        windows: in place of blocks, where the model's attention stays within windows; `grid` is that of the last.
        backward: what other backward passes found, where a method declared them.
        runs: the model, to be run on altered pictures, where a method declared that it needs to.
        at_pictures: gradient of every target at the pictures, (b m 3 H W), where the pass itself found it.
    """

    logits: Tensor
    features: Tensor
    reached: Tensor
    carried: Tensor
    of_features: Tensor
    blocks: tuple[BlockTrace, ...]
    prefix: int
    grid: tuple[int, int]
    placement: Placement | None = None
    reads: tuple[slice, ...] = ()
    shares: Tensor | None = None
    residual: tuple[bool, ...] = ()
    last: LastBlock | None = None
    scaled: Mapping[int, Scaled] = field(default_factory=dict)
    windows: tuple[WindowTrace, ...] = ()
    backward: tuple[Propagated, ...] = ()
    runs: Pictures | None = None
    at_pictures: Tensor | None = None

    def counts(self, of_targets: bool = True) -> Tensor:
        """How much each row of the last block's output counts to the head, 1 in all, (b m n).

        Each part that the head reads is a mean of its rows. Where there are several, they count by their `shares` in
        each target, or alike; where that is the same for all, axis m is 1.
        """
        means = self.logits.new_zeros(len(self.reads), self.prefix + self.grid[0] * self.grid[1])
        for mean, rows in zip(means, self.reads, strict=True):
            mean[rows] = 1 / len(mean[rows])
        if self.shares is not None and of_targets:
            return self.shares.to(means) @ means
        return means.mean(dim=0).expand(len(self.logits), 1, -1)

    def under(self, rules: Rules) -> Propagated:
        """What the backward pass by `rules` found.

        Raises:
            MethodError: the method did not declare it in its needs.
        """
        for found in self.backward:
            if found.rules == rules:
                return found
        raise MethodError(f"no backward pass by the rules '{rules.name}' was made; declare it in the method's needs")

    def again(self) -> LastBlock:
        """The last block, to be run again on altered tokens.

        Raises:
            MethodError: the method did not declare it in its needs.
        """
        if self.last is None:
            raise MethodError("the last block's input was not recorded; declare `rerun` in the method's needs")
        return self.last

    def along_scaled(self, steps: int) -> Scaled:
        """The gradient at the last block's attention, mean over `steps` pictures from a dark one to the picture itself.

        Raises:
            MethodError: the method did not declare it in its needs.
        """
        if steps not in self.scaled:
            raise MethodError(f"no {steps} scaled pictures were run; declare `scaled` in the method's needs")
        return self.scaled[steps]

    def pictures(self) -> Pictures:
        """The model, to be run on altered pictures.

        Raises:
            MethodError: the method did not declare it in its needs.
        """
        if self.runs is None:
            raise MethodError("the pictures were not kept; declare `pictures` in the method's needs")
        return self.runs

    def input_gradient(self) -> Tensor:
        """The gradient of every target at the pictures, (b m 3 H W), by full back-propagation.

        Where only `pictures` were declared, by a pass of its own.

        Raises:
            MethodError: the method declared neither `input_gradient` nor `pictures` in its needs.
        """
        if self.at_pictures is not None:
            return self.at_pictures
        if self.runs is None:
            raise MethodError("the gradient at the pictures was not recorded; declare `input_gradient` in the needs")
        return self.runs.gradients()

    def reporting(self, report: Report | None) -> Trace:
        """The same, where runs on altered pictures are counted from 0 and reported as (done, total)."""
        return self if self.runs is None else dataclasses.replace(self, runs=self.runs.reporting(report))

    def upright(self, values: Tensor) -> Tensor:
        """Maps (... rows cols), turned to lie as the image that the model is given does."""
        return values if self.placement is None else self.placement.upright(values)

    def to_grid(self, tokens: Tensor) -> Tensor:
        """(... n) over all tokens -> (... rows cols) over the patch tokens, in float32."""
        patches: Tensor = tokens[..., self.prefix :].unflatten(-1, self.grid)
        return patches.float()


def record(anatomy: Anatomy, images: Tensor, needs: Needs, aims: Sequence[Aim]) -> Trace:
    """Trace the model on `images` (b 3 H W).

    The model is left exactly as found (parameters, gradients, hooks, training flags, requires_grad, random state),
    also after an exception. A model is traced by one thread at a time; several models may be traced side by side.

    Args:
        anatomy: the model's description.
        images: the batch, of the model's dtype and on its device.
        needs: the union of what the methods read.
        aims: the targets, at least one.

    Raises:
        ModelError: the model does not fit its description, or its output is not usable.
        TargetError: the target does not give one differentiable value an image.
    """
    if anatomy.windows:
        return _of_windows(anatomy, images, needs, aims)
    grid = anatomy.grid((images.shape[-2], images.shape[-1]))
    if anatomy.rows_read is None and needs.sensitivity > Blocks.NONE:
        needs = dataclasses.replace(needs, rerun=True)  # no closed form: its tokens' effects come from the block itself
    if needs.scaled:
        needs = needs | SCALED_NEEDS
    if needs.input_gradient and normed_by_batch(anatomy):
        needs = dataclasses.replace(needs, input_gradient=False, pictures=True)
    with left_as_found(anatomy.model):
        batch = fitted(images, anatomy.model)
        seen = capture.forward(anatomy, batch, needs)
        capture.check_tokens(anatomy, seen, grid)
        features = anatomy.features(seen.final).detach()
        slopes = slopes_of(aims, seen.logits, features)
        seeds, reached = seeds_of(anatomy, aims, slopes, features)
        shares = shares_of_reads(anatomy, seen, seeds)
        gradients, at_pictures = _gradients(anatomy, seen, seeds, needs)
        if needs.own_gradient > Blocks.NONE:
            gradients["own"] = own_gradients(anatomy, seen, seeds, aims, grid, needs.own_gradient < Blocks.ALL)
        backward = _backward(anatomy, images, needs, aims, seen.logits)
        gradients |= _paths(anatomy, backward)
        whole = gradients.get("skip", {}).get(len(anatomy.blocks) - 1)
        scaled = {
            steps: along_scaled(anatomy, batch, aims, seeds, steps, (whole, seen.blocks[-1]))
            for steps in sorted(needs.scaled)
            if whole is not None
        }
        changes = {
            index: token_sensitivity(block, seen.blocks[index], grid)
            for index, block in enumerate(anatomy.blocks)
            if needs.sensitivity >= _level(anatomy, index) and block.rows is not None
        }
    blocks = []
    for index, (block, row) in enumerate(zip(anatomy.blocks, seen.blocks, strict=True)):
        mine = {path: each[index].permute(1, 2, 0, 3, 4) for path, each in gradients.items() if index in each}
        class_row = block.rows is not None
        blocks.append(BlockTrace(_quantities(row, class_row, mine, changes.get(index)), class_row))
    of_features = torch.tensor([aim.of_features for aim in aims], device=seen.logits.device)
    carried = seeds.any(dim=-1).T
    again = of_last_block(anatomy, seen.blocks[-1], aims, seeds, grid)
    runs = Pictures(anatomy, batch, _held(anatomy, aims, slopes, seen.logits), grid) if needs.pictures else None
    return Trace(
        seen.logits,
        features,
        reached.T,
        carried,
        of_features,
        tuple(blocks),
        len(anatomy.prefix),
        grid,
        reads=anatomy.rows_of_reads,
        shares=shares,
        residual=tuple(block.residual for block in anatomy.blocks),
        last=again,
        backward=backward,
        scaled=scaled,
        runs=runs,
        at_pictures=None if at_pictures is None else at_pictures.transpose(0, 1),
        placement=anatomy.placement((images.shape[-2], images.shape[-1])),
    )


def _of_windows(anatomy: Anatomy, images: Tensor, needs: Needs, aims: Sequence[Aim]) -> Trace:
    with left_as_found(anatomy.model):
        batch = fitted(images, anatomy.model)
        logits, windows = watch_windows(anatomy, batch)
        slopes = slopes_of(aims, logits, logits)
        seeds, reached = seeds_of(anatomy, aims, slopes, logits)
    of_features = torch.tensor([aim.of_features for aim in aims], device=logits.device)
    rows, cols = windows[-1].received.shape[-2:]
    carried = seeds.any(dim=-1).T
    again = needs.pictures or needs.input_gradient
    runs = Pictures(anatomy, batch, _held(anatomy, aims, slopes, logits), (rows, cols)) if again else None
    placement = anatomy.placement((images.shape[-2], images.shape[-1]))
    return Trace(
        logits,
        logits,
        reached.T,
        carried,
        of_features,
        (),
        0,
        (rows, cols),
        windows=windows,
        runs=runs,
        placement=placement,
    )


def _held(anatomy: Anatomy, aims: Sequence[Aim], slopes: Sequence[Slope], logits: Tensor) -> Held:
    activation = resolved_activation(None, anatomy.activation, anatomy.outputs)
    return Held(tuple(aims), tuple(slopes), logits, activation)


def _gradients(
    anatomy: Anatomy, seen: capture.ForwardCapture, seeds: Tensor, needs: Needs
) -> tuple[dict[str, dict[int, Tensor]], Tensor | None]:
    """The gradients that `needs` asks for, but for each block's own.

    Returns:
        At T_b: path -> block -> (m b h r d). At the pictures: (m b 3 H W), where asked for.
    """
    found: dict[str, dict[int, Tensor]] = {}
    at_pictures = None
    if needs.input_gradient or max(needs.skip_gradient, needs.full_gradient) > Blocks.NONE:
        skip, residual = skip_gradients(anatomy, seen, seeds, last_only=needs.skip_gradient < Blocks.ALL)
        last = len(anatomy.blocks) - 1
        found = {"skip": skip, "full": {last: skip[last]}}
        everywhere = needs.full_gradient == Blocks.ALL and last > 0
        if everywhere or needs.input_gradient:
            full, at_pictures = full_gradients(anatomy, seen, skip[last], residual)
            found["full"] = full if everywhere else found["full"]
    if needs.feedforward_gradient > Blocks.NONE:
        found["feedforward"], _ = skip_gradients(anatomy, seen, seeds, beside=False)
    return found, at_pictures


def _backward(
    anatomy: Anatomy, images: Tensor, needs: Needs, aims: Sequence[Aim], logits: Tensor
) -> tuple[Propagated, ...]:
    """Every other backward pass that is needed; each forward is held against the first."""
    passes = []
    for rules in sorted(needs.backward, key=lambda one: one.name):
        output, found = propagate(anatomy, images, rules, aims)
        exact = logits.dtype in (torch.float32, torch.float64) and not anatomy.running.lowers
        bound = 1e-3 if exact else 5e-2
        if not (output - logits).norm() <= bound * logits.norm():
            raise ModelError(
                f"the forward pass by the rules '{rules.name}' gave another output: a layer works in place or at random"
            )
        passes.append(found)
    return tuple(passes)


def _paths(anatomy: Anatomy, backward: Sequence[Propagated]) -> dict[str, dict[int, Tensor]]:
    """The gradients at T_b of these passes: rules' name -> block -> (m b h r d)."""
    rows = [None] * (len(anatomy.blocks) - 1) + [anatomy.rows_read]
    return {
        found.rules.name: {index: at[..., : rows[index], :] for index, at in enumerate(found.at_outputs)}
        for found in backward
    }


def _quantities(
    row: BlockCapture,
    class_row: bool,
    gradients: dict[str, Tensor],
    changes: tuple[Tensor, Tensor] | None,
) -> dict[str, Tensor | EveryRow | Transformation]:
    """What a block's record holds, of its class row and, where asked for or where it has none, of every row."""
    assert row.rows is not None
    quantities: dict[str, Tensor | EveryRow | Transformation] = {}
    if row.value_transform is not None:
        quantities["value_transform"] = row.value_transform
    if row.feedforward_transform is not None:
        quantities["feedforward_transform"] = row.feedforward_transform
    if row.attended is not None:
        assert row.values is not None
        query, keys, mask = row.attended
        quantities["every_row"] = EveryRow(query, keys, row.values, mask, gradients)
    if not class_row:
        return quantities
    quantities["output"] = row.rows[..., 0, :]
    if row.scores is not None:
        attention = row.scores.softmax(-1)
        quantities |= {"scores": row.scores[..., 0, :], "attention": attention[..., 0, :]}
    if row.values is not None:
        quantities["values"] = row.values
    quantities |= {f"{path}_gradient": gradient[..., 0, :] for path, gradient in gradients.items()}
    if changes is not None:
        quantities["value_change"], quantities["score_change"] = changes
        quantities |= {"row_attention": attention, "row_output": row.rows}
        if "skip" in gradients:
            quantities["row_gradient"] = gradients["skip"]
    return quantities


def _level(anatomy: Anatomy, index: int) -> Blocks:
    return Blocks.LAST if index + 1 == len(anatomy.blocks) else Blocks.ALL
