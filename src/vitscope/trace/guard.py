"""What a pass is given: pictures that fit the model, which is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from vitscope.errors import ModelError, VitscopeError, text_of
from vitscope.models import Anatomy
from vitscope.models.guard import depth, left_as_found
from vitscope.trace.chunks import out_of_memory

__all__ = ["depth", "fitted", "left_as_found", "sized"]


@contextmanager
def sized(anatomy: Anatomy, images: Tensor) -> Iterator[None]:
    """Name both sizes where a pass over images of another size than the model was built for raises any error.

    Raises:
        ModelError: it does.
    """
    try:
        yield
    except Exception as error:
        height, width = images.shape[-2:]
        same = (height, width) == tuple(anatomy.input_size)
        if same or isinstance(error, VitscopeError) or out_of_memory(error):
            raise
        raise ModelError(
            f"{anatomy.name} does not take images of {height} x {width} pixels ({text_of(error)}); it was built for "
            f"{anatomy.input_size[0]} x {anatomy.input_size[1]}: resize the tensor, or give paths, PIL images or uint8 "
            "arrays, which are resized"
        ) from error


def fitted(images: Tensor, model: nn.Module) -> Tensor:
    """The images without their graph, an ordinary tensor, on the model's device and of its dtype."""
    parameter = next(model.parameters())
    images = images.clone() if images.is_inference() else images.detach()
    return images.to(parameter.device, parameter.dtype, non_blocking=images.is_pinned())
