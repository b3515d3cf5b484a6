"""Grad-ECLIP: the last block's values, weighted by the gradient and by a loosened attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import LIMIT, at_attention
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, EveryRow, Needs, Trace, merge_heads


@register_method
@dataclass(frozen=True)
class GradECLIP:
    """Grad-ECLIP (Zhao et al., ICML 2024; arXiv 2502.18816, the paper's channel and spatial weights).

        w[n]   = minmax_n cos( q_cls, k_n )                      the loosened attention, over the patches
        map[n] = ReLU( sum_d dY/dT_B[d] v_B[n, d] w[n] )

    of the last block, T_B its class row before the output projection. The target may be any: for a CLIP tower a text's
    similarity, as in the paper; a class's logit otherwise.

    q and k are those that meet in the scores, all heads side by side. The authors' code sends both through the output
    projection first, which the paper's formula does not; it also runs the last block again with one head in place of
    many, so that it explains another network. Here the model stays what it is. Both are our reading.

    Where the head pools all tokens, every row m has a gradient and a query of its own, and the sum over rows is taken
    within the ReLU; the paper has no such models. An attention pool's one row stands in the class token's place.
    """

    facts: ClassVar[Facts] = Facts(
        name="grad_eclip",
        title="Gradient-based Visual Explanation for CLIP",
        family="attention-gradient",
        paper="arXiv 2502.18816",
        year=2024,
        signed=False,
        class_specific=True,
        cost="1.0",
        caution="Looks at the last block only, and replaces its attention by a similarity that the model does not use.",
    )

    @property
    def needs(self) -> Needs:
        """The last block's queries, keys and values with the gradient at its output."""
        return Needs(attention=Blocks.LAST, every_row=Blocks.LAST, skip_gradient=Blocks.LAST)

    def __call__(self, trace: Trace) -> Maps:
        """The positive evidence."""
        last = trace.blocks[-1]
        every = last.every_row
        gradients = every.gradient("skip")  # b h m r d
        chunks = [slice(0, 1)] if last.class_row else list(every.chunks(LIMIT // gradients.shape[2]))
        evidence = []
        for rows in chunks:
            effect = at_attention(gradients, rows, every.values).sum(dim=1)  # b m r n
            evidence.append((effect * _loosened(every, rows, trace.prefix).unsqueeze(1)).sum(dim=-2))
        return Maps(values=trace.to_grid(torch.stack(evidence).sum(dim=0).relu()))


def _loosened(every: EveryRow, rows: slice, prefix: int) -> Tensor:
    """The cosine of some rows' queries with all keys, each row scaled to [0, 1] over the patches, (b r n)."""
    query = F.normalize(merge_heads(every.query[..., rows, :]), dim=-1)
    keys = F.normalize(merge_heads(every.keys), dim=-1)
    cosine = query @ keys.transpose(-1, -2)
    low, high = (edge(cosine[..., prefix:], dim=-1, keepdim=True) for edge in (torch.amin, torch.amax))
    return (cosine - low) / (high - low).clamp_min(torch.finfo(cosine.dtype).tiny)
