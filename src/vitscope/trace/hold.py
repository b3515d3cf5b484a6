"""Targets held at the pictures that are explained, so that altered copies are scored by what was asked of these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitscope.activation import Activation, activated
from vitscope.trace.aim import Aim, Slope, scored


@dataclass(frozen=True)
class Held:
    """The targets, with what they took from the unaltered pictures: the predicted class, the neighbours' weights.

    Rows of an output (n c), or of features (n F), belong to altered pictures, and `image` (n) says of which one each is
    a copy. A target whose gradient is the same everywhere is its value on the unaltered picture plus that gradient
    times the change; any other is asked for a batch in which each image's copy stands in its original's place.

    Attributes:
        aims: the targets.
        slopes: their values and gradients at the unaltered pictures.
        logits: the output there, (b c).
        activation: what turns the output into probabilities.
    """

    aims: tuple[Aim, ...]
    slopes: tuple[Slope, ...]
    logits: Tensor
    activation: Activation

    @property
    def of_features(self) -> bool:
        """Whether any target reads the features."""
        return any(aim.of_features for aim in self.aims)

    def classes(self, slot: int) -> Tensor | None:
        """The class of each unaltered picture (b), where target `slot` is a class's logit or probability."""
        return None if self.aims[slot].of_features else self.aims[slot].classes(self.logits)

    def has_probability(self, slot: int) -> bool:
        """Whether target `slot` is scored by `probabilities` as one: a class whose head has any, or a probability."""
        return self.classes(slot) is not None and (self.activation != "none" or not self.aims[slot].linear)

    def scores(self, output: Tensor, features: Tensor | None, image: Tensor) -> Tensor:
        """Every target's value, (n m)."""
        return torch.stack([self.score(slot, output, features, image) for slot in range(len(self.aims))], dim=1)

    def score(self, slot: int, output: Tensor, features: Tensor | None, image: Tensor) -> Tensor:
        """One target's value, (n), in float32 at least, with its graph."""
        aim, slope = self.aims[slot], self.slopes[slot]
        if aim.of_features:
            assert features is not None
        where = at_least_float32(features if aim.of_features and features is not None else output)
        before, gradient = at_least_float32(slope.where), at_least_float32(slope.gradient)
        if aim.linear:
            constant = at_least_float32(slope.value) - (gradient * before).sum(dim=1)
            linear: Tensor = (gradient[image] * where).sum(dim=1) + constant[image]
            return linear
        return _in_place(aim, where, before, image)

    def probabilities(self, output: Tensor, features: Tensor | None, image: Tensor) -> Tensor:
        """For a class its probability, where the head has any; for another target its value, (n m)."""
        found = []
        for slot, aim in enumerate(self.aims):
            classes = self.classes(slot)
            if classes is None or not aim.linear or self.activation == "none":  # no class, or already its probability
                found.append(self.score(slot, output, features, image))
            else:
                chances = activated(at_least_float32(output), self.activation)
                found.append(chances.gather(1, classes[image][:, None])[:, 0])
        return torch.stack(found, dim=1)


def at_least_float32(values: Tensor) -> Tensor:
    """In float32 where they are in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _in_place(aim: Aim, where: Tensor, before: Tensor, image: Tensor) -> Tensor:
    """Score rows `where` (n F) in batches of the originals' number and order, `before` (b F) where there is no copy."""
    same = image[:, None] == torch.arange(len(before), device=image.device)
    turn = (same.cumsum(dim=0) - 1).gather(1, image[:, None])[:, 0]  # how many copies of the same image come before
    order, values = [], []
    for number in range(int(turn.max()) + 1):
        rows = (turn == number).nonzero()[:, 0]
        batch = before.index_put((image[rows],), where[rows])
        values.append(scored(aim, batch)[image[rows]])
        order.append(rows)
    return torch.cat(values)[torch.cat(order).argsort()]
