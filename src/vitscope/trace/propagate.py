"""A pass of the model whose backward pass follows other rules: what travels back to every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.errors import MethodError, ModelError
from vitscope.models import Anatomy
from vitscope.trace.aim import Aim, scored
from vitscope.trace.backward import AnotherBackward, Rules
from vitscope.trace.block import BlockCapture
from vitscope.trace.capture import NO_GRADIENT
from vitscope.trace.gradient_rules import over
from vitscope.trace.guard import fitted, left_as_found
from vitscope.trace.hooks import hooks
from vitscope.trace.needs import Needs
from vitscope.trace.watch import AttentionWatch


@dataclass(frozen=True)
class Propagated:
    """What a backward pass by `rules` found. Axis m: the targets.

    Attributes:
        rules: by which it went.
        tokens: of every block its input x_b, (b n D); zeros for prefix tokens that come in beside it.
        at_tokens: what travelled to it, (b m n D): a gradient, or relevance where the rules propagate relevance.
        at_outputs: what travelled to its attention's output T_b as a gradient, (m b h n d); of relevance R it is R / T.
    """

    rules: Rules
    tokens: tuple[Tensor, ...]
    at_tokens: tuple[Tensor, ...]
    at_outputs: tuple[Tensor, ...]

    def relevance(self, block: int) -> Tensor:
        """The relevance of every token of x_b, (b m n): x_b * gradient, or the relevance itself, summed over D."""
        at = self.at_tokens[block]
        return at.sum(dim=-1) if self.rules.relevance else (at * self.tokens[block].unsqueeze(1)).sum(dim=-1)


def propagate(anatomy: Anatomy, images: Tensor, rules: Rules, aims: Sequence[Aim]) -> tuple[Tensor, Propagated]:
    """Run the model on `images` (b 3 H W) with the backward pass of `rules`; it is left exactly as found.

    A gradient starts as the target's at the output; relevance likewise, as one for a class, or as x * gradient where
    the target is a function of the features x. A lower precision is not followed: the rules divide by sums that nearly
    cancel.

    Returns:
        The output (b c), and what travelled back.

    Raises:
        MethodError: there is no rule for one of the model's layers, or no gradient leads through the model.
    """
    with left_as_found(anatomy.model), torch.enable_grad():
        run = _follow(anatomy, images, rules)
        wanted = [*run.tokens, *run.outputs]
        found = []
        for aim in aims:
            at, seed = _start(aim, run, rules.relevance)
            if not at.requires_grad:
                raise MethodError(NO_GRADIENT)
            found.append(torch.autograd.grad(at, wanted, seed, retain_graph=True, materialize_grads=True))
    by_slot = [torch.stack(each, dim=1) for each in zip(*found, strict=True)]
    count = len(run.tokens)
    cells = anatomy.grid((images.shape[-2], images.shape[-1]))
    whole = len(anatomy.prefix) + cells[0] * cells[1]
    return run.output.detach(), Propagated(
        rules,
        tuple(_with_prefix(tokens.detach(), whole) for tokens in run.tokens),
        tuple(_with_prefix(at, whole) for at in by_slot[:count]),
        tuple(_as_gradient(rules, at.transpose(0, 1), run.outputs[index]) for index, at in enumerate(by_slot[count:])),
    )


def why_no_rule(anatomy: Anatomy, rules: Rules) -> str:
    """Why the model has no backward pass by `rules`, or "": found by a pass of a blank picture.

    What was found stands as long as the description is used and the model is made of the same kinds of modules.
    """
    known, key = anatomy.found_out, (rules.name, tuple(map(type, anatomy.model.modules())))
    if key not in known:
        try:
            with left_as_found(anatomy.model), torch.enable_grad():
                _follow(anatomy, torch.zeros(1, 3, *anatomy.input_size), rules)
            known[key] = ""
        except MethodError as error:
            known[key] = str(error)
    return known[key]


@dataclass(frozen=True)
class _Run:
    """A pass with its graph."""

    tokens: list[Tensor]
    outputs: list[Tensor]
    features: Tensor
    output: Tensor


def _follow(anatomy: Anatomy, images: Tensor, rules: Rules) -> _Run:
    anatomy = anatomy.exact
    records = [BlockCapture() for _ in anatomy.blocks]
    watch, another = AttentionWatch(anatomy, Needs(), records, whole=True), AnotherBackward(rules, anatomy.model)
    tokens: list[Tensor] = []
    final: list[Tensor] = []

    def begin(index: int, x: Tensor) -> Tensor:
        another.where = anatomy.blocks[index].name
        tokens.append(x.view_as(x) if x.requires_grad else x.detach().requires_grad_())
        return tokens[-1]

    def end(x: Tensor) -> Tensor:
        final.append(x)
        return x.detach()  # what follows is made again from the rows that are read

    with another, watch:
        with hooks() as hook:
            for index, block in enumerate(anatomy.blocks):
                hook.replace_input(block.module, partial(begin, index))
                hook.before(block.attention, partial(watch.enter, index))
                hook.after(block.attention, watch.leave)
            hook.replace_input(anatomy.final_site or anatomy.blocks[-1].feedforward_site, end)
            anatomy.forward(fitted(images, anatomy.model))
        another.where = "the head"
        last = final[0][:, : anatomy.rows_read]
        if anatomy.final_site is None:
            last = last + anatomy.blocks[-1].feedforward(last)
        features = anatomy.features(last)
        output = anatomy.output(features)
    return _Run(tokens, [_output(record) for record in records], features, output)


def _output(record: BlockCapture) -> Tensor:
    if record.rows is None:
        raise ModelError("a block's attention was not seen; switch the model to torch's kernel")
    if record.output is None:
        raise MethodError(NO_GRADIENT)
    return record.output


def _start(aim: Aim, run: _Run, relevance: bool) -> tuple[Tensor, Tensor]:
    """Where the backward pass of a target starts, and with what, both (b c) or (b F)."""
    at = run.features if aim.of_features else run.output
    leaf = at.detach().requires_grad_()
    (seed,) = torch.autograd.grad(scored(aim, leaf).sum(), leaf)
    return at, seed * leaf.detach() if relevance and aim.of_features else seed


def _as_gradient(rules: Rules, at: Tensor, value: Tensor) -> Tensor:
    return over(at, value.detach().expand_as(at)) if rules.relevance else at


def _with_prefix(tokens: Tensor, whole: int) -> Tensor:
    """(... n D) with zeros before it for the prefix tokens that it lacks."""
    return F.pad(tokens, (0, 0, whole - tokens.shape[-2], 0))
