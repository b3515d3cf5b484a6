"""The raw attention map: the first baseline of every paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, Needs, Trace


@register_method
@dataclass(frozen=True)
class Attention:
    """The class token's attention to the patches in the last block, softmax(z_B), mean over heads.

    As in Caron et al., ICCV 2021 (DINO), Fig. 1. `heads` holds every head's own map. Where the head pools its tokens by
    their mean, the patch rows' attention stands for the class token's, likewise as a mean; an attention pool is itself
    the last block.

    Attributes:
        head: one head (from 0), or None for the mean over heads.
    """

    head: int | None = None

    facts: ClassVar[Facts] = Facts(
        name="attention",
        title="Class token attention, last block",
        paper="arXiv 2104.14294",
        year=2021,
        signed=False,
        class_specific=False,
        cost="1.02",
        caution="Says where the class token looks, not for which class: the same map for every class.",
    )

    @property
    def needs(self) -> Needs:
        """The last block's class-row attention."""
        return Needs(attention=Blocks.LAST)

    def __call__(self, trace: Trace) -> Maps:
        """The mean over heads, or one head's map."""
        block = trace.blocks[-1]
        attention = block.attention if block.class_row else block.every_row.received(trace.prefix)
        heads = trace.to_grid(attention)  # b h rows cols
        if self.head is None:
            return Maps(values=heads.mean(dim=1), heads=heads)
        if not 0 <= self.head < heads.shape[1]:
            raise MethodError(f"attention: the model has heads 0 to {heads.shape[1] - 1}, not {self.head}")
        return Maps(values=heads[:, self.head], heads=heads)
