"""Products of matrices, one a block: only the rows that lead to the output are multiplied, and no matrix is held whole.

A matrix M_b comes some rows at a time, so that of a block there are never more than these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vitscope.trace import BlockTrace, EveryRow, Trace

Rows = Iterator[tuple[slice, Tensor]]
"""Some rows of a matrix at a time: which, and (b m r n). Axis m: the targets, or 1 where all have the same."""

Matrix = Callable[[BlockTrace], Rows]
"""A block's record -> its matrix M_b, for all heads."""

LIMIT = 2**24
"""How many numbers a chunk of rows may have."""


def output_row(trace: Trace, of_targets: bool = True) -> Tensor:
    """Where a product begins, (b m 1 n): the class token, or the rows that the head reads, as they count to it.

    Where the head reads several parts, they count by their shares in each target, or alike; axis m is 1 where that is
    the same for all targets.
    """
    keys = trace.blocks[0].every_row.keys
    if not trace.blocks[-1].class_row:
        return trace.counts(of_targets).unsqueeze(2).to(keys)
    row = keys.new_zeros(len(keys), 1, 1, keys.shape[-2])
    row[..., 0] = 1
    return row


def product(
    trace: Trace,
    matrix: Matrix,
    start: Tensor,
    *,
    normed: bool = False,
    first: int = 0,
    behind: Callable[[BlockTrace], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """start D_B (M_B + I) ... D_1 (M_1 + I), in two summands: what moved, and what stayed.

    What stayed in its place is the product of the identities alone, start D_B I ... D_1 I. What moved is the rest. They
    are multiplied separately: where the matrices are small beside I, the difference of the two products would be all
    rounding. A block without a residual stream has no I.

    Args:
        trace: with every block's `every_row`.
        matrix: gives M_b.
        start: the rows that the product begins with, (b m s n), axis m 1 where they are the same for all targets.
        normed: divide every row of M_b + I by its sum.
        first: the first block of the product, counted from 0.
        behind: gives the diagonal of D_b, (b n); the identity where it is None.

    Returns:
        What moved and what stayed, two tensors (b m s n).
    """
    moved, stayed = torch.zeros_like(start), start
    for block, residual in reversed(list(zip(trace.blocks, trace.residual, strict=True))[first:]):
        if behind is not None:
            scale = behind(block)[:, None, None].to(start)
            moved, stayed = moved * scale, stayed * scale
        moved, stayed = _through(moved, stayed, matrix(block), normed, residual)
    return moved, stayed


def _through(moved: Tensor, stayed: Tensor, matrix: Rows, normed: bool, residual: bool) -> tuple[Tensor, Tensor]:
    """(moved + stayed) M + moved I, and stayed I.

    A token that asks nothing of the others in this block, as CaiT's patches, stays.
    """
    row, mixed = moved + stayed, None
    for rows, chunk in matrix:
        if mixed is None:
            mixed, share = torch.zeros_like(chunk[..., :1, :]), torch.ones_like(chunk[..., 0, :])
        if normed:
            share[..., rows] = 1 / (chunk.sum(dim=-1) + residual)
        mixed = mixed + (row[..., rows] * share[..., None, rows]) @ chunk
    assert mixed is not None
    if not residual:
        return mixed, torch.zeros_like(mixed)
    return mixed + moved * share.unsqueeze(-2), stayed * share.unsqueeze(-2)


def attention_rows(every: EveryRow, targets: int = 1) -> Rows:
    """Attention of all heads some rows at a time, (b h r n); fewer where it will meet several targets' gradients."""
    for rows, scores in every.scores(LIMIT // targets):
        yield rows, scores.softmax(dim=-1)


def at_attention(gradients: Tensor, rows: slice, values: Tensor) -> Tensor:
    """The gradient at some rows of the attention matrix, <dY/dT[m], v[n]>, (b h m r n)."""
    return gradients[..., rows, :] @ values.unsqueeze(2).transpose(-1, -2)


def mean_attention(block: BlockTrace) -> Rows:
    """mean_h A_b."""
    for rows, attention in attention_rows(block.every_row):
        yield rows, attention.mean(dim=1, keepdim=True)


def positive_attention(block: BlockTrace, path: str = "full") -> Rows:
    """mean_h ReLU(dY/dA_b * A_b), the gradient by full back-propagation or along another path."""
    every = block.every_row
    gradients = every.gradient(path)
    for rows, attention in attention_rows(every, gradients.shape[2]):
        weighted = at_attention(gradients, rows, every.values) * attention.unsqueeze(2)
        yield rows, weighted.relu().mean(dim=1)
