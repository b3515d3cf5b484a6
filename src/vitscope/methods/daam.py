"""DAAM: Dynamic Accumulated Attention Map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, Needs, Trace, head_products


@register_method
@dataclass(frozen=True)
class DAAM:
    """DAAM (Liao, Gao, Zhang; arXiv 2503.14640, Eqs. 7 to 13).

        S_b[n] = a_b^h[n] v_b^h[n], heads concatenated          (b h n d)
        C_b    = dY / dT_b                                      (b h m d)
        L_b[n] = ReLU( sum_d ReLU(C_b)_d S_b[n, d] )            (b m n)
        map    = sum_b L_b

    `blocks` holds the L_b; `values` is their sum. Of a target that is a function of the features, as in the
    self-supervised branch (`targets.Neighbours`), the ReLU on C_b is left out, as in the official implementation.

    Attributes:
        path: how the gradient reaches T_b: "full" back-propagation as in the official implementation, or "skip",
            along the residual stream and the MLPs only, or "feedforward", through the later blocks' MLPs alone, without
            the residual stream beside them (open questions of the paper; these cost no backward pass).
    """

    path: Literal["full", "skip", "feedforward"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="daam",
        title="Dynamic Accumulated Attention Map",
        paper="arXiv 2503.14640",
        year=2025,
        signed=False,
        class_specific=True,
        cost="2.3",
        caution="Evidence against the class is cut off by two ReLUs; early blocks add context as well as evidence.",
    )

    @property
    def needs(self) -> Needs:
        """Class-row attention, values and the gradient at T_b of every block."""
        wanted = {path: Blocks.ALL if path == self.path else Blocks.NONE for path in ("full", "skip", "feedforward")}
        return Needs(
            attention=Blocks.ALL,
            values=Blocks.ALL,
            full_gradient=wanted["full"],
            skip_gradient=wanted["skip"],
            feedforward_gradient=wanted["feedforward"],
        )

    def __call__(self, trace: Trace) -> Maps:
        """The accumulated map and each block's own."""
        per_block = []
        for block in trace.blocks:
            gradient = block.gradient(self.path)  # b h m d
            importance = torch.where(trace.of_features[:, None], gradient, gradient.relu())
            weighted = head_products(importance, block.values)  # b h m n
            per_block.append((block.attention.unsqueeze(2) * weighted).sum(dim=1).relu())
        blocks = trace.to_grid(torch.stack(per_block, dim=2))
        return Maps(values=blocks.sum(dim=2), blocks=blocks)
