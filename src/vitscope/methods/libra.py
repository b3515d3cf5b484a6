"""LibraGrad's FullGrad+: what every block's tokens contribute, by a gradient that is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import LIBRA, Needs, Trace


@register_method
@dataclass(frozen=True)
class LibraFullGrad:
    """FullGrad+ by LibraGrad (Mehri, Baghshah, Pilehvar; CVPR 2025, arXiv 2411.16760).

        map[n] = sum_b sum_d x_b[n, d] g_b[n, d],   g_b = dY/dx_b by Libra's backward pass

    Libra takes attention matrices, the gates of activations (GELU(x) / x) and the norms' spreads as constants, and
    shares a product of two that depend on the picture alike, so that the model is affine in every block's tokens x_b:
    without biases sum_nd x_b g_b = Y for every b, exactly. Per block, each block's own summand. What the biases give,
    which the paper's FullGrad-completeness counts too, belongs to no patch and is left out, as is the patches' own
    layer before the first block: our reading.
    """

    facts: ClassVar[Facts] = Facts(
        name="libra_fullgrad",
        title="LibraGrad FullGrad+",
        family="relevance",
        paper="arXiv 2411.16760",
        year=2025,
        signed=True,
        class_specific=True,
        cost="3.6",
        caution="What queries and keys decide does not count; later blocks' tokens no longer stand for their place.",
    )

    @property
    def needs(self) -> Needs:
        """A backward pass by Libra's rules."""
        return Needs(backward=frozenset({LIBRA}))

    def __call__(self, trace: Trace) -> Maps:
        """The sum over blocks, and each block's own."""
        found = trace.under(LIBRA)
        blocks = torch.stack([found.relevance(index) for index in range(len(trace.blocks))], dim=2)  # b m block n
        return Maps(values=trace.to_grid(blocks.sum(dim=2)), blocks=trace.to_grid(blocks))
