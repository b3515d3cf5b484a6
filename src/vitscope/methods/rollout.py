"""Attention rollout, with and without gradients, and Chefer's generic relevance: attention matrices multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import Matrix, mean_attention, output_row, positive_attention, product
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, Needs, Trace, gradient_along


@register_method
@dataclass(frozen=True)
class Rollout:
    """Attention rollout (Abnar, Zuidema; ACL 2020, arXiv 2005.00928).

        A~_b = rownorm( mean_h A_b + I ),   R = A~_B ... A~_1,   map = the class token's row of R

    Only this row is multiplied, block by block from the last, so that no product of matrices is made. A model that
    pools its tokens begins with the mean of the rows that its head reads, an attention pool with its own row, without a
    residual; where the head reads the class token beside a mean, each counts half, whatever the target. There each
    patch also keeps what never left its place, by the identities alone; nearly the same for all patches, it would cover
    the map, and is left out. (With a class token it lies on the class token.)
    """

    facts: ClassVar[Facts] = Facts(
        name="rollout",
        title="Attention rollout",
        family="attention",
        paper="arXiv 2005.00928",
        year=2020,
        signed=False,
        class_specific=False,
        cost="1.3",
        caution="Follows attention alone, values and MLPs do not count.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the product."""
        return Maps(values=trace.to_grid(_moved(trace, mean_attention, normed=True, of_targets=False)[:, 0]))


@register_method
@dataclass(frozen=True)
class GradientRollout:
    """Rollout of attention weighted by its gradient (Gildenblat, "Exploring Explainability for Vision Transformers").

        A~_b = rownorm( mean_h ReLU(dY/dA_b * A_b) + I ),   map = the class token's row of A~_B ... A~_1

    Where the head pools the tokens, the product begins as in `Chefer`. The heads' products are cut off at zero before
    their mean, as in Chefer's generic method; what the blog's code does besides, discarding the lowest values, is left
    out.

    Attributes:
        path: of the gradient: "full", or LibraGrad's, "libra".
    """

    path: Literal["full", "libra"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="gradient_rollout",
        title="Gradient rollout",
        family="attention-gradient",
        paper="jacobgil.github.io/deeplearning/vision-transformer-explainability",
        year=2020,
        signed=False,
        class_specific=True,
        cost="2.7",
        caution="The identity outweighs attention times gradient by far: what is left is nearly a sum over blocks.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the product, for every target."""
        matrix = partial(positive_attention, path=self.path)
        return Maps(values=trace.to_grid(_moved(trace, matrix, normed=True)))


@register_method
@dataclass(frozen=True)
class Chefer:
    """Generic attention explainability (Chefer, Gur, Wolf; ICCV 2021, arXiv 2103.15679, Eqs. 5 and 6).

        A-_b = mean_h ReLU(dY/dA_b * A_b),   R <- R + A-_b R,   map = the class token's row of R

    The gradient at A_b^h[m, n] is <dY/dT_b^h[m], v_b^h[n]>, and only the class token's row is multiplied, so that no
    N x N matrix is kept.

    Where the head pools the tokens, R's row is the mean of those that it reads, less what never left its place; an
    attention pool's own, without I. Where the head reads the class token beside a mean of the patches, each counts by
    its share in the target, sum_d |f_d dY/df_d| over its features f. This is our reading.

    Attributes:
        path: of the gradient: "full", or LibraGrad's, "libra".
    """

    path: Literal["full", "libra"] = "full"

    facts: ClassVar[Facts] = Facts(
        name="chefer",
        title="Generic attention explainability",
        family="attention-gradient",
        paper="arXiv 2103.15679",
        year=2021,
        signed=False,
        class_specific=True,
        cost="2.8",
        caution="Negative evidence is cut off head by head; values count by their gradient alone.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace) -> Maps:
        """The class token's row of the relevance, for every target."""
        matrix = partial(positive_attention, path=self.path)
        return Maps(values=trace.to_grid(_moved(trace, matrix, normed=False)))


def _moved(trace: Trace, matrix: Matrix, normed: bool, of_targets: bool = True) -> Tensor:
    """The row of (M_B + I) ... (M_1 + I) that leads to the output, less the product of the identities, (b m n)."""
    moved, _ = product(trace, matrix, output_row(trace, of_targets), normed=normed)
    return moved.squeeze(-2)
