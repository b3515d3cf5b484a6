"""LeGrad: the gradient at every block's attention, of what that block's own output would be taken for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import LIMIT, at_attention
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, BlockTrace, Needs, Trace, head_products


@register_method
@dataclass(frozen=True)
class LeGrad:
    """LeGrad (Bousselham et al., ICCV 2025, arXiv 2404.03214, section 3: the paper's core formula).

        s_b    = the target, read off block b's own output by the final norm and the head
        E_b[n] = mean_h mean_m ReLU( ds_b / dA_b^h[m, n] )
        map    = mean_b E_b

    `blocks` holds E_b / B, whose sum is the map. The gradient at A_b^h[m, n] is <ds_b/dT_b^h[m], v_b^h[n]>, in closed
    form for every block: nothing passes a later block, and no attention matrix is made.

    Where the head reads the class token, ds_b/dA_b stands in its row alone, and m is that row: the paper's mean over
    all queries is the same map over the number of tokens. (In a distilled DeiT too it is the class token's row, though
    both tokens' heads give the target.) Where the head pools the tokens by their mean or maximum, m runs over all of
    them.

    Of an attention pool the authors' code takes the gradient at the pool's attention, fed with block b's output. Here
    block b's output goes through the pool likewise, but the gradient is the one at block b's own attention, as the
    formula has it, m over all rows; the last map is that of the pool itself. This is our reading.

    The authors' code for CLIP takes the mean of all tokens, class token too, for block b's output; here it is what the
    model's own head reads. It also starts at a late block and scales the map to [0, 1]; neither is done here.
    """

    facts: ClassVar[Facts] = Facts(
        name="legrad",
        title="LeGrad",
        family="attention-gradient",
        paper="arXiv 2404.03214",
        year=2025,
        signed=False,
        class_specific=True,
        cost="1.2",
        caution="Early blocks are read by a head that was trained on the last one; attention itself does not count.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's values, and the gradient of its own output."""
        return Needs(values=Blocks.ALL, own_gradient=Blocks.ALL)

    def __call__(self, trace: Trace) -> Maps:
        """The mean over blocks, and each block's share of it."""
        each = torch.stack([_sensitivity(block) for block in trace.blocks], dim=2)  # b m block n
        blocks = trace.to_grid(each / len(trace.blocks))
        return Maps(values=blocks.sum(dim=2), blocks=blocks)


def _sensitivity(block: BlockTrace) -> Tensor:
    """E_b, (b m n)."""
    if block.class_row:
        return head_products(block.gradient("own"), block.values).relu().mean(dim=1)
    every = block.every_row
    gradients = every.gradient("own")
    total = torch.zeros_like(gradients[:, 0, :, :1, 0])  # b m 1
    for rows in every.chunks(LIMIT // gradients.shape[2]):
        total = total + at_attention(gradients, rows, every.values).relu().mean(dim=1).sum(dim=-2)
    return total / gradients.shape[-2]
