"""Grad-SAM: attention weighted by its positive gradient, over all blocks, heads and queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import at_attention, attention_rows
from vitscope.methods.registry import register_method
from vitscope.recording import AttentionRecord, Recording
from vitscope.trace import Blocks, EveryRow, Needs, Trace, gradient_along


@register_method
@dataclass(frozen=True)
class GradSAM:
    """Gradient Self-Attention Maps (Barkan et al., CIKM 2021, arXiv 2204.11073, the paper's section 2).

        H_b^h  = A_b^h * ReLU( dY / dA_b^h )
        map[n] = mean_b mean_h mean_m H_b^h[m, n]

    by full back-propagation; `blocks` holds each block's share of the mean. The gradient at A_b^h[m, n] is
    <dY/dT_b^h[m], v_b^h[n]>, some rows m at a time.

    The method is of texts, where a word's score is a mean over its row of H or over its column; the column, what all
    queries m draw from token n, is our reading, since the class token's row alone has a gradient in the last block. An
    attention matrix has a row a token; that of an attention pool has one.

    Attributes:
        path: of the gradient: "full", or LibraGrad's, "libra".
    """

    path: Literal["full", "libra"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="grad_sam",
        title="Gradient Self-Attention Maps",
        family="attention-gradient",
        paper="arXiv 2204.11073",
        year=2021,
        signed=False,
        class_specific=True,
        cost="2.7",
        any_network=True,
        caution="Counts what every token draws from a patch, whether or not it is passed on to the class token.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The mean over blocks, heads and queries, and each block's share of it."""
        if isinstance(trace, Recording):
            return self._of_sites(trace)
        each = []
        for block, residual in zip(trace.blocks, trace.residual, strict=True):
            every = block.every_row
            queries = every.keys.shape[-2] if residual else every.query.shape[-2]
            each.append(_weighted(every, self.path) / (queries * len(trace.blocks)))
        blocks = trace.to_grid(torch.stack(each, dim=2))
        return Maps(values=blocks.sum(dim=2), blocks=blocks)

    def _of_sites(self, recording: Recording) -> Maps:
        """The same over the attention calls of any network."""
        sites = recording.need_sites()
        each = [
            recording.fine(_of_site(recording, site, self.path)) / (site.heads * site.call.queries * len(sites))
            for site in sites
        ]
        blocks = torch.stack(each, dim=2)
        return Maps(values=blocks.sum(dim=2), blocks=blocks)


def _of_site(recording: Recording, site: AttentionRecord, path: str) -> Tensor:
    """mean_h sum_m H, (b m grid)."""
    gradients = site.gradient(path)
    totals = [torch.zeros_like(site.call.value[..., 0]) for _ in gradients]
    for some, attention in site.attention(torch.arange(site.call.queries, device=gradients[0].device)):
        for total, gradient in zip(totals, gradients, strict=True):
            slopes = gradient.index_select(-2, some) @ site.call.value.transpose(-2, -1)
            total += (slopes.relu() * attention).sum(dim=-2)
    return torch.stack([recording.on_grid(site, total) for total in totals], dim=1)


def _weighted(every: EveryRow, path: str) -> Tensor:
    """mean_h sum_m H, (b m n)."""
    gradients = every.gradient(path)
    total = torch.zeros_like(gradients[:, 0, :, :1, 0])  # b m 1
    for rows, attention in attention_rows(every, gradients.shape[2]):
        weighted = attention.unsqueeze(2) * at_attention(gradients, rows, every.values).relu()
        total = total + weighted.mean(dim=1).sum(dim=-2)
    return total
