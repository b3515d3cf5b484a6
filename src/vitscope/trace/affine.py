"""Keys and values that are affine in the token: what a few vectors a head make of them, without making them.

k_n = K t_n + k_o and v_n = V t_n + v_o, so that <q, k_n> = <K^T q, t_n> + <q, k_o>: a vector is brought to the tokens,
D numbers a head, in place of every token to the heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitscope.models import Block, Grid


@dataclass(frozen=True)
class Affine:
    """One of both, h heads of width d, tokens of width D.

    Attributes:
        matrix: (h d D).
        bias: (h d).
    """

    matrix: Tensor
    bias: Tensor

    def changes(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """The vectors' products with the heads of all tokens, less the bias: (b h r d) with (b n D) -> (b h r n)."""
        brought = torch.einsum("bhrd,hdw->bhrw", vectors, self.matrix)
        products: Tensor = brought.flatten(1, 2) @ tokens.transpose(1, 2)
        by_head: Tensor = products.unflatten(1, vectors.shape[1:3])
        return by_head

    def at_bias(self, vectors: Tensor) -> Tensor:
        """Their products with the bias, (b h r 1)."""
        return torch.einsum("bhrd,hd->bhr", vectors, self.bias).unsqueeze(-1)

    def mean(self, attention: Tensor, tokens: Tensor) -> Tensor:
        """The heads' mean over tokens by weights whose sum is 1: (b h r n) with (b n D) -> (b h r d)."""
        mixed = (attention.flatten(1, 2) @ tokens).unflatten(1, attention.shape[1:3])
        return torch.einsum("bhrw,hdw->bhrd", mixed, self.matrix) + self.bias.unsqueeze(1)


def keys_and_values(block: Block, grid: Grid, like: Tensor) -> tuple[Affine, Affine]:
    """The keys and the values of a block with `affine_keys`, read off its own function; `like`: tokens (b n D)."""
    width = like.shape[-1]
    with torch.no_grad():
        biases = block.keys_values(like.new_zeros(1, 1, width), grid)
        units = block.keys_values(torch.eye(width, dtype=like.dtype, device=like.device)[None], grid)
    keys, values = (
        Affine((of_units - bias)[0].transpose(-1, -2), bias[0, :, 0])
        for of_units, bias in zip(units, biases, strict=True)
    )
    return keys, values
