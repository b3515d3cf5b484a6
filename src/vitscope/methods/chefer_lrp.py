"""LRP on attention matrices: Chefer's transformer attribution, and partial LRP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.methods.rollout import last_row
from vitscope.trace import CHEFER_LRP, Blocks, Needs, Trace, over

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
    """

    facts: ClassVar[Facts] = Facts(
        name="chefer_lrp",
        title="Transformer attribution (LRP)",
        family="relevance",
        paper="arXiv 2012.09838",
        year=2021,
        signed=False,
        class_specific=True,
        cost="11",
        caution="Negative evidence is cut off head by head; where summands nearly cancel, its relevance is arbitrary.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient, and a backward pass by LRP's rules."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL, full_gradient=Blocks.ALL, backward=_LRP)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the product, for every target."""
        return Maps(values=trace.to_grid(last_row(trace, _positive, normed=False, beside=_shares(trace))))


@register_method
@dataclass(frozen=True)
class PartialLRP:
    """Partial LRP (Voita et al., ACL 2019, arXiv 1905.09418), as Chefer et al. compare with it.

        map = the class token's row of mean_h ReLU(R(A_B)),   R(A_B) the last attention matrix's relevance

    by the same rules as `chefer_lrp`. Voita et al. ask for the relevance of whole heads; its place by place reading is
    Chefer's. A model that pools its tokens gives the mean of the patch rows.
    """

    facts: ClassVar[Facts] = Facts(
        name="partial_lrp",
        title="Partial LRP",
        family="relevance",
        paper="arXiv 1905.09418",
        year=2019,
        signed=False,
        class_specific=True,
        cost="9.0",
        caution="The last block's attention alone; its relevance is nearly the same for every class.",
    )

    @property
    def needs(self) -> Needs:
        """The last block's attention, and a backward pass by LRP's rules."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL, backward=_LRP)

    def __call__(self, trace: Trace) -> Maps:
        """Positive relevance of the last attention matrix."""
        every, share = trace.blocks[-1].every_row, _shares(trace)[-1]
        first = 0 if trace.blocks[-1].class_row else trace.prefix
        last = 1 if trace.blocks[-1].class_row else None
        total: Tensor | float = 0.0
        for rows, scores in every.scores(2**24 // share.shape[2]):
            attention = scores.softmax(dim=-1).unsqueeze(2)
            relevance = attention * (share[..., rows, :] @ every.values.unsqueeze(2).transpose(-1, -2))
            index = torch.arange(rows.start, rows.stop, device=relevance.device)
            kept = (index >= first) & (index < (last or rows.stop))
            total = total + relevance[..., kept, :].relu().mean(dim=1).sum(dim=2)  # b m n
        assert isinstance(total, Tensor)
        return Maps(values=trace.to_grid(total))


def _positive(attention: Tensor, products: Tensor | None) -> Tensor:
    """Attention (b h r n), its gradients and its relevance over it, together (b h 2m r n) -> (b m r n)."""
    assert products is not None
    gradients, share = products.chunk(2, dim=2)
    return (gradients * attention.unsqueeze(2) * share).relu().mean(dim=1)


def _shares(trace: Trace) -> list[Tensor]:
    """Of every block S (b h m r d), by which the matrix's relevance is A[r, n] <S[r], v[n]>: half of R(T) / T."""
    found = trace.under(CHEFER_LRP)
    shares = []
    for block, relevance, output in zip(trace.blocks, found.at_outputs, found.outputs, strict=True):
        share = over(relevance, output.unsqueeze(2)) / 2
        shares.append(share[..., : block.every_row.query.shape[-2], :])
    return shares
