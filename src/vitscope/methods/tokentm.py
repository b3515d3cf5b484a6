"""TokenTM: products of attention in which every token counts by how the block transforms it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import Rows, output_row, positive_attention, product
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, BlockTrace, Needs, Trace, Transformation, gradient_along


@register_method
@dataclass(frozen=True)
class TokenTM:
    """Token Transformation Matters (Wu et al., CVPR 2024, arXiv 2403.14552, section 3).

        w(x, y)[n] = |y_n| / |x_n| * exp(cos(x_n, y_n)) / sum_k exp(cos(x_k, y_k))   a transformation's weight
        M_b        = mean_h ReLU( dY/dA_b * A_b ) diag( w(x_b, W_o v_b) )            attention
        D_b        = I + diag( w(e_b, FF(e_b)) )                                     feed-forward
        C          = D_B (M_B + I) ... D_1 (M_1 + I) diag( |x_1| ),   map[n] = C[cls, n]

    Taken from the paper: that lengths and directions before and after a transformation are measured, the latter by the
    "normalized exponential cosine correlation"; that the contributions begin as the tokens' lengths, in a diagonal
    matrix; and that they are gathered over all layers, attention and feed-forward with their residual streams. Not
    settled by what we could read of it, and therefore our reading: the normaliser (`directions`); that x_b is the token
    that enters the block, before its norm; that W_o v_b leaves the output projection's bias out; and that the target
    comes in by gradient times attention, as in Chefer's generic method.

    Where the head pools the tokens, the product begins with the mean of the rows that it reads, less what never left
    its place, as in `Rollout`, and of several parts by their shares in the target, as in `chefer`; an attention pool
    with its own row, without I. A token that does not pass a feed-forward, as CaiT's patches in the class-attention
    blocks, keeps its contribution there.

    Attributes:
        directions: what the exponentials of the cosines are divided by: "softmax", their sum over the tokens, as the
            name says; or their "mean", so that a typical token's weight is its growth in length, and the residual
            streams count for less.
        path: of the gradient: "full", or LibraGrad's, "libra".
    """

    directions: Literal["softmax", "mean"] = "softmax"
    path: Literal["full", "libra"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="tokentm",
        title="Token Transformation Matters",
        family="attention-gradient",
        paper="arXiv 2403.14552",
        year=2024,
        signed=False,
        class_specific=True,
        cost="3.1",
        caution="Negative evidence is cut off head by head; a token counts by its length, whatever it says.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient, and how it transforms the tokens."""
        return Needs(
            attention=Blocks.ALL,
            every_row=Blocks.ALL,
            value_transform=Blocks.ALL,
            feedforward_transform=Blocks.ALL,
        ) | gradient_along(self.path)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the contributions, for every target."""
        moved, _ = product(trace, self._transformed, output_row(trace), behind=self._fed)
        lengths = trace.blocks[0].value_transform.before[:, None]  # b 1 n
        return Maps(values=trace.to_grid(moved.squeeze(-2) * lengths))

    def _transformed(self, block: BlockTrace) -> Rows:
        """M_b."""
        weight = self._weight(block.value_transform)[:, None, None]
        for rows, positive in positive_attention(block, self.path):
            yield rows, positive * weight.to(positive)

    def _fed(self, block: BlockTrace) -> Tensor:
        """D_b's diagonal, (b n)."""
        weight = self._weight(block.feedforward_transform)
        scale = weight.new_ones(len(weight), block.every_row.keys.shape[-2])
        scale[:, : weight.shape[1]] += weight
        return scale

    def _weight(self, change: Transformation) -> Tensor:
        """w, (b n)."""
        alike = change.cosine.softmax(dim=-1)
        return change.growth * (alike if self.directions == "softmax" else alike * alike.shape[-1])
