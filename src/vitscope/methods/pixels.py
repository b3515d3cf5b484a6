"""What the methods of Captum share: a picture's attributions, pixel by pixel, become its map on the patch grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitscope.methods.base import Maps
from vitscope.recording import AlteredInputs, Recording
from vitscope.trace import Pictures, Trace

Score = Callable[[Tensor, Tensor], Tensor]
"""Of pictures (n 3 H W) and the indices of their originals (n), one value each."""

Attribute = Callable[[Score, Tensor, Tensor], Tensor]
"""By the score, of pictures (n 3 H W) and their indices (n): attributions of the pictures' shape."""


def by_pixels(trace: Trace | Recording, attribute: Attribute, forwards: int, alone: bool = False) -> Maps:
    """Attributions of every picture and target, summed over channels and over each patch's pixels, signed.

    Captum works on the CPU, in float32 at least, so that its random numbers are the same on all devices; the model runs
    where it is.

    Args:
        trace: with its pictures.
        attribute: by Captum.
        forwards: of one picture and target.
        alone: give each picture by itself, so that random numbers are the same alone and in a batch.
    """
    pictures = trace.pictures()
    pictures.expect(forwards * pictures.count * len(pictures.images))
    alone = alone or isinstance(pictures, AlteredInputs)  # whose samples have other inputs of their own
    indices = torch.arange(len(pictures.images)).split(1 if alone else len(pictures.images))
    maps = [
        torch.stack([_attributed(pictures, attribute, slot, index) for slot in range(pictures.count)], dim=1)
        for index in indices
    ]
    return Maps(values=torch.cat(maps).float().to(trace.logits.device))


def _attributed(pictures: Pictures | AlteredInputs, attribute: Attribute, slot: int, index: Tensor) -> Tensor:
    """The maps of the pictures `index` (n) for one target, (n rows cols)."""
    images = pictures.images[index.to(pictures.images.device)].cpu()
    images = images if images.dtype == torch.float64 else images.float()
    found = attribute(pictures.differentiable(slot), images.requires_grad_(), index)
    return pictures.cell_sums(pictures.without_channels(found.detach()))
