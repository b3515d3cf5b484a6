"""A block's attention as a whole, read without making its N x N matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.trace.kernel import masked, row_chunks


@dataclass(frozen=True)
class EveryRow:
    """What every row's attention of one block was made of.

    Axis r: its rows; in the last block those that the head reads. `scores` gives them in chunks.

    Attributes:
        query: (b h r d), times the attention's scale.
        keys: (b h n d).
        values: (b h n d).
        mask: what was added to the scores, where the attention has a mask.
        gradients: every target's gradient at the attention's output, (b h m r d), by path.
    """

    query: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    gradients: dict[str, Tensor]

    def gradient(self, path: str) -> Tensor:
        """Every target's gradient at the rows' outputs (b h m r d) along a path, as of `BlockTrace.gradient`.

        Raises:
            MethodError: no method asked for it.
        """
        if path not in self.gradients:
            raise MethodError(f"'{path}_gradient' was not recorded for this block; declare it in the method's needs")
        return self.gradients[path]

    def chunks(self, limit: int = 2**24) -> Iterator[slice]:
        """Some rows at a time, which of all heads have at most `limit` scores where one row has fewer."""
        return row_chunks(self.query, self.keys, limit)

    def scores(self, limit: int = 2**24) -> Iterator[tuple[slice, Tensor]]:
        """The rows' scores z, some rows (b h r n) at a time, of at most `limit` numbers where one row has fewer."""
        for rows in self.chunks(limit):
            yield rows, masked(self.query[..., rows, :] @ self.keys.transpose(-1, -2), self.mask, rows)

    def received(self, counts: Tensor) -> Tensor:
        """The attention that each token gets, (b h m n), as a mean over the rows, which count by `counts` (b m r)."""
        weights = counts.unsqueeze(1).to(self.query)
        total = sum(weights[..., rows] @ scores.softmax(dim=-1) for rows, scores in self.scores())
        assert isinstance(total, Tensor)
        return total

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
