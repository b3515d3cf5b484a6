"""ViT-CX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.methods.samples import check_samples, stretched, weigh
from vitscope.trace import Blocks, Needs, Pictures, Trace


@register_method
@dataclass(frozen=True)
class ViTCX:
    """ViT-CX (Xie et al., IJCAI 2023, arXiv 2211.03064).

    Each channel of the last block's LN1 output, over the patches, stretched to [0, 1], is a mask; masks are merged by
    complete linkage while their cosine distance is at most `distance`, and the sum of a cluster, stretched again, is
    its mask M_i. With Z_i = N(0, noise^2) (1 - M_i) and p_y the class's probability,

        s_i = p_y(x M_i + Z_i) - p_y(x + Z_i) + p_y(x),   map[n] = sum_i s_i M_i[n] / sum_i M_i[n]

    which takes the noise's own effect out again, and divides by how often a patch is covered. Another target than a
    class, or a class of a head without probabilities, takes part by its value, s_i less the lowest of the samples'; so
    does a class where that is below 0. From the authors' code: the layer, one draw of noise a mask, the linkage. Our
    reading: masks are stretched and merged on the patch grid and enlarged afterwards (there they are enlarged first),
    the map is on the patch grid, and its constant factor 1 / N is left out. The i-th mask of every picture gets the
    i-th draw.

    Attributes:
        distance: up to which masks are merged.
        noise: standard deviation, of the normalised picture's values.
        seed: of the noise.
        max_forwards: of a picture, two a mask; where there are more masks, merging goes on until they are as few.
    """

    distance: float = 0.1
    noise: float = 0.1
    seed: int = 0
    max_forwards: int | None = None

    facts: ClassVar[Facts] = Facts(
        name="vit_cx",
        title="Causal explanation of vision transformers",
        family="perturbation",
        paper="arXiv 2211.03064",
        year=2023,
        signed=False,
        class_specific=True,
        cost="130 to 170 (two a mask)",
        caution="Can only show regions in which some channel of the last block is high.",
    )

    def __post_init__(self) -> None:
        check_samples("vit_cx", 1, self.max_forwards, least=2)
        if self.distance < 0 or self.noise < 0:
            raise MethodError(f"vit_cx:distance={self.distance},noise={self.noise}: give numbers of 0 or more")

    @property
    def needs(self) -> Needs:
        """The last block's tokens, and the model, to be run on pictures."""
        return Needs(attention=Blocks.LAST, rerun=True, pictures=True)

    def __call__(self, trace: Trace) -> Maps:
        """The mean of masks' causal scores, over those that cover a patch."""
        pictures = trace.pictures()
        channels = trace.again().tokens[:, trace.prefix :].transpose(1, 2).double().cpu()  # b D P
        most = None if self.max_forwards is None else self.max_forwards // 2
        masks = [stretched(_merged(stretched(each), self.distance, most)) for each in channels]
        pictures.expect(2 * sum(map(len, masks)))
        maps = [self._of_one(pictures, index, each) for index, each in enumerate(masks)]
        return Maps(values=torch.stack(maps).unflatten(-1, trace.grid).float().to(trace.logits.device))

    def _of_one(self, pictures: Pictures, index: int, masks: Tensor) -> Tensor:
        """(k P) -> (m P)."""
        image, count = pictures.images[index], len(masks)
        on_grid = masks.float().unflatten(-1, pictures.grid)
        generator = torch.Generator().manual_seed(self.seed)
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()  # a draw does not depend on the chunks

        def masked(start: int, stop: int) -> Tensor:
            """A mask's two pictures one after the other."""
            which = [row // 2 for row in range(start, stop)]
            mask = pictures.to_pixels(on_grid[which]).to(image)
            sources = [torch.Generator().manual_seed(seeds[i]) for i in which]
            draws = [torch.randn(image.shape, generator=each, dtype=torch.float32) for each in sources]
            noise = self.noise * torch.stack(draws).to(image) * (1 - mask)
            first = torch.tensor([row % 2 == 0 for row in range(start, stop)], device=image.device)
            return torch.where(first[:, None, None, None], image * mask, image) + noise

        scores = pictures.scores(torch.full((2 * count,), index), masked, probability=True).unflatten(0, (count, 2))
        causal = scores[:, 0] - scores[:, 1] + pictures.unaltered(probability=True)[index].cpu()
        covered = masks.sum(dim=0)
        found = weigh(masks, causal.double(), pictures.has_probability())
        return torch.where(covered > 0, found / covered.clamp_min(1e-12), torch.zeros_like(found))


def _merged(masks: Tensor, distance: float, most: int | None) -> Tensor:
    """The sums of the masks (k P) of every cluster, at most `most` of them."""
    if len(masks) == 1:
        return masks
    clusters = _clusters(masks.numpy(), distance, most)
    sums = masks.new_zeros(int(clusters.max()), masks.shape[1])
    return sums.index_add_(0, torch.from_numpy(clusters - 1), masks)


def _clusters(masks: NDArray[np.float64], distance: float, most: int | None) -> NDArray[np.int64]:
    """The number of each mask's cluster, from 1."""
    hierarchy = scipy.cluster.hierarchy
    apart = scipy.spatial.distance.pdist(masks, "cosine")
    apart = np.nan_to_num(apart, nan=1.0)  # a constant channel is 0 everywhere, like no other
    tree = hierarchy.linkage(apart.clip(min=0), method="complete")
    clusters = hierarchy.fcluster(tree, distance, criterion="distance")
    if most is not None and clusters.max() > most:
        clusters = hierarchy.fcluster(tree, most, criterion="maxclust")
    found: NDArray[np.int64] = clusters.astype(np.int64)
    return found
