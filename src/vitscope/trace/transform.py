"""How a block changes single tokens: by what it makes of their values, and by its feed-forward; lengths and directions.

Only what is measured is kept, three numbers a token, never the tokens themselves.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from vitscope.models import Anatomy, Block
from vitscope.trace.block import BlockCapture, Transformation
from vitscope.trace.heads import merge_heads
from vitscope.trace.hooks import Hooks
from vitscope.trace.needs import Blocks, Needs


class Measure:
    """Sees the tokens between the parts of a block, and measures as the pass goes on."""

    def __init__(self, anatomy: Anatomy, needs: Needs, records: list[BlockCapture]) -> None:
        self._blocks, self._records = anatomy.blocks, records
        self._needs = needs
        self._entered: Tensor | None = None
        self._fed: Tensor | None = None

    def install(self, hook: Hooks) -> None:
        """Add its hooks, where a transformation is needed."""
        for index, block in enumerate(self._blocks):
            level = Blocks.LAST if index + 1 == len(self._blocks) else Blocks.ALL
            value, fed = self._needs.value_transform >= level, self._needs.feedforward_transform >= level
            if value or self._needs.feedforward_transform == Blocks.ALL:
                hook.before(block.norm, partial(self._enter, index))
            if value:
                hook.after(block.attention, partial(self._attended, index))
            if fed:
                hook.before(block.feedforward_site, self._feed)

    def leave(self, tokens: Tensor) -> None:
        """The last block's output x_{B+1}, the rows that there are."""
        self._next(len(self._blocks) - 1, tokens.detach())

    def _enter(self, index: int, tokens: Tensor) -> None:
        """x_b (b n D), which is what the block before gave."""
        self._entered = tokens.detach()
        self._next(index - 1, self._entered)

    def _attended(self, index: int, _: Tensor) -> None:
        assert self._entered is not None
        values = self._records[index].values
        assert values is not None
        with torch.no_grad():
            self._records[index].value_transform = Transformation.of(
                self._entered, without_bias(self._blocks[index], merge_heads(values))
            )
        self._entered = None

    def _feed(self, tokens: Tensor) -> None:
        """e_b (b n D)."""
        self._fed = tokens.detach()

    def _next(self, index: int, after: Tensor) -> None:
        """What the feed-forward of block `index` added to e_b to make x_{b+1} of it."""
        if self._fed is None:
            return
        count = self._fed.shape[1]
        with torch.no_grad():
            self._records[index].feedforward_transform = Transformation.of(self._fed, after[:, :count] - self._fed)
        self._fed = None


def without_bias(block: Block, values: Tensor) -> Tensor:
    """What the output projection W_o makes of every token's value (b n D), its LayerScale in it, its bias not."""
    return block.projection(values) - block.projection(torch.zeros_like(values[:1, :1]))
