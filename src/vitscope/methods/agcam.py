"""AG-CAM: Attention Guided CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, Needs, Trace, head_products


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

    Attributes:
        path: "skip" as published, or "full" back-propagation (another map; one backward pass).
        scores: what guides the gradient: "sigmoid" of the scores as published, or their "softmax".
    """

    path: Literal["skip", "full"] = "skip"
    scores: Literal["sigmoid", "softmax"] = "sigmoid"

    facts: ClassVar[Facts] = Facts(
        name="agcam",
        title="Attention Guided CAM",
        paper="arXiv 2402.04563",
        year=2024,
        signed=False,
        class_specific=True,
        cost="1.2",
        caution="Evidence against the class is cut off by a ReLU; effects through later attention do not count.",
    )

    @property
    def needs(self) -> Needs:
        """Class-row scores, values and the gradient at T_b of every block."""
        full, skip = (Blocks.ALL, Blocks.NONE) if self.path == "full" else (Blocks.NONE, Blocks.ALL)
        return Needs(attention=Blocks.ALL, values=Blocks.ALL, full_gradient=full, skip_gradient=skip)

    def __call__(self, trace: Trace) -> Maps:
        """The map summed over blocks and heads, and each block's share of it."""
        per_block = []
        for block in trace.blocks:
            gradient = head_products(block.gradient(self.path), block.values)  # b h m n
            guide = block.scores.sigmoid() if self.scores == "sigmoid" else block.attention  # b h n
            per_block.append((gradient.relu() * guide.unsqueeze(2)).sum(dim=1))
        blocks = trace.to_grid(torch.stack(per_block, dim=2))
        return Maps(values=blocks.sum(dim=2), blocks=blocks)
