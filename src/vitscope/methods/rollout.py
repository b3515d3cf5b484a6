"""Attention rollout, with and without gradients, and Chefer's generic relevance: attention matrices multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import Matrix, mean_attention, output_row, positive_attention, product
from vitscope.methods.registry import register_method
from vitscope.recording import AttentionRecord, Recording
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
        any_network=True,
        chained=True,
        caution="Follows attention alone, values and MLPs do not count.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The class token's row of the product."""
        if isinstance(trace, Recording):
            return Maps(values=chained(trace, None, normed=True)[:, 0])
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
        any_network=True,
        chained=True,
        caution="The identity outweighs attention times gradient by far: what is left is nearly a sum over blocks.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The class token's row of the product, for every target."""
        if isinstance(trace, Recording):
            return Maps(values=chained(trace, self.path, normed=True))
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
        any_network=True,
        chained=True,
        caution="Negative evidence is cut off head by head; values count by their gradient alone.",
    )

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient."""
        return Needs(attention=Blocks.ALL, every_row=Blocks.ALL) | gradient_along(self.path)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The class token's row of the relevance, for every target."""
        if isinstance(trace, Recording):
            return Maps(values=chained(trace, self.path, normed=False))
        matrix = partial(positive_attention, path=self.path)
        return Maps(values=trace.to_grid(_moved(trace, matrix, normed=False)))


def _moved(trace: Trace, matrix: Matrix, normed: bool, of_targets: bool = True) -> Tensor:
    """The row of (M_B + I) ... (M_1 + I) that leads to the output, less the product of the identities, (b m n)."""
    moved, _ = product(trace, matrix, output_row(trace, of_targets), normed=normed)
    return moved.squeeze(-2)


def chained(recording: Recording, path: str | None, normed: bool) -> Tensor:
    """The row of (M_B + I) ... (M_1 + I) that leads to the output, less the product of the identities, (b m grid).

    M_b is the mean over heads of the attention, or with a path of ReLU(dY/dA * A). The row begins with the mean of the
    rows that are read.
    """
    sites = recording.chain()
    last = sites[-1]
    rows = last.read()
    read = last.by_sample(last.shares(rows)).flatten(1, -2).mean(dim=1)  # b k
    start = read.new_zeros(last.samples, 1, last.site.queries).index_copy(-1, rows, read.unsqueeze(1))
    targets = 1 if path is None else recording.targets
    stayed = start.expand(-1, targets, -1)
    moved = torch.zeros_like(stayed)
    for site in reversed(sites):
        through = torch.zeros_like(moved)
        sums = torch.zeros_like(moved)
        for some, matrix in _matrix(site, path):  # b m k n
            through = through + ((moved + stayed)[..., some].unsqueeze(-2) @ _normed(matrix, normed)).squeeze(-2)
            sums[..., some] = matrix.sum(dim=-1)
        kept = 1 / (1 + sums) if normed else torch.ones_like(sums)
        moved, stayed = moved * kept + through, stayed * kept
    cells = last.layout.cells.flatten(0, -2)[0].to(moved.device)
    seen = (cells >= 0).nonzero()[:, 0]
    grid = moved.new_zeros(*moved.shape[:2], int(torch.tensor(last.layout.grid).prod()))
    found: Tensor = grid.index_add(-1, cells[seen], moved[..., seen]).unflatten(-1, last.layout.grid).float()
    return found


def _normed(matrix: Tensor, normed: bool) -> Tensor:
    return matrix / (1 + matrix.sum(dim=-1, keepdim=True)) if normed else matrix


def _matrix(site: AttentionRecord, path: str | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows of M_b at a time: (k) and (b m k n), mean over heads."""
    for some, attention in site.attention(torch.arange(site.call.queries, device=site.call.value.device)):
        if path is None:
            parts = [attention]
        else:
            slopes = (each.index_select(-2, some) @ site.call.value.transpose(-2, -1) for each in site.gradient(path))
            parts = [(slope * attention).relu() for slope in slopes]
        yield some, torch.stack([site.by_sample(part).flatten(1, -3).mean(dim=1) for part in parts], dim=1)
