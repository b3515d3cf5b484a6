"""Transformer Input Sampling."""

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
from vitscope.methods.samples import check_samples, weigh, within
from vitscope.trace import Needs, Pictures, Trace
from vitscope.warned import warnings_are


@register_method
@dataclass(frozen=True)
class TIS:
    """Transformer Input Sampling (Englebert et al., ICCV Workshops 2023).

    The activations of all channels behind every block, each a vector over the P patches, are clustered by k-means. For
    every centroid the share `keep` of the patches where it is highest is sampled: the other tokens are left out, after
    the positional encoding. With M_i these samples and p_y the class's probability of them,

        map[n] = sum_i p_y(M_i) M_i[n] / sum_i M_i[n]

    Another target than a class, or a class of a head without probabilities, takes part by its value less the lowest of
    the samples'. From the authors' code: the number of masks, Euclidean k-means from random activations, and one share,
    0.5. Our reading: 20 rounds of k-means (there up to 100), a patch that was never sampled gets 0, and the map is left
    as it is, not stretched to [0, 1].

    Attributes:
        masks: clusters; no more than there are activations.
        keep: share of the patch tokens that a sample keeps.
        rounds: of k-means.
        seed: of the activations that k-means starts from.
        max_forwards: of a picture; one is for its tokens, and there are as many masks as remain.
    """

    masks: int = 1024
    keep: float = 0.5
    rounds: int = 20
    seed: int = 0
    max_forwards: int | None = None

    facts: ClassVar[Facts] = Facts(
        name="tis",
        title="Transformer Input Sampling",
        family="perturbation",
        paper="ICCV Workshops 2023, Transformer Input Sampling",
        year=2023,
        signed=False,
        class_specific=True,
        cost="1025 (one a mask, and one)",
        caution="Half of the tokens are always there: evidence that either half holds looks alike everywhere.",
    )

    def __post_init__(self) -> None:
        check_samples("tis", self.masks, self.max_forwards, least=2)
        if not 0 < self.keep < 1 or self.rounds < 1:
            raise MethodError(f"tis:keep={self.keep},rounds={self.rounds}: give 0 < keep < 1, and at least 1 round")
        if self.seed < 0:
            raise MethodError(f"tis:seed={self.seed}: give 0 or more")

    @property
    def needs(self) -> Needs:
        """The model, to be run on pictures without some tokens."""
        return Needs(pictures=True, hiding=True)

    def __call__(self, trace: Trace) -> Maps:
        """The mean of what samples score, over those that a patch is in."""
        pictures = trace.pictures()
        most = within(self.masks, None if self.max_forwards is None else self.max_forwards - 1)
        batch = len(pictures.images)
        pictures.expect(batch * (most + 1))
        activations = pictures.tokens().transpose(2, 3).flatten(1, 2)  # b (blocks D) P
        maps = [self._of_one(pictures, index, each, most) for index, each in enumerate(activations)]
        return Maps(values=torch.stack(maps).unflatten(-1, trace.grid).float().to(trace.logits.device))

    def _of_one(self, pictures: Pictures, index: int, activations: Tensor, most: int) -> Tensor:
        """(k P) -> (m P)."""
        centroids = torch.from_numpy(_clustered(activations.double().numpy(), most, self.rounds, self.seed))
        kept = max(1, int(self.keep * centroids.shape[1]))
        masks = torch.zeros(centroids.shape, dtype=torch.bool)
        masks.scatter_(1, centroids.topk(kept, dim=1).indices, True)
        scores = pictures.scores(torch.full((len(masks),), index), keep=masks, probability=True)
        return weigh(masks, scores, pictures.has_probability()) / masks.sum(dim=0).clamp_min(1)


def _clustered(points: NDArray[np.float64], count: int, rounds: int, seed: int) -> NDArray[np.float64]:
    """The centroids of k-means, (k P), that starts from random points."""
    count = min(count, len(points))
    start = points[np.random.default_rng(seed).choice(len(points), count, replace=False)]
    with warnings_are("ignore", UserWarning):  # that a cluster is empty, whose centroid then stays
        centroids: NDArray[np.float64] = scipy.cluster.vq.kmeans2(points, start, iter=rounds, minit="matrix")[0]
    return centroids
