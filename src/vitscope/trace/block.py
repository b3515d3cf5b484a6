"""What one block showed of itself in a pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.models import Running


@dataclass(frozen=True)
class Transformation:
    """Tokens before and after a map, in float32 at least; axis n: the tokens that pass it, prefix tokens first.

    Attributes:
        before: |x_n|, (b n).
        after: |f(x_n)|, (b n).
        cosine: of the angle between the two, (b n).
    """

    before: Tensor
    after: Tensor
    cosine: Tensor

    @classmethod
    def of(cls, tokens: Tensor, mapped: Tensor) -> Transformation:
        """Measure (b n D) against (b n D)."""
        kind = torch.promote_types(tokens.dtype, torch.float32)
        one, other = tokens.to(kind), mapped.to(kind)
        return cls(one.norm(dim=-1), other.norm(dim=-1), F.cosine_similarity(one, other, dim=-1))

    @property
    def growth(self) -> Tensor:
        """|f(x_n)| / |x_n|, (b n)."""
        return self.after / self.before.clamp_min(torch.finfo(self.before.dtype).tiny)


@dataclass
class BlockCapture:
    """What one block showed of itself in the pass; axis r holds the rows that lead to the output (`Block.rows`)."""

    query: Tensor | None = None  # (b h r d), times the attention's scale
    values: Tensor | None = None  # (b h n d)
    products: Tensor | None = None  # (b h r n), <query, keys>
    scores: Tensor | None = None  # (b h r n), these with the attention's mask
    mask: Tensor | None = None  # what was added to the products, where the attention has a mask
    input: Tensor | None = None  # (b n D), x_b, where the block will be run again
    attended: tuple[Tensor, Tensor, Tensor | None] | None = None  # queries (b h n d), keys, mask; where all rows count
    rows: Tensor | None = None  # (b h r d), T_b
    residual: Tensor | None = None  # (b r D), e_b
    tokens: Tensor | None = None  # (b n D), t_b, where the keys are not affine in it, or thoroughly
    output: Tensor | None = None  # (b h n d) with its graph, where a backward pass will be made; the last: (b h r d)
    incoming: Tensor | None = None  # (b r D), x_b with its graph: the last block's, likewise; or thoroughly
    value_transform: Transformation | None = None  # x_b against W_o v, token by token
    feedforward_transform: Transformation | None = None  # e_b against what the feed-forward adds

    def keep_residual(self, rows: int | None, tokens: Tensor) -> None:
        """Take e_b from the feed-forward's input (b n D); a clone, so that the whole is not kept."""
        self.residual = tokens.detach()[:, :rows].clone()

    def keep_incoming(self, rows: int | None, tokens: Tensor) -> None:
        """Take x_b with its graph."""
        self.incoming = tokens[:, :rows]

    def keep_input(self, tokens: Tensor) -> None:
        """Take x_b."""
        self.input = tokens.detach()

    def keep_tokens(self, tokens: Tensor) -> None:
        """Take t_b."""
        self.tokens = tokens.detach()

    def widen(self, running: Running) -> None:
        """What was taken of the residual stream, in the precision that methods compute in."""
        for name in ("residual", "tokens", "input"):
            if (taken := getattr(self, name)) is not None:
                setattr(self, name, running.wide(taken))
