"""The last block's attention on the way from a blank picture to the picture itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitscope.models import Anatomy
from vitscope.trace import capture
from vitscope.trace.aim import Aim, seeds_at
from vitscope.trace.block import BlockCapture
from vitscope.trace.classpath import skip_gradients
from vitscope.trace.needs import Blocks, Needs

NEEDS = Needs(values=Blocks.LAST, skip_gradient=Blocks.LAST)
"""What every pass records."""


@dataclass(frozen=True)
class Scaled:
    """The gradient at the last block's attention, mean over the pictures k X / K, k = 1 .. K.

    The gradient at A[r, n] is <dY/dT[r], v[n]>, so that side by side, gradients and values of all K pictures give the
    sum over them by one product.

    Attributes:
        gradients: every target's gradient at T_B, all pictures' side by side, over K: (b h m r Kd).
        values: likewise, (b h n Kd).
    """

    gradients: Tensor
    values: Tensor

    def at_attention(self, rows: slice) -> Tensor:
        """Of some rows of the attention matrix, (b h m r n)."""
        return self.gradients[..., rows, :] @ self.values.unsqueeze(2).transpose(-1, -2)


def along_scaled(
    anatomy: Anatomy,
    images: Tensor,
    aims: Sequence[Aim],
    seeds: Tensor,
    steps: int,
    whole: tuple[Tensor, BlockCapture],
) -> Scaled:
    """Run the model on k / K times the normalised `images` (b 3 H W), k < K; the K-th is the pass that was recorded.

    Args:
        anatomy: the model's description.
        images: the batch.
        aims: the targets; a class that is the predicted one stays that of the unaltered picture.
        seeds: their gradients at the features of the unaltered picture, (m b F).
        steps: K.
        whole: gradients (m b h r d) at T_B of the unaltered picture, and its last block's record.

    Raises:
        ModelError: the model's output is not usable on a scaled picture.
    """
    gradients, records = [], []
    for step in range(1, steps):
        seen = capture.forward(anatomy, images * (step / steps), NEEDS)
        with torch.no_grad():
            features = anatomy.features(seen.final)
        found, _ = skip_gradients(anatomy, seen, seeds_at(anatomy, aims, seeds, features), last_only=True)
        gradients.append(found[len(anatomy.blocks) - 1])
        records.append(seen.blocks[-1])
    of_values = [record.values for record in (*records, whole[1]) if record.values is not None]
    at_output = torch.cat([*gradients, whole[0]], dim=-1) / steps  # m b h r Kd
    return Scaled(at_output.permute(1, 2, 0, 3, 4), torch.cat(of_values, dim=-1))
