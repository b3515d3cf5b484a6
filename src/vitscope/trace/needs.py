"""What a method needs of a pass, so that one pass records the union and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Blocks(IntEnum):
    """Of which blocks a quantity is needed."""

    NONE = 0
    LAST = 1
    ALL = 2


@dataclass(frozen=True)
class Needs:
    """The quantities that a method reads, each of no, the last, or all blocks.

    Attributes:
        attention: scores z (before softmax) and attention a, each (b h n).
        values: values v, (b h n d).
        sensitivity: each token's own effect on its value and its scores, and the rows that the head reads:
            value_change (b h n d), score_change, row_attention (b h r n), row_output (b h r d),
            row_gradient (b h m r d).
        skip_gradient: gradient of every target m at T_b along the skip path, (b h m d); closed form.
        feedforward_gradient: the same through the feed-forward parts of the later blocks alone, without the residual
            stream beside them; all blocks or none.
        full_gradient: the same by full back-propagation, (b h m d); one backward pass for all blocks.
        every_row: queries, keys and values of every row, not the class row alone, with the full gradients at every row
            where `full_gradient` is needed too (`EveryRow`); all blocks or none.
        rerun: the last block's input x_B, so that it can be run again on other tokens (`Trace.again`).
        pictures: the model itself, to be run on altered pictures (`Trace.pictures`).
        hiding: the same with patch tokens left out, which needs every attention where they meet to be a block's.
    """

    attention: Blocks = Blocks.NONE
    values: Blocks = Blocks.NONE
    sensitivity: Blocks = Blocks.NONE
    skip_gradient: Blocks = Blocks.NONE
    feedforward_gradient: Blocks = Blocks.NONE
    full_gradient: Blocks = Blocks.NONE
    every_row: Blocks = Blocks.NONE
    rerun: bool = False
    pictures: bool = False
    hiding: bool = False

    def __or__(self, other: Needs) -> Needs:
        """The union: what serves both."""
        return Needs(
            attention=max(self.attention, other.attention),
            values=max(self.values, other.values),
            sensitivity=max(self.sensitivity, other.sensitivity),
            skip_gradient=max(self.skip_gradient, other.skip_gradient),
            feedforward_gradient=max(self.feedforward_gradient, other.feedforward_gradient),
            full_gradient=max(self.full_gradient, other.full_gradient),
            every_row=max(self.every_row, other.every_row),
            rerun=self.rerun or other.rerun,
            pictures=self.pictures or other.pictures,
            hiding=self.hiding or other.hiding,
        )
