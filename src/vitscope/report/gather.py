"""Asks a model for the class lens of pictures.

Where its evidence has no closed form, CDAM is asked for the classes with the highest logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitscope.errors import VitscopeError
from vitscope.explainer import Explainer
from vitscope.report.lens import Lens
from vitscope.targets import Class

ASKED = 10
"""Classes that CDAM is asked for one by one."""


def lens_of(explainer: Explainer, images: Any) -> Lens:
    """The evidence of `images` for every class, or of the few that the model thinks most of; never fails.

    Args:
        explainer: of the model.
        images: as for a call of the explainer.
    """
    if not explainer.anatomy.outputs:
        return Lens(reason="the model has no classifier")
    try:
        return Lens(evidence=explainer.evidence(images))
    except VitscopeError as error:
        reason = str(error)
    try:
        return _asked(explainer, images)
    except VitscopeError:
        return Lens(reason=reason)


def _asked(explainer: Explainer, images: Any) -> Lens:
    """CDAM of the classes with the highest logits, in one pass after the one that finds them."""
    first = explainer(images, "cdam")
    batch = first.subject.batch
    chosen = first.logits.topk(min(ASKED, first.logits.shape[1]), dim=1).indices.cpu()  # b k
    targets = [Class(tuple(column.tolist())) for column in chosen.T]
    maps: Sequence[Tensor] = [one["cdam"].values for one in explainer.each(batch, "cdam", targets)]
    return Lens(classes=chosen, maps=torch.stack([one.cpu() for one in maps], dim=1))
