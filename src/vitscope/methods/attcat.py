"""AttCAT: gradient times token, weighted by attention, in every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import LIBRA, PLAIN, Blocks, Needs, Rules, Trace


@register_method
@dataclass(frozen=True)
class AttCAT:
    """Attentive class activation tokens (Qiang et al., NeurIPS 2022, Eqs. 5 to 8).

        CAT_b[n] = sum_d x_b[n, d] dY/dx_b[n, d],   map[n] = sum_b mean_h(a_b^h[n]) CAT_b[n]

    x_b are the tokens that enter block b, a_b the attention that they get there from the class token; in a model that
    pools its tokens, on average from the rows that its head reads (from all patches, where that is an attention pool);
    where it reads the class token beside a mean, each counts by its share in the target, as in `chefer`. That x_b are a
    block's inputs and not its outputs is our reading; of the last block either gives nothing: its outputs have no
    gradient but at the class token, and its inputs reach this through a norm alone, along which x * dY/dx is 0. Where
    that is so in every block, as in CaiT, it is not defined.

    Attributes:
        path: of the gradient: "full", or "libra", LibraGrad's.
    """

    path: Literal["full", "libra"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="attcat",
        title="AttCAT, attentive class activation tokens",
        family="attention-gradient",
        paper="NeurIPS 2022",
        year=2022,
        signed=True,
        class_specific=True,
        cost="3.1",
        of_tokens=True,
        caution="Gradient times token does not add up to the output: parts cancel between blocks.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention, and the gradient at its tokens."""
        return Needs(attention=Blocks.ALL, backward=frozenset({self._rules}))

    def __call__(self, trace: Trace) -> Maps:
        """The sum over blocks, and each block's own."""
        found = trace.under(self._rules)
        maps = []
        for index, block in enumerate(trace.blocks):
            alone = block.class_row
            received = block.attention.unsqueeze(2) if alone else block.every_row.received(trace.counts())  # b h m n
            maps.append(received.mean(dim=1) * found.relevance(index))
        blocks = torch.stack(maps, dim=2)  # b m block n
        return Maps(values=trace.to_grid(blocks.sum(dim=2)), blocks=trace.to_grid(blocks))

    @property
    def _rules(self) -> Rules:
        return LIBRA if self.path == "libra" else PLAIN
