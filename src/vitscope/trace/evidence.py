"""CDAM of every class at once: each patch's effect on the features, from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitscope.models import Anatomy
from vitscope.trace import capture
from vitscope.trace.classpath import feature_map, token_effects
from vitscope.trace.guard import fitted, left_as_found
from vitscope.trace.heads import merge_heads
from vitscope.trace.jacobian import pushed
from vitscope.trace.needs import Blocks, Needs

_NEEDS = Needs(attention=Blocks.LAST, values=Blocks.LAST, sensitivity=Blocks.LAST)


@dataclass(frozen=True)
class Effects:
    """What every patch does to the features, in the model's dtype.

    Attributes:
        logits: the model's output, (b c).
        features: the features f, (b F).
        effects: U, (b rows cols F): J_f(T) dT_n of every patch n.
        grid: patch grid (rows, cols).
    """

    logits: Tensor
    features: Tensor
    effects: Tensor
    grid: tuple[int, int]

    @classmethod
    def join(cls, parts: Sequence[Effects]) -> Effects:
        """Of a batch that was run in parts."""
        if len(parts) == 1:
            return parts[0]
        logits, features, effects = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "features", "effects")
        )
        return cls(logits, features, effects, parts[0].grid)


def effects_on_features(anatomy: Anatomy, images: Tensor) -> Effects:
    """Run the model once on `images` (b 3 H W) and push every token's effect on the class row through to the features.

    The model is left exactly as found.

    Raises:
        ModelError: the model does not fit its description, or its output is not usable.
    """
    grid = anatomy.grid((images.shape[-2], images.shape[-1]))
    with left_as_found(anatomy.model):
        seen = capture.forward(anatomy, fitted(images, anatomy.model), _NEEDS)
        capture.check_tokens(anatomy, seen, grid)
        last = seen.blocks[-1]
        assert last.rows is not None
        tangents = token_effects(anatomy.blocks[-1], last, grid)[len(anatomy.prefix) :]
        features = anatomy.features(seen.final).detach()
        effects = pushed(feature_map(anatomy, seen), merge_heads(last.rows), tangents, features.shape[1])  # n b F
    return Effects(seen.logits, features, effects.transpose(0, 1).unflatten(1, grid), grid)
