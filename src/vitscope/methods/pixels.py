"""What the methods of Captum share: a picture's attributions, pixel by pixel, become its map on the patch grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitscope.methods.base import Maps
from vitscope.trace import Pictures, Trace

Score = Callable[[Tensor, Tensor], Tensor]
"""Of pictures (n 3 H W) and the indices of their originals (n), one value each."""

Attribute = Callable[[Score, Tensor, Tensor], Tensor]
"""By the score, of one picture (1 3 H W) and its index (1): attributions of the picture's shape."""


def by_pixels(trace: Trace, attribute: Attribute, forwards: int) -> Maps:
    """Attributions of every picture and target, summed over channels and over each patch's pixels, signed.

    Captum works on the CPU, in float32 at least, so that its random numbers are the same on all devices; the model runs
    where it is. Each picture is attributed by itself.

    Args:
        trace: with its pictures.
        attribute: by Captum.
        forwards: of one picture and target.
    """
    pictures = trace.pictures()
    targets = len(pictures.held.aims)
    pictures.expect(forwards * targets * len(pictures.images))
    maps = [
        torch.stack([_of_one(pictures, attribute, slot, index) for slot in range(targets)])
        for index in range(len(pictures.images))
    ]
    return Maps(values=torch.stack(maps).float().to(trace.logits.device))


def _of_one(pictures: Pictures, attribute: Attribute, slot: int, index: int) -> Tensor:
    image = pictures.images[index : index + 1].cpu()
    image = image if image.dtype == torch.float64 else image.float()
    found = attribute(pictures.differentiable(slot), image.requires_grad_(), torch.tensor([index]))
    return pictures.cell_sums(found.detach()[0].sum(dim=0))
