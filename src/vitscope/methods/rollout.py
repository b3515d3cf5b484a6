"""Attention rollout, with and without gradients, and Chefer's generic relevance: attention matrices multiplied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, EveryRow, Needs, Trace, gradient_along

Mix = Callable[[Tensor, Tensor | None], Tensor]
"""Attention of some rows (b h r n), its gradients (b h m r n) or None -> one matrix for all heads, (b m r n)."""


@register_method
@dataclass(frozen=True)
class Rollout:
    """Attention rollout (Abnar, Zuidema; ACL 2020, arXiv 2005.00928).

        A~_b = rownorm( mean_h A_b + I ),   R = A~_B ... A~_1,   map = the class token's row of R

    Only this row is multiplied, block by block from the last, so that no product of matrices is made. A model that
    pools its tokens begins with the mean of the patch rows, an attention pool with its own row, without a residual.
    There each patch also keeps what never left its place, by the identities alone; nearly the same for all patches, it
    would cover the map, and is left out. (With a class token it lies on the class token.)
    """

    facts: ClassVar[Facts] = Facts(
        name="rollout",
        title="Attention rollout",
        family="attention",
        paper="arXiv 2005.00928",
        year=2020,
        signed=False,
        class_specific=False,
        cost="1.3",
        caution="Follows attention alone, values and MLPs do not count; the same map for every class.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the product."""
        row = last_row(trace, _mean, normed=True, path=None)
        return Maps(values=trace.to_grid(row[:, 0]))


@register_method
@dataclass(frozen=True)
class GradientRollout:
    """Rollout of attention weighted by its gradient (Gildenblat, "Exploring Explainability for Vision Transformers").

        A~_b = rownorm( mean_h ReLU(dY/dA_b * A_b) + I ),   map = the class token's row of A~_B ... A~_1

    The heads' products are cut off at zero before their mean, as in Chefer's generic method; what the blog's code does
    besides, discarding the lowest values, is left out.

    Attributes:
        path: of the gradient: "full", or LibraGrad's, "libra".
    """

    path: Literal["full", "libra"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="gradient_rollout",
        title="Gradient rollout",
        family="attention-gradient",
        paper="jacobgil.github.io/deeplearning/vision-transformer-explainability",
        year=2020,
        signed=False,
        class_specific=True,
        cost="2.7",
        caution="The identity outweighs attention times gradient by far: what is left is nearly a sum over blocks.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the product, for every target."""
        return Maps(values=trace.to_grid(last_row(trace, _positive, normed=True, path=self.path)))


@register_method
@dataclass(frozen=True)
class Chefer:
    """Generic attention explainability (Chefer, Gur, Wolf; ICCV 2021, arXiv 2103.15679, Eqs. 5 and 6).

        A-_b = mean_h ReLU(dY/dA_b * A_b),   R <- R + A-_b R,   map = the class token's row of R

    The gradient at A_b^h[m, n] is <dY/dT_b^h[m], v_b^h[n]>, and only the class token's row is multiplied, so that no
    N x N matrix is kept.

    Attributes:
        path: of the gradient: "full", or LibraGrad's, "libra".
    """

    path: Literal["full", "libra"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="chefer",
        title="Generic attention explainability",
        family="attention-gradient",
        paper="arXiv 2103.15679",
        year=2021,
        signed=False,
        class_specific=True,
        cost="2.8",
        caution="Negative evidence is cut off head by head; values count by their gradient alone.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the relevance, for every target."""
        return Maps(values=trace.to_grid(last_row(trace, _positive, normed=False, path=self.path)))


def _mean(attention: Tensor, _: Tensor | None) -> Tensor:
    return attention.mean(dim=1, keepdim=True)


def _positive(attention: Tensor, gradients: Tensor | None) -> Tensor:
    assert gradients is not None
    return (gradients * attention.unsqueeze(2)).relu().mean(dim=1)


def last_row(
    trace: Trace, mix: Mix, normed: bool, path: str | None = "full", beside: Sequence[Tensor] | None = None
) -> Tensor:
    """The row of (M_B + I) ... (M_1 + I) that leads to the output, less the product of the identities, (b m n).

    Args:
        trace: with every block's attention.
        mix: gives M_b, some rows at a time.
        normed: divide every row of M_b + I by its sum.
        path: of the gradients that `mix` is given, or None.
        beside: of every block what else lies at the rows' outputs, (b h m' r d); `mix` is given it like gradients,
            behind these on axis m.
    """
    row = stayed = _start(trace)
    for index in reversed(range(len(trace.blocks))):
        every = trace.blocks[index].every_row
        at_output = None if path is None else every.gradient(path)
        if beside is not None:
            at_output = beside[index] if at_output is None else torch.cat([at_output, beside[index]], dim=2)
        row, stayed = _back(row, stayed, every, at_output, mix, normed, trace.residual[index])
    return row - stayed


def _start(trace: Trace) -> Tensor:
    """The class token alone, or the mean of the patches, (b 1 n)."""
    keys = trace.blocks[0].every_row.keys
    batch, _, tokens, _ = keys.shape
    row = keys.new_zeros(batch, 1, tokens)
    if trace.blocks[-1].class_row:
        row[..., 0] = 1
    else:
        row[..., trace.prefix :] = 1 / (tokens - trace.prefix)
    return row


def _back(
    row: Tensor,
    stayed: Tensor,
    every: EveryRow,
    gradients: Tensor | None,
    mix: Mix,
    normed: bool,
    residual: bool,
) -> tuple[Tensor, Tensor]:
    """row (M + I) and stayed I, each (b m n); without I where the block has no residual stream.

    Rows beyond the block's own are 0 in `row`.
    """
    moved: Tensor | None = None
    for rows, scores in every.scores(2**24 // (1 if gradients is None else gradients.shape[2])):
        chunk = mix(scores.softmax(dim=-1), None if gradients is None else _at_attention(gradients, rows, every.values))
        total = chunk.sum(dim=-1) + residual if normed else torch.ones_like(chunk[..., 0])
        weight = row[..., rows] / total
        part = (weight.unsqueeze(-2) @ chunk).squeeze(-2)
        if moved is None:
            moved, kept = torch.zeros_like(part), torch.zeros_like(part)
        if residual:
            part[..., rows] += weight
            kept[..., rows] = stayed[..., rows] / total
        moved = moved + part
    assert moved is not None
    return moved, kept


def _at_attention(gradients: Tensor, rows: slice, values: Tensor) -> Tensor:
    """The gradient at some rows of the attention matrix, <dY/dT[m], v[n]>, (b h m r n)."""
    return gradients[..., rows, :] @ values.unsqueeze(2).transpose(-1, -2)
