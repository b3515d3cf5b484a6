"""Token ablation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.methods.samples import check_samples
from vitscope.trace import Needs, Trace


@register_method
@dataclass(frozen=True)
class TokenAblation:
    """The drop of the target when one patch token is left out, as CDAM's authors measure it (arXiv 2312.02364).

    map[n] = Y(all tokens) - Y(all but patch n)

    The token is removed after the positional encoding, so that the others stay in their places: its key is masked in
    every attention, and where the head pools tokens, its row is not pooled.

    Attributes:
        max_forwards: of a picture. Where there are more patches, squares of side x side patches are left out together,
            the smallest side for which this suffices, and each patch of a square gets its share of the drop. At the
            grid's right and lower edges a square is cut off.
    """

    max_forwards: int | None = None

    facts: ClassVar[Facts] = Facts(
        name="token_ablation",
        title="Token ablation",
        family="perturbation",
        paper="arXiv 2312.02364",
        year=2023,
        signed=True,
        class_specific=True,
        cost="196 (one a patch)",
        caution="One token at a time: where several say the same, leaving out one of them changes little.",
    )

    def __post_init__(self) -> None:
        check_samples("token_ablation", 1, self.max_forwards, least=4)

    @property
    def needs(self) -> Needs:
        """The model, to be run on pictures without some tokens."""
        return Needs(pictures=True, hiding=True)

    def __call__(self, trace: Trace) -> Maps:
        """The signed map."""
        pictures = trace.pictures()
        group = square_groups(trace.grid, self.max_forwards).flatten()
        without = group != torch.arange(int(group.max()) + 1)[:, None]  # g P
        count, batch = len(without), len(pictures.images)
        pictures.expect(count * batch)
        image = torch.arange(batch).repeat_interleave(count)
        scores = pictures.scores(image, keep=without.repeat(batch, 1)).unflatten(0, (batch, count))  # b g m
        drop = pictures.unaltered().cpu()[:, None] - scores
        share = drop / (~without).sum(dim=1)[:, None]
        values = share[:, group].transpose(1, 2).unflatten(-1, trace.grid)
        return Maps(values=values.float().to(trace.logits.device))


def square_groups(grid: tuple[int, int], most: int | None) -> Tensor:
    """The number of the square of patches that each one belongs to, (rows cols); at most `most` squares."""
    rows, cols = grid
    side = 1
    while most is not None and -(-rows // side) * -(-cols // side) > most:
        side += 1
    down, right = torch.arange(rows) // side, torch.arange(cols) // side
    return down[:, None] * (int(right[-1]) + 1) + right
