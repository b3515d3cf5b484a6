"""What a method needs of a pass, so that one pass records the union and nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from vitscope.trace.backward import Rules
from vitscope.trace.gradient_rules import LIBRA


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
        own_gradient: gradient at T_b of the target read off block b's OWN output by the final norm and head (and by the
            attention pool, where there is one), (b h m d); closed form.
        value_transform: how each token's length and direction change on the way to what the attention adds of it
            (`Transformation`): x_b against W_o v without its bias.
        feedforward_transform: likewise by the feed-forward: e_b against what is added to it.
        every_row: queries, keys and values of every row, not the class row alone, with the full gradients at every row
            where `full_gradient` is needed too (`EveryRow`).
        rerun: the last block's input x_B, so that it can be run again on other tokens (`Trace.again`).
        backward: other backward passes, each by its rules: what travels to every block's tokens (`Trace.under`), and
            where that is a gradient, to T_b as a path of its own, of the rules' name (`BlockTrace.gradient`). Each
            costs a pass of its own.
        scaled: numbers of steps K, for each of which the gradient at the last block's attention is taken on the
            pictures k X / K, k = 1 .. K (`Trace.along_scaled`); K - 1 passes each.
        input_gradient: gradient of every target m at the pictures, (b m 3 H W), by full back-propagation
            (`Trace.input_gradient`); in the pass itself, where its blocks are watched.
        pictures: the model itself, to be run on altered pictures (`Trace.pictures`).
        hiding: the same with patch tokens left out, which needs every attention where they meet to be a block's.
    """

    attention: Blocks = Blocks.NONE
    values: Blocks = Blocks.NONE
    sensitivity: Blocks = Blocks.NONE
    skip_gradient: Blocks = Blocks.NONE
    feedforward_gradient: Blocks = Blocks.NONE
    full_gradient: Blocks = Blocks.NONE
    own_gradient: Blocks = Blocks.NONE
    value_transform: Blocks = Blocks.NONE
    feedforward_transform: Blocks = Blocks.NONE
    every_row: Blocks = Blocks.NONE
    rerun: bool = False
    backward: frozenset[Rules] = frozenset()
    scaled: frozenset[int] = frozenset()
    input_gradient: bool = False
    pictures: bool = False
    hiding: bool = False

    def __or__(self, other: Needs) -> Needs:
        """The union: what serves both."""
        mine = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: _union(one, getattr(other, name)) for name, one in mine.items()})


def _union(one: Any, other: Any) -> Any:
    """The more of the blocks, all of a set, or whether either is needed."""
    return max(one, other) if isinstance(one, Blocks) else one | other


def gradient_along(path: str) -> Needs:
    """The gradient at every T_b along "full", "skip" or "feedforward", or by LibraGrad's backward pass, "libra"."""
    if path == LIBRA.name:
        return Needs(backward=frozenset({LIBRA}))
    return {
        "full": Needs(full_gradient=Blocks.ALL),
        "skip": Needs(skip_gradient=Blocks.ALL),
        "feedforward": Needs(feedforward_gradient=Blocks.ALL),
    }[path]
