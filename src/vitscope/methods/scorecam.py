"""Score-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.methods.samples import check_samples, stretched, within
from vitscope.trace import Blocks, Needs, Pictures, Trace


@register_method
@dataclass(frozen=True)
class ScoreCAM:
    """Score-CAM (Wang et al., CVPR Workshops 2020, arXiv 1910.01279, Definitions 3 and Eq. 9).

    A[n, k] = t_B[n, k] of patch n and channel k, as for the other CAMs of transformers (pytorch-grad-cam);
    H_k = A[., k], bilinearly enlarged to the picture, then from 0 to 1;  w = softmax_k( Y(x * H_k) )
    map[n] = ReLU( sum_k w_k A[n, k] )

    The paper's baseline Y(0) falls out of the softmax. The corners of grid and picture are aligned in enlarging, which
    the paper leaves open, as the library does. Where all channels score alike, the map is 0 everywhere.

    Attributes:
        max_forwards: of a picture; of more channels, those of the largest variance over its patches are kept.
    """

    max_forwards: int | None = None

    facts: ClassVar[Facts] = Facts(
        name="scorecam",
        title="Score-CAM",
        family="perturbation",
        paper="arXiv 1910.01279",
        year=2020,
        signed=False,
        class_specific=True,
        cost="192 (one a channel)",
        caution="A softmax of logits lets few channels speak; a channel's mask may darken what it does not mean.",
    )

    def __post_init__(self) -> None:
        check_samples("scorecam", 1, self.max_forwards)

    @property
    def needs(self) -> Needs:
        """The last block's tokens, and the model, to be run on pictures."""
        return Needs(attention=Blocks.LAST, rerun=True, pictures=True)

    def __call__(self, trace: Trace) -> Maps:
        """Channels weighted by what is scored through them."""
        pictures = trace.pictures()
        channels = trace.again().tokens[:, trace.prefix :].transpose(1, 2)  # b D P
        channels = channels if channels.dtype == torch.float64 else channels.float()
        channels = _most_varied(channels, within(channels.shape[1], self.max_forwards))
        pictures.expect(channels.shape[0] * channels.shape[1])
        maps = [_of_one(pictures, index, each) for index, each in enumerate(channels)]
        return Maps(values=torch.stack(maps).float())


def _most_varied(channels: Tensor, count: int) -> Tensor:
    """The `count` channels of the largest variance over the patches, in their order, (b D P) -> (b k P)."""
    if count == channels.shape[1]:
        return channels
    chosen = channels.var(dim=-1).topk(count, dim=1).indices.sort(dim=1).values
    return channels.gather(1, chosen[..., None].expand(-1, -1, channels.shape[-1]))


def _of_one(pictures: Pictures, index: int, channels: Tensor) -> Tensor:
    """(k P) -> (m rows cols)."""
    image = pictures.images[index]
    on_grid = channels.unflatten(-1, pictures.grid)

    def through(start: int, stop: int) -> Tensor:
        masks = pictures.to_pixels(on_grid[start:stop], corners=True)
        return image * stretched(masks.flatten(1)).view_as(masks).to(image)

    scores = pictures.scores(torch.full((len(channels),), index), through).to(channels)
    weights = scores.softmax(dim=0) * (scores.amax(dim=0) > scores.amin(dim=0))
    values: Tensor = (weights.T @ channels).relu().unflatten(-1, pictures.grid)
    return values
