"""GMAR: attention rollout with every head weighted by the size of its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import LIMIT, Rows, at_attention, attention_rows, output_row, product
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, BlockTrace, EveryRow, Needs, Trace, gradient_along


@register_method
@dataclass(frozen=True)
class GMAR:
    """Gradient-driven Multi-head Attention Rollout (arXiv 2504.19414, 2025, section 3).

        g_b^h = sum |dY/dA_b^h|  (L1)   or   sqrt( sum (dY/dA_b^h)^2 )  (L2),   over all entries of the matrix
        w_b^h = g_b^h / sum_h' g_b^h'
        A~_b  = rownorm( sum_h w_b^h A_b^h + I ),   map = the class token's row of A~_B ... A~_1

    The heads' weights sum to 1 in every block by itself: "normalised across all heads" is read so. What is multiplied
    is as in attention rollout, I with its weight of one half too. Where the head pools the tokens, the product begins
    with the mean of the rows that it reads (an attention pool with its own), less what never left its place, as there;
    where it reads the class token beside a mean, each counts by its share in the target, as in `chefer`.

    Attributes:
        norm: of a head's gradient; the paper names both, "l1" first.
        path: of the gradient: "full", or LibraGrad's, "libra".
    """

    norm: Literal["l1", "l2"] = "l1"
    path: Literal["full", "libra"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="gmar",
        title="Gradient-driven Multi-head Attention Rollout",
        family="attention-gradient",
        paper="arXiv 2504.19414",
        year=2025,
        signed=False,
        class_specific=True,
        cost="2.6",
        caution="The target only weighs the heads: maps for different classes are nearly alike.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the product, for every target."""
        moved, _ = product(trace, self._weighted, output_row(trace), normed=True)
        return Maps(values=trace.to_grid(moved.squeeze(-2)))

    def _weighted(self, block: BlockTrace) -> Rows:
        """sum_h w^h A^h."""
        every = block.every_row
        weights = _share(_size(every, self.norm, self.path)).to(every.keys)  # b h m
        for rows, attention in attention_rows(every, weights.shape[2]):
            yield rows, torch.einsum("bhm,bhrn->bmrn", weights, attention)


def _size(every: EveryRow, norm: str, path: str) -> Tensor:
    """g^h, (b h m), in float32 at least."""
    gradients = every.gradient(path)
    kind = torch.promote_types(gradients.dtype, torch.float32)
    total = torch.zeros_like(gradients[..., 0, 0], dtype=kind)
    for rows in every.chunks(LIMIT // gradients.shape[2]):
        entries = at_attention(gradients, rows, every.values).to(kind)
        total = total + (entries.abs() if norm == "l1" else entries**2).sum(dim=(-2, -1))
    return total if norm == "l1" else total.sqrt()


def _share(size: Tensor) -> Tensor:
    """Each head's share; 0 where no head has any."""
    whole = size.sum(dim=1, keepdim=True)
    return torch.where(whole > 0, size / whole, torch.zeros_like(size))
