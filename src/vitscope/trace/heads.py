"""Heads: merged, split, and products of a few vectors a head with all tokens, without copying the tokens."""

from __future__ import annotations

from torch import Tensor


def merge_heads(rows: Tensor) -> Tensor:
    """(... h n d) -> (... n D), heads concatenated; a view where the model made its heads by splitting D."""
    return rows.transpose(-3, -2).flatten(-2)


def split_heads(rows: Tensor, heads: int) -> Tensor:
    """(... n D) -> (... h n d)."""
    by_token: Tensor = rows.unflatten(-1, (heads, -1))
    return by_token.transpose(-3, -2)


_FEW = 4


def head_products(vectors: Tensor, tokens: Tensor) -> Tensor:
    """<vectors_r^h, tokens_n^h> for every head, row and token.

    The tokens of all heads lie side by side in memory, (b n D); a batched product a head would copy them. Here the
    vectors stand block by block in a (D x h r) matrix instead, so that one product reads the tokens as they lie; with
    many vectors the zeros in that matrix would cost more than the copy.

    Args:
        vectors: (b h r d).
        tokens: (b h n d).

    Returns:
        (b h r n).
    """
    b, h, r, d = vectors.shape
    if r > _FEW:
        return vectors @ tokens.transpose(-1, -2)
    columns = vectors.new_zeros(b, h, d, h, r)
    columns.diagonal(dim1=1, dim2=3).copy_(vectors.permute(0, 3, 2, 1))
    products = merge_heads(tokens) @ columns.view(b, h * d, h * r)
    by_head: Tensor = products.unflatten(-1, (h, r))
    return by_head.permute(0, 2, 3, 1)
