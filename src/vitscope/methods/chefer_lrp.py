"""LRP on attention matrices: Chefer's transformer attribution, and partial LRP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import Rows, at_attention, attention_rows, output_row, product
from vitscope.methods.registry import register_method
from vitscope.trace import CHEFER_LRP, Blocks, BlockTrace, EveryRow, Needs, Trace

_LRP = frozenset({CHEFER_LRP})


@register_method
@dataclass(frozen=True)
class CheferLRP:
    """Transformer attribution (Chefer, Gur, Wolf; CVPR 2021, arXiv 2012.09838, Eqs. 13 and 14).

        A-_b = I + mean_h ReLU(dY/dA_b * R(A_b)),   map = the class token's row of A-_B ... A-_1

    R(A_b) is the attention matrix's relevance: LRP with the positive contributions of linear layers (Eq. 5, alpha = 1),
    sums shared by value and normed so that neither summand outgrows the whole (Eqs. 8 to 10), products of matrices
    halved, norms, softmax and activations passed by; dY/dA_b is the ordinary gradient. As in the authors' code no row
    is divided by its sum.

    Where the head pools the tokens, the row is the mean of those that it reads, of several parts by their shares in the
    target, as in `chefer`.
    """

    facts: ClassVar[Facts] = Facts(
        name="chefer_lrp",
        title="Transformer attribution (LRP)",
        family="relevance",
        paper="arXiv 2012.09838",
        year=2021,
        signed=False,
        class_specific=True,
        cost="7.8",
        caution="Negative evidence is cut off head by head; where summands nearly cancel, its relevance is arbitrary.",
        divides=True,
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient, and a backward pass by LRP's rules."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL, full_gradient=Blocks.ALL, backward=_LRP)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the product, for every target."""
        moved, _ = product(trace, _positive, output_row(trace))
        return Maps(values=trace.to_grid(moved.squeeze(-2)))


@register_method
@dataclass(frozen=True)
class PartialLRP:
    """Partial LRP (Voita et al., ACL 2019, arXiv 1905.09418), as Chefer et al. compare with it.

        map = the class token's row of mean_h ReLU(R(A_B)),   R(A_B) the last attention matrix's relevance

    by the same rules as `chefer_lrp`. Voita et al. ask for the relevance of whole heads; its place by place reading is
    Chefer's. Where the head pools the tokens, the map is the sum over the rows, of which those that it reads have
    relevance.
    """

    facts: ClassVar[Facts] = Facts(
        name="partial_lrp",
        title="Partial LRP",
        family="relevance",
        paper="arXiv 1905.09418",
        year=2019,
        signed=False,
        class_specific=True,
        cost="7.3",
        caution="The last block's attention alone; its relevance is nearly the same for every class.",
        divides=True,
    )

    @property
    def needs(self) -> Needs:
        """The last block's attention, and a backward pass by LRP's rules."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL, backward=_LRP)

    def __call__(self, trace: Trace) -> Maps:
        """Positive relevance of the last attention matrix."""
        last = trace.blocks[-1]
        total: Tensor | float = 0.0
        for rows, relevance in _relevance(last.every_row):
            kept = max(0, 1 - rows.start) if last.class_row else None
            total = total + relevance[..., :kept, :].relu().mean(dim=1).sum(dim=2)  # b m n
        assert isinstance(total, Tensor)
        return Maps(values=trace.to_grid(total))


def _relevance(every: EveryRow) -> Rows:
    """R(A_b), some rows of all heads at a time, (b h m r n): half of A_b times what R(T_b) / T_b is at the matrix."""
    shares = every.gradient(CHEFER_LRP.name)
    for rows, attention in attention_rows(every, 2 * shares.shape[2]):
        yield rows, attention.unsqueeze(2) * at_attention(shares, rows, every.values) / 2


def _positive(block: BlockTrace) -> Rows:
    """mean_h ReLU(dY/dA_b * R(A_b))."""
    every = block.every_row
    for rows, relevance in _relevance(every):
        slope = at_attention(every.gradient("full"), rows, every.values)
        yield rows, (slope * relevance).relu().mean(dim=1)
