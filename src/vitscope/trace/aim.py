"""What the trace must know of a target: its gradient where it is defined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from vitscope.errors import TargetError
from vitscope.models import Anatomy


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


def seeds_of(anatomy: Anatomy, aims: Sequence[Aim], logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Every target's gradient at the features (m b F), and whether it has any where it is defined (m b).

    Raises:
        TargetError: a target does not give one differentiable value an image.
    """
    defined = [_gradient(aim.score, features if aim.of_features else logits) for aim in aims]
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
            seeds[which] = stacked if matrix is None else stacked @ matrix
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
    taken[changing], _ = seeds_of(anatomy, [aims[slot] for slot in changing], output, features.detach())
    return taken


def _gradient(score: Callable[[Tensor], Tensor], where: Tensor) -> Tensor:
    """The gradient of the targets' sum at `where`, of its shape."""
    with torch.enable_grad():
        leaf = where.detach().requires_grad_()
        value = score(leaf)
        if not isinstance(value, Tensor) or value.shape != leaf.shape[:1]:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TargetError(
                f"a target must give one value an image, ({len(leaf)},), got {found}; return output[:, i]"
            )
        if not value.requires_grad:
            raise TargetError("the target does not depend on the output by differentiable steps; avoid argmax, detach")
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return gradient
