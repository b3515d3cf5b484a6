"""Torch's fused attention: the call, read in one place; and what is written out of it, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vitscope.errors import ModelError
from vitscope.trace.budget import cut_down


@dataclass(frozen=True)
class Attend:
    """A call of scaled_dot_product_attention.

    Attributes:
        query: (b h r d).
        key, value: (b h n d).
        mask: added to the scores, or False where a key is not seen; or None.
        scale: of the scores.
        dropout: probability.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float
    dropout: float = 0.0

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Attend:
        """By torch's own signature.

        Raises:
            ModelError: the attention is causal, or its queries are grouped.
        """
        if is_causal or enable_gqa:
            raise ModelError("causal or grouped-query attention is not supported; use a plain vision transformer")
        return cls(query, key, value, attn_mask, query.shape[-1] ** -0.5 if scale is None else float(scale), dropout_p)

    def __call__(self) -> Tensor:
        """Run it, (b h r d)."""
        return F.scaled_dot_product_attention(
            self.query, self.key, self.value, self.mask, self.dropout, scale=self.scale
        )


def row_chunks(query: Tensor, key: Tensor, limit: int = 2**24) -> Iterator[slice]:
    """Some rows of (b h r n) at a time, of at most `limit` numbers where one row has fewer; less where memory is."""
    count = query.shape[-2]
    size = max(1, cut_down(limit) // (query.shape[:-2].numel() * key.shape[-2]))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def masked(scores: Tensor, mask: Tensor | None, rows: slice = slice(None)) -> Tensor:
    """Some rows of the scores (b h r n) with the attention's mask."""
    if mask is None:
        return scores
    some = mask if mask.shape[-2] == 1 else mask[..., rows, :]
    return scores.masked_fill(~some, float("-inf")) if some.dtype == torch.bool else scores + some
