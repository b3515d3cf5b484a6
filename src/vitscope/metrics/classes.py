"""Class sensitivity: whether a map answers the class that is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.errors import MetricError
from vitscope.metrics.base import Asked, Facts, GridMaps, Pictures, Result, Truth, described
from vitscope.metrics.localization import energy_in_mask
from vitscope.metrics.registry import register_metric
from vitscope.metrics.similarity import pearson, spearman


@register_metric
@dataclass(frozen=True)
class ClassSensitivity:
    """Correlation between the maps of the predicted class and of another: lower is better; 1 is deaf to the class.

    CDAM's paper has a benchmark of this name, whose exact definition is unknown; this is our declared one.

    Attributes:
        other: the "second" class in the model's order, or a "random" one.
    """

    other: Literal["second", "random"] = "second"

    facts: ClassVar[tuple[Facts, ...]] = described(
        "class_sensitivity",
        "pair",
        "none",
        "after arXiv 2312.02364",
        {
            "pearson": ("Correlation of the maps of two classes", False),
            "spearman": ("Rank correlation of the maps of two classes", False),
        },
        limits=(-1.0, 1.0),
    )
    parameter: ClassVar[str] = "other"

    @property
    def asks(self) -> tuple[Asked, Asked]:
        """The two classes."""
        return ("predicted", self.other)

    def __call__(self, first: GridMaps, second: GridMaps, truth: Truth) -> Result:
        """A correlation a picture, on the patch grid; NaN where either map is constant."""
        pair = first.values, second.values
        return Result({"pearson": pearson(*pair), "spearman": spearman(*pair)})


@register_metric
@dataclass(frozen=True)
class TwoObjects:
    """Where the positive mass goes when a picture of two things is asked for either.

    With m(c, o) the share of the positive mass of class c's map on object o:

        asked      = (m(A, A) + m(B, B)) / 2       other = (m(A, B) + m(B, A)) / 2
        preference = asked / (asked + other)       0.5 is deaf to the question
        shift      = asked - other                 what moves from an object when the other is asked, on average

    The definition is ours; protocols with two objects leave it open.
    """

    facts: ClassVar[tuple[Facts, ...]] = (
        *described(
            "two_objects",
            "pair",
            "two masks",
            "after arXiv 2312.02364",
            {
                "asked": ("Mass on the asked class's object", True),
                "other": ("Mass on the other object", False),
                "preference": ("Share of the asked one in the mass on both", True),
            },
        ),
        *described(
            "two_objects",
            "pair",
            "two masks",
            "after arXiv 2312.02364",
            {"shift": ("Mass that moves to the asked object", True)},
            limits=(-1.0, 1.0),
        ),
    )
    parameter: ClassVar[str] = ""

    @property
    def asks(self) -> tuple[Asked, Asked]:
        """The two objects' classes."""
        return ("object", "other object")

    def __call__(self, first: GridMaps, second: GridMaps, truth: Truth) -> Result:
        """Four values a picture; the preference is NaN where no mass lies on either object."""
        here, there = truth.need("masks", "two_objects"), truth.need("others", "two_objects")
        (aa, ab), (ba, bb) = (
            [energy_in_mask(maps.bilinear, mask).double().cpu() for mask in (here, there)] for maps in (first, second)
        )
        asked, other = (aa + bb) / 2, (ab + ba) / 2
        preference = torch.where(asked + other > 0, asked / (asked + other), torch.nan)
        return Result({"asked": asked, "other": other, "preference": preference, "shift": asked - other})


def asked_class(which: Asked, logits: Tensor, pictures: Pictures, seed: int = 0) -> Tensor:
    """The class (b) whose map a metric asks for.

    Args:
        which: see `Asked`; the things of a picture of two are known to its dataset alone.
        logits: (b c) of the pictures as they are.
        pictures: of the batch; a "random" class is drawn by their keys, never the predicted one.
        seed: of "random".

    Raises:
        MetricError: the dataset must say it, or the model has one output only.
    """
    if which in ("explained", "label"):
        return pictures.classes("label" if which == "label" else "explained")
    if which in ("object", "other object"):
        raise MetricError(f"which class is the {which} only the dataset knows; give its class")
    if which == "predicted":
        return logits.argmax(dim=1)
    if logits.shape[1] < 2:
        raise MetricError("the model has one output, so there is no other class; leave class_sensitivity out")
    if which == "second":
        return logits.topk(2, dim=1).indices[:, 1]
    steps = [torch.randint(1, logits.shape[1], (), generator=one) for one in pictures.generators(seed, "random class")]
    return (logits.argmax(dim=1) + torch.stack(steps).to(logits.device)) % logits.shape[1]
