"""DAAM: Dynamic Accumulated Attention Map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import Blocks, Needs, Trace, gradient_along, head_products


@register_method
@dataclass(frozen=True)
class DAAM:
    """DAAM (Liao, Gao, Zhang; arXiv 2503.14640, Eqs. 7 to 13).

        S_b[n] = a_b^h[n] v_b^h[n], heads concatenated          (b h n d)
        C_b    = dY / dT_b                                      (b h m d)
        L_b[n] = ReLU( sum_d ReLU(C_b)_d S_b[n, d] )            (b m n)
        map    = sum_b L_b

    With rows="all" every row of the attention matrix A_b speaks, not the class token's alone (the paper's question how
    to read blocks without a class token; the formula is ours and becomes the paper's where the gradient stands in row 0
    only, as in the last block):

        L_b[n] = ReLU( sum_d v_b[n, d] (A_b^T ReLU(dY / dT_b))[n, d] )

    A model that pools its tokens has no class row, and all rows are read in any case.

    Of any other network, b counts its attention calls, and A_b has the rows that lead to the output without passing a
    later attention (the class token's, or all where tokens are pooled).

    `blocks` holds the L_b; `values` is their sum. Of a target that is a function of the features, as in the
    self-supervised branch (`targets.Neighbours`), the ReLU on C_b is left out, as in the official implementation.

    Attributes:
        path: how the gradient reaches T_b: "full" back-propagation as in the official implementation, or "skip",
            along the residual stream and the MLPs only, or "feedforward", through the later blocks' MLPs alone, without
            the residual stream beside them (open questions of the paper; these cost no backward pass), or "libra", by
            LibraGrad's backward pass (arXiv 2411.16760).
        rows: "read", the row that the head reads, or "all", which needs path "full" or "libra": along the others no
            gradient reaches any other row.
        blocks: how each L_b enters the sum: "raw" as published, or scaled by "minmax" over the patches, so that every
            block counts alike (another open question of the paper); an L_b that is the same everywhere is 0 then.

    Raises:
        MethodError: all rows along "skip" or "feedforward".
    """

    path: Literal["full", "skip", "feedforward", "libra"] = "full"
    rows: Literal["read", "all"] = "read"
    blocks: Literal["raw", "minmax"] = "raw"

    def __post_init__(self) -> None:
        if self.rows == "all" and self.path not in ("full", "libra"):
            raise MethodError(f"daam: along path={self.path} no gradient reaches other rows; leave rows=all out")

    facts: ClassVar[Facts] = Facts(
        name="daam",
        title="Dynamic Accumulated Attention Map",
        family="papers",
        paper="arXiv 2503.14640",
        year=2025,
        signed=False,
        class_specific=True,
        cost="2.3",
        any_network=True,
        caution="Evidence against the class is cut off by two ReLUs; early blocks add context as well as evidence.",
    )

    @property
    def needs(self) -> Needs:
        """Class-row attention, values and the gradient at T_b of every block."""
        if self.rows == "all":
            return Needs(every_row=Blocks.ALL) | gradient_along(self.path)
        return Needs(attention=Blocks.ALL, values=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The accumulated map and each block's own."""
        if isinstance(trace, Recording):
            return self._of_sites(trace)
        per_block = []
        for block in trace.blocks:
            if self.rows == "all" or not block.class_row:
                every = block.every_row
                at_values = every.at_values(_importance(every.gradient(self.path), trace))  # b h m n d
                evidence = (at_values * every.values.unsqueeze(2)).sum(dim=-1)
            else:
                importance = _importance(block.gradient(self.path), trace)
                evidence = block.attention.unsqueeze(2) * head_products(importance, block.values)  # b h m n
            per_block.append(evidence.sum(dim=1).relu())
        return self._summed(trace.to_grid(torch.stack(per_block, dim=2)))

    def _of_sites(self, recording: Recording) -> Maps:
        """L_b = ReLU( sum over heads and windows of <v_b[n], (A_b^T ReLU(C_b))[n]> ), over the rows that are read."""
        per_site = []
        for site in recording.need_sites():
            rows = torch.arange(site.call.queries, device=site.call.value.device) if self.rows == "all" else site.read()
            gradients = site.gradient(self.path) if self.rows == "all" else site.at_read(self.path)
            evidence = [(site.at_values(each.relu(), rows) * site.call.value).sum(dim=-1) for each in gradients]
            maps = torch.stack([recording.on_grid(site, each) for each in evidence], dim=1)
            per_site.append(recording.fine(maps.relu()))
        return self._summed(torch.stack(per_site, dim=2))

    def _summed(self, blocks: Tensor) -> Maps:
        """The maps of each block (b m blocks ...) and their sum."""
        if self.blocks == "minmax":
            blocks = _stretched(blocks)
        return Maps(values=blocks.sum(dim=2), blocks=blocks)


def _stretched(maps: Tensor) -> Tensor:
    """Each map (... rows cols) scaled to [0, 1]."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def _importance(gradient: Tensor, trace: Trace) -> Tensor:
    """C_b (b h m ...), its positive part but for targets that are functions of the features."""
    keep = trace.of_features.view(-1, *[1] * (gradient.ndim - 3))
    return torch.where(keep, gradient, gradient.relu())
