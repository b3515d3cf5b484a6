"""Stability: whether a map stays when the picture hardly changes, and moves along when the picture moves.

metric.alterations(pictures) -> altered pictures, and how their maps lie on the original's
over_alterations(...)           explains them for all methods at once, in full batches, and compares
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from vitscope.errors import MetricError
from vitscope.metrics.base import Facts, Pictures, Result, described
from vitscope.metrics.registry import register_metric
from vitscope.metrics.similarity import pearson, spearman

Similarity = Literal["spearman", "pearson"]
Pair = tuple[Tensor, Tensor]


class Explains(Protocol):
    """All methods' maps of altered pictures, from one trace."""

    def __call__(self, pictures: Tensor, index: Tensor) -> Mapping[str, Tensor]:
        """Label -> maps (k rows cols) of pictures (k 3 H W) whose originals are `index` (k), of the SAME classes as
        theirs; NaN where a method has none."""
        ...


@dataclass(frozen=True)
class Alteration:
    """One way of altering every picture.

    Attributes:
        make: indices of images (k) -> these images altered, (k 3 H W).
        aligned: the original's maps and the altered's, (b rows cols) each -> the parts of both that show the same.
    """

    make: Callable[[Tensor], Tensor]
    aligned: Callable[[Tensor, Tensor], Pair] = lambda original, altered: (original, altered)


class StabilityMetric(Protocol):
    """A metric of maps of altered pictures."""

    facts: ClassVar[tuple[Facts, ...]]
    parameter: ClassVar[str]

    def alterations(self, pictures: Pictures) -> Sequence[Alteration]:
        """What shall be explained too."""
        ...

    def compare(self, pairs: Sequence[Pair]) -> Result:
        """One value a picture, of one method's aligned maps for every alteration."""
        ...


@register_metric
@dataclass(frozen=True)
class NoiseStability:
    """Mean similarity of the map and the maps under small Gaussian noise on the normalised picture.

    Attributes:
        level: the noise's standard deviation, in units of the normalised picture.
        samples: noisy copies a picture.
        similarity: of the patch grids.
        seed: of the noise.
    """

    level: float = 0.1
    samples: int = 5
    similarity: Similarity = "spearman"
    seed: int = 0

    facts: ClassVar[tuple[Facts, ...]] = described(
        "noise",
        "explain",
        "none",
        "after arXiv 1901.09392",
        {"similarity": ("Similarity of the map under small noise", True)},
        limits=(-1.0, 1.0),
    )
    parameter: ClassVar[str] = "level"

    def alterations(self, pictures: Pictures) -> list[Alteration]:
        """A noisy copy a sample."""
        return [
            Alteration(_added(pictures, self.seed, f"noise {sample}", self.level, "normal"))
            for sample in range(_some(self.samples))
        ]

    def compare(self, pairs: Sequence[Pair]) -> Result:
        """A mean similarity a picture."""
        return Result({"similarity": _mean_alike(pairs, self.similarity)})


@register_metric
@dataclass(frozen=True)
class Equivariance:
    """Whether the map of a flipped or shifted picture is the flipped or shifted map.

    `flip` is left to right. For `shift` the picture moves by whole patches right and down, and left and up, its edge
    repeated; the maps are compared where both show the same patches.

    Attributes:
        patches: how far it moves.
        similarity: of the patch grids.
    """

    patches: int = 1
    similarity: Similarity = "spearman"

    facts: ClassVar[tuple[Facts, ...]] = described(
        "equivariance",
        "explain",
        "none",
        "none: ours",
        {
            "flip": ("Similarity after a flip, flipped back", True),
            "shift": ("Similarity after a shift, shifted back", True),
        },
        limits=(-1.0, 1.0),
    )
    parameter: ClassVar[str] = ""

    def alterations(self, pictures: Pictures) -> list[Alteration]:
        """A flip, and two shifts.

        Raises:
            MetricError: the shift is as long as the picture, or not of whole pixels.
        """
        n = self.patches
        down, right = (int(n * side) for side in pictures.patch)
        if (down, right) != (n * pictures.patch[0], n * pictures.patch[1]):
            height, width = pictures.patch
            raise MetricError(
                f"equivariance: an image cannot be shifted by {n} patches of {height:g} x {width:g} pixels, which are "
                "no whole pixels; leave this metric out, or take the resize out of the model and into preprocessing="
            )
        if n < 1 or down >= pictures.size[0] or right >= pictures.size[1]:
            raise MetricError(f"equivariance: a shift by {n} patches leaves nothing to compare; give fewer")
        tensor = pictures.tensor
        return [
            Alteration(lambda index: tensor[index].flip(-1), lambda a, b: (a, b.flip(-1))),
            Alteration(lambda index: _shifted(tensor[index], down, right), lambda a, b: (a[:, :-n, :-n], b[:, n:, n:])),
            Alteration(
                lambda index: _shifted(tensor[index], -down, -right), lambda a, b: (a[:, n:, n:], b[:, :-n, :-n])
            ),
        ]

    def compare(self, pairs: Sequence[Pair]) -> Result:
        """Both similarities a picture."""
        return Result(
            {"flip": _mean_alike(pairs[:1], self.similarity), "shift": _mean_alike(pairs[1:], self.similarity)}
        )


@register_metric
@dataclass(frozen=True)
class SensitivityMax:
    """Sensitivity-max: the largest relative change of the map within a small cube around the picture.

        SENS_MAX = max over |delta|_inf <= r of |map(x + delta) - map(x)| / |map(x)|

    by uniform draws, on the patch grid, Euclidean norms; 0 / 0 is 0, as in Captum.

    Attributes:
        radius: r, in units of the normalised picture.
        samples: draws a picture.
        seed: of the draws.

    Source: Yeh et al. 2019 (1901.09392), Definition 3.1, divided by the map's norm as in its experiments.
    """

    radius: float = 0.02
    samples: int = 10
    seed: int = 0

    facts: ClassVar[tuple[Facts, ...]] = described(
        "sensitivity",
        "explain",
        "none",
        "arXiv 1901.09392",
        {"max": ("Largest relative change of the map", False)},
        limits=(0.0, float("inf")),
    )
    parameter: ClassVar[str] = "radius"

    def alterations(self, pictures: Pictures) -> list[Alteration]:
        """A noisy copy a sample."""
        return [
            Alteration(_added(pictures, self.seed, f"cube {sample}", self.radius, "uniform"))
            for sample in range(_some(self.samples))
        ]

    def compare(self, pairs: Sequence[Pair]) -> Result:
        """A value a picture."""
        changes = []
        for original, altered in pairs:
            a, b = original.flatten(1).double(), altered.flatten(1).double()
            length = a.norm(dim=1)
            changes.append((a - b).norm(dim=1) / torch.where(length == 0, 1.0, length))
        return Result({"max": torch.stack(changes).amax(dim=0).cpu()})


def over_alterations(
    metric: StabilityMetric, pictures: Pictures, maps: Mapping[str, Tensor], explains: Explains, at_once: int = 64
) -> dict[str, Result]:
    """One metric of all methods, their altered pictures explained together.

    Args:
        metric: of this module.
        pictures: the batch.
        maps: label -> the maps (b rows cols) of the pictures as they are.
        explains: gives the altered pictures' maps by the same labels.
        at_once: pictures in one call.

    Returns:
        label -> result; a method that `explains` leaves out is left out.
    """
    alterations = metric.alterations(pictures)
    jobs = [(a, image) for a in range(len(alterations)) for image in range(len(pictures))]
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(jobs), at_once):
        part = jobs[start : start + at_once]
        index = torch.tensor([image for _, image in part])
        made = []
        for which in dict.fromkeys(a for a, _ in part):
            mine = torch.tensor([image for a, image in part if a == which], device=pictures.tensor.device)
            made.append(alterations[which].make(mine))
        for label, values in explains(torch.cat(made), index).items():
            found.setdefault(label, []).append(values.detach().cpu())
    results = {}
    for label, parts in found.items():
        every = torch.cat(parts)
        if label in maps and len(every) == len(jobs):
            original = maps[label].detach().cpu()
            pairs = zip(alterations, every.split(len(pictures)), strict=True)
            results[label] = metric.compare([one.aligned(original, altered) for one, altered in pairs])
    return results


def _mean_alike(pairs: Sequence[Pair], similarity: Similarity) -> Tensor:
    alike = {"spearman": spearman, "pearson": pearson}[similarity]
    return torch.stack([alike(a, b) for a, b in pairs]).mean(dim=0)


def _added(
    pictures: Pictures, seed: int, purpose: str, size: float, kind: Literal["normal", "uniform"]
) -> Callable[[Tensor], Tensor]:
    """Pictures plus noise that their keys decide."""

    def make(index: Tensor) -> Tensor:
        generators = pictures.generators(seed, purpose)
        noise = []
        for image in index.tolist():
            shape = pictures.tensor.shape[1:]
            drawn = torch.rand(shape, generator=generators[image]) * 2 - 1
            noise.append(torch.randn(shape, generator=generators[image]) if kind == "normal" else drawn)
        return pictures.tensor[index] + size * torch.stack(noise).to(pictures.tensor)

    return make


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Moved by so many pixels, the edge repeated."""
    for dim, by in ((2, down), (3, right)):
        n = images.shape[dim]
        sources = (torch.arange(n, device=images.device) - by).clamp(0, n - 1)
        images = images.index_select(dim, sources)
    return images


def _some(samples: int) -> int:
    if samples < 1:
        raise MetricError(f"{samples} samples are none; give 1 or more")
    return samples
