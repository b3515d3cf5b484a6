"""What the trace must know of a target: its gradient where it is defined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vitscope.errors import TargetError, VitscopeError, text_of
from vitscope.models import Anatomy
from vitscope.trace.chunks import out_of_memory


class Aim(Protocol):
    """A target, to the trace."""

    @property
    def of_features(self) -> bool:
        """Whether it is a function of the features (b F), which the classifier reads, not of the output (b c)."""
        ...

    @property
    def linear(self) -> bool:
        """Whether its gradient there is the same at altered tokens: so of a class's logit, not of a probability."""
        ...

    def score(self, where: Tensor, /) -> Tensor:
        """From the output, or the features, with their graph, to one value an image (b)."""
        ...

    def classes(self, output: Tensor) -> Tensor | None:
        """The class of every image (b), or None where the target is no class."""
        ...


@dataclass(frozen=True)
class Slope:
    """A target where it is defined: at the output (b c), or the features (b F), of the unaltered pictures.

    Attributes:
        where: that output, or these features.
        value: the target's value there, (b).
        gradient: its gradient there, of the shape of `where`.
    """

    where: Tensor
    value: Tensor
    gradient: Tensor


def slopes_of(aims: Sequence[Aim], logits: Tensor, features: Tensor) -> list[Slope]:
    """Every target's value and gradient.

    Raises:
        TargetError: a target does not give one differentiable value an image.
    """
    return [_slope(aim, features if aim.of_features else logits) for aim in aims]


def seeds_of(anatomy: Anatomy, aims: Sequence[Aim], slopes: Sequence[Slope], features: Tensor) -> tuple[Tensor, Tensor]:
    """Every target's gradient at the features (m b F), and whether it has any where it is defined (m b)."""
    defined = [slope.gradient for slope in slopes]
    if anatomy.classifier is None:
        seeds = torch.stack(defined)
        return seeds, seeds.any(dim=-1)
    weight = anatomy.classifier.weight.detach()
    seeds = features.new_empty(len(aims), *features.shape)
    reached = torch.empty(len(aims), len(features), dtype=torch.bool, device=features.device)
    of_features = torch.tensor([aim.of_features for aim in aims], device=features.device)
    for which, matrix in ((of_features, None), (~of_features, weight)):
        if which.any():
            stacked = torch.stack([gradient for gradient, one in zip(defined, which.tolist(), strict=True) if one])
            seeds[which] = stacked if matrix is None else stacked.to(matrix.dtype) @ matrix
            reached[which] = stacked.any(dim=-1)
    return seeds, reached


def seeds_at(anatomy: Anatomy, aims: Sequence[Aim], seeds: Tensor, features: Tensor) -> Tensor:
    """Every target's gradient (m b F) at other features (b F) than those that it was first taken at, `seeds` (m b F).

    Of linear targets it stays; of the others it is taken again.
    """
    changing = [slot for slot, aim in enumerate(aims) if not aim.linear]
    if not changing:
        return seeds
    taken = seeds.clone()
    output = anatomy.output(features).detach()
    again = [aims[slot] for slot in changing]
    taken[changing], _ = seeds_of(anatomy, again, slopes_of(again, output, features.detach()), features.detach())
    return taken


def scored(aim: Aim, where: Tensor) -> Tensor:
    """The target's value of every image (b) at an output (b c), or features (b F).

    Raises:
        TargetError: it raises an error of its own.
    """
    try:
        return aim.score(where)
    except Exception as error:  # a function of the user's may raise anything
        if isinstance(error, VitscopeError) or out_of_memory(error):
            raise
        given = "features, a tensor (images, features)" if aim.of_features else "output, a tensor (images, outputs)"
        raise TargetError(
            f"the target fails: it is given the model's {given} of shape {tuple(where.shape)}, and raises "
            f"{text_of(error)}; return one value an image, such as output[:, 0]"
        ) from error


def _slope(aim: Aim, where: Tensor) -> Slope:
    with torch.enable_grad():
        leaf = where.detach().requires_grad_()
        value = scored(aim, leaf)
        if not isinstance(value, Tensor) or value.shape != leaf.shape[:1]:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TargetError(
                f"a target must give one value an image, ({len(leaf)},), got {found}; return output[:, i]"
            )
        if value.is_complex():
            raise TargetError(f"a target must give real values, got {value.dtype}; return their .real or .abs()")
        (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True) if value.requires_grad else (None,)
        if gradient is None:
            raise TargetError("the target does not depend on the output by differentiable steps; avoid argmax, detach")
    return Slope(leaf.detach(), value.detach(), gradient)
