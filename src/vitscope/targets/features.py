"""Targets in the space of the features, which the classifier reads: concepts, and neighbours in a memory bank."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.errors import TargetError
from vitscope.options import check_options
from vitscope.targets.bank import MemoryBank
from vitscope.targets.names import UNNAMED, ClassNames

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Concept:
    """How much an image's features point the way that those of some example images do (CDAM, 2312.02364, section 3.2).

    Attributes:
        features: of the examples, (n F), whose mean is the concept vector; or that vector, (F).
        similarity: "dot" product, as in the paper, or "cosine".
        name: the concept in words.

    Raises:
        TargetError: an unknown similarity.
    """

    of_features: ClassVar[bool] = True
    features: Tensor
    similarity: Literal["dot", "cosine"] = "dot"
    name: str = "the concept"

    def __post_init__(self) -> None:
        check_options(self, TargetError, "Concept")

    @property
    def linear(self) -> bool:
        """Whether the gradient is the same everywhere: of the dot product."""
        return self.similarity == "dot"

    @property
    def vector(self) -> Tensor:
        """The concept vector, (F)."""
        return self.features.detach().float().reshape(-1, self.features.shape[-1]).mean(dim=0)

    def score(self, features: Tensor) -> Tensor:
        """The similarity in every image, (b).

        Raises:
            TargetError: the concept is of another width than the model's features.
        """
        vector = self.vector.to(features)
        if vector.shape != features.shape[1:]:
            raise TargetError(
                f"a concept of width {len(vector)} for features of width {features.shape[1]}; take the features of "
                "the same model: explainer.features(images)"
            )
        return features @ vector if self.similarity == "dot" else F.cosine_similarity(features, vector[None], dim=1)

    def classes(self, output: Tensor) -> None:
        """None: it is no class."""
        return

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return f"{self.name} ({self.similarity})"


@dataclass(frozen=True, eq=False)
class EachConcept:
    """The cosine of every image's features and a concept vector of its own, such as that of a text that is said of it.

    Attributes:
        vectors: one an image, (b F).
        names: the concepts in words, one an image.
    """

    of_features: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    vectors: Tensor
    names: tuple[str, ...]

    def score(self, features: Tensor) -> Tensor:
        """The cosine in every image, (b).

        Raises:
            TargetError: another number of concepts than images.
        """
        if len(self.vectors) != len(features):
            raise TargetError(
                f"{len(self.vectors)} targets for {len(features)} images; give one target, or one an image"
            )
        return F.cosine_similarity(features, self.vectors.detach().to(features), dim=1)

    def classes(self, output: Tensor) -> None:
        """None: it is no class."""
        return

    @property
    def each_name(self) -> tuple[str, ...]:
        """The target of every image in words."""
        return tuple(f"{name} (cosine)" for name in self.names)

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return ", ".join(self.each_name)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """What makes an image like its nearest neighbours in a memory bank (DAAM, 2503.14640, section 3.4).

    The k nearest by cosine vote for a class, weighted by exp(similarity / temperature). Those of the winning class give
    a weight for each dimension of the features, and the explained value is <w, f> with w held constant.

    Attributes:
        bank: of the same model's features.
        k: how many neighbours vote.
        temperature: of the vote.
        weighting: "official": w = mean_k(f' * z_k) with f' and z_k of length 1, divided by |sum_d w_d|, then min-max
            scaled to [0, 1], as in the official implementation; "equation": the paper's Eq. 13, the mean over k of
            f_d z_kd / (|cos(f, z_k)| |f| |z_k|).
        label: explain the neighbours of this class instead of the winning one's.
        first: the number that warnings and errors give the first image, where it is not the first of its batch.

    Raises:
        TargetError: an unknown weighting.
    """

    of_features: ClassVar[bool] = True
    linear: ClassVar[bool] = True  # the weights stay those of the unaltered picture
    bank: MemoryBank
    k: int = 20
    temperature: float = 0.07
    weighting: Literal["official", "equation"] = "official"
    label: int | None = None
    first: int = 0

    def __post_init__(self) -> None:
        check_options(self, TargetError, "Neighbours")

    @classmethod
    def among(
        cls, features: Tensor, labels: Tensor, names: ClassNames | None = None, k: int = 20, temperature: float = 0.07
    ) -> Neighbours:
        """Of raw features (n F) and their labels (n)."""
        known = names or ClassNames(tuple(f"class {index}" for index in range(int(labels.max()) + 1)))
        return cls(MemoryBank.of(features, labels, known), k, temperature)

    def score(self, features: Tensor) -> Tensor:
        """<w, f> of every image, (b)."""
        return (self.weights(features.detach()) * features).sum(dim=1)

    def classes(self, output: Tensor) -> None:
        """None: it is no output of the model."""
        return

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        whose = "" if self.label is None else f" among {self.bank.names[self.label]}"
        return f"its {self.k} nearest neighbours{whose}"

    def _warn(self, similar: Tensor) -> None:
        """Say which images have poor neighbours, with figures."""
        if len(self.bank) <= self.k:
            return  # every picture of the bank is a neighbour: there is nothing to compare with
        usual, _ = self.bank.typical(self.k)
        for image, closeness in enumerate(similar.mean(dim=1).tolist(), start=self.first):
            if closeness < usual:
                _log.warning(
                    "image %d: its %d nearest neighbours have a mean cosine of %.2f, where 99 %% of the bank's own "
                    "pictures have at least %.2f; the map explains a poor match",
                    image,
                    self.k,
                    closeness,
                    usual,
                )

    def voted(self, features: Tensor) -> Tensor:
        """The class that the neighbours of every image vote for, (b)."""
        return self.bank.vote(features, self.k, self.temperature).argmax(dim=1)

    def weights(self, features: Tensor) -> Tensor:
        """The weight w of every dimension, (b F), from features (b F).

        Raises:
            TargetError: an image has no neighbour of the class that is asked for among its k nearest.
        """
        similar, index = self.bank.nearest(features, self.k)
        self._warn(similar)
        labels = self.bank.of_found(self.bank.labels, index)
        voted = self.bank.votes_of(similar, index, self.temperature).argmax(dim=1)
        wanted = voted if self.label is None else torch.full_like(voted, self.label)
        chosen = (labels == wanted[:, None]).to(features)  # b k
        if not bool(chosen.any(dim=1).all()):
            image = int((~chosen.any(dim=1)).nonzero()[0])
            raise TargetError(
                f"none of the {self.k} nearest neighbours of image {self.first + image} is a "
                f"{self.bank.names[int(wanted[image])]}; ask for more neighbours, or for the class that they vote for"
            )
        neighbours = self.bank.of_found(self.bank.features, index).to(features)  # b k F, of length 1
        products = F.normalize(features, dim=1)[:, None] * neighbours
        if self.weighting == "equation":
            products = products / similar.abs().clamp_min(1e-12)[..., None]
        mean = (products * chosen[..., None]).sum(dim=1) / chosen.sum(dim=1, keepdim=True)
        if self.weighting == "equation":
            return mean
        scaled = mean / mean.sum(dim=1, keepdim=True).abs().clamp_min(1e-12)
        low, high = scaled.amin(dim=1, keepdim=True), scaled.amax(dim=1, keepdim=True)
        return (scaled - low) / (high - low).clamp_min(1e-12)
