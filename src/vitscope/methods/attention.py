"""The raw attention map: the first baseline of every paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import Blocks, Needs, Trace


@register_method
@dataclass(frozen=True)
class Attention:
    """The class token's attention to the patches in the last block, softmax(z_B), mean over heads.

    As in Caron et al., ICCV 2021 (DINO), Fig. 1. `heads` holds every head's own map. Where the head pools its tokens by
    their mean, the attention of the rows that it reads stands for the class token's, likewise as a mean; where it reads
    the class token beside the mean of the patches, each counts half. An attention pool is itself the last block.

    Where attention stays within windows (Swin, MaxViT, Hiera) or keys are pooled (PVT), the map is what each key
    receives, mean over its window's queries and the blocks of a stage, put back into the picture: it compares places
    within a window, never windows with each other.

    Attributes:
        head: one head (from 0), or None for the mean over heads.
        stage: of a windowed model, from 0; None is the last.
    """

    head: int | None = None
    stage: int | None = None

    facts: ClassVar[Facts] = Facts(
        name="attention",
        title="Class token attention, last block",
        family="attention",
        paper="arXiv 2104.14294",
        year=2021,
        signed=False,
        class_specific=False,
        cost="1.02",
        caution="Says where the class token looks, not for which class.",
        of_rows=False,
        any_network=True,
    )

    @property
    def needs(self) -> Needs:
        """The last block's class-row attention."""
        return Needs(attention=Blocks.LAST)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The mean over heads, or one head's map."""
        if isinstance(trace, Recording):
            return self._of_last_site(trace)
        heads = self._of_stage(trace) if trace.windows else self._of_last_block(trace)  # b h rows cols
        if self.head is None:
            return Maps(values=heads.mean(dim=1), heads=heads)
        if not 0 <= self.head < heads.shape[1]:
            raise MethodError(f"attention: the model has heads 0 to {heads.shape[1] - 1}, not {self.head}")
        return Maps(values=heads[:, self.head], heads=heads)

    def _of_last_site(self, recording: Recording) -> Maps:
        """Of any other network: what each key of the last attention call gets from the rows that are read."""
        if self.head is not None or self.stage is not None:
            raise MethodError(
                "attention: heads and stages of this network are not distinguished; leave head and stage out"
            )
        site = recording.need_sites()[-1]
        rows = site.read()
        shares, start = site.shares(rows), 0
        received = torch.zeros_like(site.call.value[..., 0])
        for some, attention in site.attention(rows):
            share = shares[..., start : start + len(some)]
            received += (attention * share.unsqueeze(-1)).sum(dim=-2)
            start += len(some)
        return Maps(values=recording.on_grid(site, received / site.heads))

    def _of_last_block(self, trace: Trace) -> Tensor:
        if self.stage is not None:
            raise MethodError("attention: this model has no stages; leave stage out")
        block = trace.blocks[-1]
        if block.class_row:
            return trace.to_grid(block.attention)
        return trace.to_grid(block.every_row.received(trace.counts(of_targets=False))[:, :, 0])

    def _of_stage(self, trace: Trace) -> Tensor:
        last = trace.windows[-1].stage
        stage = last if self.stage is None else self.stage
        found = [window.received.float() for window in trace.windows if window.stage == stage]
        if not found:
            raise MethodError(f"attention: the model has stages 0 to {last}, not {stage}")
        return torch.stack(found).mean(dim=0)
