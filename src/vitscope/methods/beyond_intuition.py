"""BTT and BTH: how tokens mix on their way, times what the target makes of the last block's attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.products import LIMIT, Matrix, Rows, attention_rows, mean_attention, product
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, BlockTrace, EveryRow, Needs, Trace, cut_down

_PAPER = "openreview.net/forum?id=rm0zIzlhcX"


@register_method
@dataclass(frozen=True)
class BeyondIntuitionTokens:
    """Token-wise attention perception with reasoning feedback (Chen et al., "Beyond Intuition", TMLR 2023).

        A^_b[i, j] = mean_h A_b^h[i, j] |W_o v_b[j]| / |x_b[j]|     tokens that the values lengthen count for more
        P          = (A^_B + I) ... (A^_1 + I)                      attention perception
        F          = mean_h ReLU( 1/K sum_k dY(k X / K) / dA_B^h )  reasoning feedback, k = 1 .. K
        map[n]     = P[cls, n] F[cls, n]

    x_b is the token that enters the block, before its norm, v_b all heads' values side by side, W_o the output
    projection without its bias (so in the authors' code; a LayerScale behind it is taken as a part of it). k X / K are
    the normalised pictures, so that the way begins at the mean colour; Y stays the target of the unaltered picture.
    The authors' code takes K points from 0 to 1 with both ends, and divides by K; here they are k / K as in the
    paper's sum. K - 1 more passes are run, and no backward pass: the gradient at the last attention is closed.

    Where the head pools the tokens, the map is the mean of P[m, n] F[m, n] over the rows m that it reads, as the
    authors do for MAE; F holds how much each counts. An attention pool begins the product with its own row, without I.

    Attributes:
        steps: K; 20 in the authors' code.
        first: the first block of P, counted from 0; the authors' code for ViT-B leaves the first 5 of 12 out.

    Raises:
        MethodError: no step, or no block left.
    """

    steps: int = 20
    first: int = 0

    facts: ClassVar[Facts] = Facts(
        name="btt",
        title="Beyond Intuition, token-wise",
        family="attention-gradient",
        paper=_PAPER,
        year=2023,
        signed=False,
        class_specific=True,
        cost="20",
        caution="The target enters at the last block's attention alone; what tokens mean on the way does not count.",
    )

    def __post_init__(self) -> None:
        _check("btt", self.steps, self.first)

    @property
    def needs(self) -> Needs:
        """Every block's attention, the tokens' growth, and the last block's attention along scaled pictures."""
        return Needs(
            attention=Blocks.ALL,
            every_row=Blocks.ALL,
            value_transform=Blocks.ALL,
            scaled=frozenset([self.steps]),
        )

    def __call__(self, trace: Trace) -> Maps:
        """Perception times feedback."""
        return _explain(trace, _lengthened, self.steps, self.first)


@register_method
@dataclass(frozen=True)
class BeyondIntuitionHeads:
    """Head-wise attention perception with reasoning feedback (Chen et al., "Beyond Intuition", TMLR 2023).

        I_b^h = mean_ij |( A_b^h' dY/dA_b^h )[i, j]|,   A' the transposed matrix
        A^_b  = sum_h I_b^h A_b^h / sum_h I_b^h
        P, F and the map as of `BeyondIntuitionTokens`, with this A^_b

    The head's importance I is the mean over a matrix of tokens by tokens, as in the authors' code; dY/dA_b by full
    back-propagation from the unaltered picture.

    Attributes:
        steps: K; 20 in the authors' code.
        first: the first block of P, counted from 0; the authors' code for ViT-B leaves the first 3 of 12 out.

    Raises:
        MethodError: no step, or no block left.
    """

    steps: int = 20
    first: int = 0

    facts: ClassVar[Facts] = Facts(
        name="bth",
        title="Beyond Intuition, head-wise",
        family="attention-gradient",
        paper=_PAPER,
        year=2023,
        signed=False,
        class_specific=True,
        cost="23",
        caution="The target weighs heads and the last block's attention; how it was reached does not count.",
    )

    def __post_init__(self) -> None:
        _check("bth", self.steps, self.first)

    @property
    def needs(self) -> Needs:
        """Every block's attention with its gradient, and the last block's along scaled pictures."""
        return Needs(
            attention=Blocks.ALL,
            every_row=Blocks.ALL,
            full_gradient=Blocks.ALL,
            scaled=frozenset([self.steps]),
        )

    def __call__(self, trace: Trace) -> Maps:
        """Perception times feedback."""
        return _explain(trace, _by_importance, self.steps, self.first)


def _check(name: str, steps: int, first: int) -> None:
    if steps < 1 or first < 0:
        raise MethodError(f"{name}:steps={steps},first={first}: give at least 1 step and a first block from 0 on")


def _explain(trace: Trace, matrix: Matrix, steps: int, first: int) -> Maps:
    """The rows of P * F that the head reads, their mean."""
    if first >= len(trace.blocks):
        raise MethodError(f"first={first}: the model has blocks 0 to {len(trace.blocks) - 1}; begin with one of them")
    feedback = trace.along_scaled(steps)
    found = []
    for rows in _rows_read(trace, feedback.gradients.shape[2]):
        moved, stayed = product(trace, matrix, _identity(trace, rows), first=first)  # b m s n
        heard = feedback.at_attention(rows).relu().mean(dim=1)
        found.append(((moved + stayed) * heard).sum(dim=-2))
    count = 1 if trace.blocks[-1].class_row else sum(map(len, _parts_read(trace)))
    return Maps(values=trace.to_grid(torch.stack(found).sum(dim=0) / count))


def _rows_read(trace: Trace, targets: int) -> Iterator[slice]:
    """The class token's row, or those of each part that the head reads, some at a time."""
    every = trace.blocks[-1].every_row
    if trace.blocks[-1].class_row:
        yield slice(0, 1)
        return
    for part in _parts_read(trace):
        for rows in every.chunks(LIMIT // targets):
            first, end = max(rows.start, part.start), min(rows.stop, part.stop)
            if first < end:
                yield slice(first, end)


def _parts_read(trace: Trace) -> list[range]:
    """The rows of each part that the head reads."""
    tokens = range(trace.blocks[-1].every_row.keys.shape[-2])
    return [tokens[rows] for rows in trace.reads]


def _identity(trace: Trace, rows: slice) -> Tensor:
    """These rows of I, (b 1 s n)."""
    keys = trace.blocks[0].every_row.keys
    eye = keys.new_zeros(rows.stop - rows.start, keys.shape[-2])
    eye.diagonal(offset=rows.start).fill_(1)
    return eye.expand(len(keys), 1, -1, -1)


def _lengthened(block: BlockTrace) -> Rows:
    growth = block.value_transform.growth[:, None, None]  # b 1 1 n
    for rows, mean in mean_attention(block):
        yield rows, mean * growth.to(mean)


def _by_importance(block: BlockTrace) -> Rows:
    every = block.every_row
    size = _importance(every)
    whole = size.sum(dim=1, keepdim=True)
    weights = torch.where(whole > 0, size / whole, torch.zeros_like(size)).to(every.keys)
    for rows, attention in attention_rows(every, weights.shape[2]):
        yield rows, torch.einsum("bhm,bhrn->bmrn", weights, attention)


def _importance(every: EveryRow) -> Tensor:
    """The sum over i, j of |(A' dY/dA)[i, j]| = |<(A' dY/dT)[i], v[j]>| of every head, (b h m), in float32 at least."""
    spread = every.at_values(every.gradient("full"))  # b h m n d
    kind = torch.promote_types(spread.dtype, torch.float32)
    values, tokens = every.values.unsqueeze(2).transpose(-1, -2), spread.shape[-2]
    chunk = max(1, cut_down(LIMIT) // (spread[..., 0].numel()))
    parts = [
        (spread[..., start : start + chunk, :] @ values).to(kind).abs().sum(dim=(-2, -1))
        for start in range(0, tokens, chunk)
    ]
    return torch.stack(parts).sum(dim=0)
