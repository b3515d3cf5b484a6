"""AG-CAM: Attention Guided CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import Blocks, BlockTrace, Needs, Trace, gradient_along, head_products


@register_method
@dataclass(frozen=True)
class AGCAM:
    """Attention Guided CAM (Leem, Seo; AAAI 2024, arXiv 2402.04563).

        F_b^h[n] = sigmoid(z_b^h[n])                            (b h n)
        alpha_b^h[n] = dY / da_b^h[n] = <dY/dT_b^h, v_b^h[n]>   (b h m n)
        map = sum_b sum_h ReLU(alpha) F

    The gradient follows the skip connections only, as in the paper and its official implementation, which detaches
    the input of every attention: it reaches T_b through the class row's residual stream and MLPs, never through a
    later attention. The closed form needs no backward pass.

    Where a model pools its tokens, all rows m of the attention take part, each with its own gradient:

        map = sum_b sum_h sum_m ReLU( <dY/dT_b^h[m], v_b^h[n]> ) F(z_b^h[m, n])

    An attention pool is a later attention, which the skip path does not pass: there it is the only block with a map.

    The other options are the paper's open questions; where it leaves a form open, this is our reading.

    Attributes:
        path: "skip" as published, "full" back-propagation (another map; one backward pass), or LibraGrad's, "libra".
        scores: what guides the gradient. "sigmoid" of the scores as published; their "softmax"; scaled by "minmax" over
            the tokens of each head; or standardised, negative values cut off: over the tokens of each head
            ("instance_norm"), over heads and tokens together ("layer_norm").
        heads: how the heads' maps become a block's: "sum" as published, "mean", "max", or weighted by each head's share
            of the block's positive "gradient".
        layers: how the blocks' maps become one: likewise, by each block's share of all positive gradient. With "max"
            there is no map a block, since a maximum has no parts.
    """

    path: Literal["skip", "full", "libra"] = "skip"
    scores: Literal["sigmoid", "softmax", "minmax", "instance_norm", "layer_norm"] = "sigmoid"
    heads: Literal["sum", "mean", "max", "gradient"] = "sum"
    layers: Literal["sum", "mean", "max", "gradient"] = "sum"

    facts: ClassVar[Facts] = Facts(
        name="agcam",
        title="Attention Guided CAM",
        family="papers",
        paper="arXiv 2402.04563",
        year=2024,
        signed=False,
        class_specific=True,
        cost="1.2",
        any_network=True,
        caution="Evidence against the class is cut off by a ReLU; effects through later attention do not count.",
    )

    @property
    def needs(self) -> Needs:
        """Class-row scores, values and the gradient at T_b of every block."""
        return Needs(attention=Blocks.ALL, values=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The map fused over blocks and heads, and each block's own."""
        if isinstance(trace, Recording):
            return self._of_sites(trace)
        per_block, weights = [], []
        for block in trace.blocks:
            maps, strength = self._guided(block)
            parts = _parts(maps, strength, self.heads)
            per_block.append(maps.amax(dim=1) if parts is None else parts.sum(dim=1))
            weights.append(strength.sum(dim=1))
        stacked = torch.stack(per_block, dim=1)  # b block m n
        parts = _parts(stacked, torch.stack(weights, dim=1), self.layers)
        if parts is None:
            return Maps(values=trace.to_grid(stacked.amax(dim=1)))
        blocks = trace.to_grid(parts.transpose(1, 2))
        return Maps(values=blocks.sum(dim=2), blocks=blocks)

    def _of_sites(self, recording: Recording) -> Maps:
        """The same over the attention calls of any network, heads and windows summed."""
        if (self.heads, self.layers) != ("sum", "sum"):
            raise MethodError(
                f"agcam: heads={self.heads} and layers={self.layers} are defined for the models that `vitscope models` "
                "lists; use heads=sum,layers=sum"
            )
        per_site = []
        for site in recording.need_sites():
            gradients, rows = site.at_read(self.path), site.read()
            totals = [torch.zeros_like(site.call.value[..., 0]) for _ in gradients]
            for some, scores in site.scores(rows):
                guide = _guide(scores, self.scores)
                for total, gradient in zip(totals, gradients, strict=True):
                    alpha = gradient.index_select(-2, torch.searchsorted(rows, some)) @ site.call.value.transpose(
                        -2, -1
                    )
                    total += (alpha.relu() * guide).sum(dim=-2)
            maps = torch.stack([recording.on_grid(site, total) for total in totals], dim=1)
            per_site.append(recording.fine(maps))
        blocks = torch.stack(per_site, dim=2)
        return Maps(values=blocks.sum(dim=2), blocks=blocks)

    def _guided(self, block: BlockTrace) -> tuple[Tensor, Tensor]:
        """Of every head, the guided gradient (b h m n) and the whole positive gradient (b h m)."""
        if block.class_row:
            gradient = head_products(block.gradient(self.path), block.values).relu()  # b h m n
            guide = _guide(block.scores.unsqueeze(2), self.scores)  # b h 1 n
            return gradient * guide, gradient.sum(dim=-1)
        every = block.every_row
        per_target = every.gradient(self.path).unbind(dim=2)  # b h r d
        maps = strength = every.values.new_zeros(())
        for rows, scores in every.scores():
            guide = _guide(scores, self.scores)  # b h r n
            gradients = [(one[..., rows, :] @ every.values.transpose(-1, -2)).relu() for one in per_target]
            maps = maps + torch.stack([(gradient * guide).sum(dim=2) for gradient in gradients], dim=2)
            strength = strength + torch.stack([gradient.sum(dim=(2, 3)) for gradient in gradients], dim=2)
        return maps, strength


def _guide(z: Tensor, scores: str) -> Tensor:
    """F of scores z, (b h r n)."""
    if scores == "sigmoid":
        return z.sigmoid()
    if scores == "softmax":
        return z.softmax(dim=-1)
    if scores == "minmax":
        low, high = z.amin(dim=-1, keepdim=True), z.amax(dim=-1, keepdim=True)
        return (z - low) / (high - low).clamp_min(1e-12)
    over = (-1,) if scores == "instance_norm" else (-3, -1)
    spread = z.var(dim=over, keepdim=True, unbiased=False).sqrt()
    return ((z - z.mean(dim=over, keepdim=True)) / spread.clamp_min(1e-12)).relu()


def _parts(maps: Tensor, strength: Tensor, how: str) -> Tensor | None:
    """What each of (b x m n), of this strength (b x m), gives to their fusion, which is the sum; None for "max"."""
    if how == "max":
        return None
    if how == "gradient":
        return maps * (strength / strength.sum(dim=1, keepdim=True).clamp_min(1e-30)).unsqueeze(-1)
    return maps / maps.shape[1] if how == "mean" else maps
