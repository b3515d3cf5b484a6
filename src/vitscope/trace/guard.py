"""What a pass is given: pictures that fit the model, which is left as it was found."""

from __future__ import annotations

from torch import Tensor, nn

from vitscope.models.guard import depth, left_as_found

__all__ = ["depth", "fitted", "left_as_found"]


def fitted(images: Tensor, model: nn.Module) -> Tensor:
    """The images without their graph, an ordinary tensor, on the model's device and of its dtype."""
    parameter = next(model.parameters())
    images = images.clone() if images.is_inference() else images.detach()
    return images.to(parameter.device, parameter.dtype, non_blocking=images.is_pinned())
