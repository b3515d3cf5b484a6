"""A block's attention as a whole, read without making its N x N matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class EveryRow:
    """What every row's attention of one block was made of.

    Axis r: its rows; in the last block those that the head reads.

    Attributes:
        query: (b h r d), times the attention's scale.
        keys: (b h n d).
        values: (b h n d).
        mask: what was added to the scores, where the attention has a mask.
        gradient: every target's gradient at the attention's output, by full back-propagation, (b h m r d).
    """

    query: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    gradient: Tensor

    def at_values(self, gradient: Tensor) -> Tensor:
        """A^T G: what a gradient G at the rows' outputs (b h m r d) is at the values, (b h m n d).

        The backward pass of torch's own kernel gives it, so that A is never held.
        """
        with torch.enable_grad():
            values = self.values.detach().requires_grad_()
            output = F.scaled_dot_product_attention(self.query, self.keys, values, self.mask, scale=1.0)
            found = [
                torch.autograd.grad(output, values, one.contiguous(), retain_graph=True)[0]
                for one in gradient.unbind(dim=2)
            ]
        return torch.stack(found, dim=2)
