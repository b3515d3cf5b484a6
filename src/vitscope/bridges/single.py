"""What the bridges share: one method on one model, for pictures that are tensors already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vitscope.attribution import Attribution
from vitscope.errors import ImageError, MethodError
from vitscope.explainer import Explainer
from vitscope.images import Preprocessing
from vitscope.methods import Method, as_method, choose
from vitscope.models import Anatomy, anatomy_of
from vitscope.targets.target import TargetLike

Upsampling = Literal["bilinear", "nearest", "none"]
"""From the patch grid to the input's pixels: between the patches' centres, the patches as they are, or not at all."""


@dataclass(frozen=True)
class Single:
    """One method on one model.

    Attributes:
        explainer: of the model.
        label: the method with its options, as the user named it.
        method: what it names.
    """

    explainer: Explainer
    label: str
    method: Method

    @classmethod
    def of(cls, model: nn.Module | Anatomy | Explainer | str, method: str | Method) -> Single:
        """Understand the model, unless an Explainer has done so.

        Raises:
            ModelError: the model is not understood.
            MethodError: an unknown method, a group of methods, or one that is not defined for the model.
        """
        ((label, chosen),) = named(method).items()
        explainer = model if isinstance(model, Explainer) else _explainer_of(model)
        if reason := explainer.why_not(label, chosen):
            raise MethodError(reason)
        return cls(explainer, label, chosen)

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.explainer.anatomy.model

    def __call__(self, images: Tensor, target: TargetLike) -> Attribution:
        """The maps of `images` (b 3 H W), which are normalised as the model takes them.

        Raises:
            ImageError: no float tensor, or no batch of pictures.
            TargetError, FlatMapError: as of an Explainer.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
            raise ImageError(f"{kind} is no input of the model; give the normalised float tensor (B, 3, H, W) it takes")
        device = next(self.model.parameters()).device
        return self.explainer(images.detach().to(device), {self.label: self.method}, target)[self.label]


def named(method: str | Method) -> dict[str, Method]:
    """The one method that a user's words mean, by its label.

    Raises:
        MethodError: an unknown method, or a group of methods.
    """
    if isinstance(method, str):
        as_method(method)  # which refuses a group
    return dict(choose([method]).methods)


def check_upsampling(upsampling: str) -> None:
    """Raise MethodError where it is none."""
    if upsampling not in get_args(Upsampling):
        raise MethodError(f"upsampling '{upsampling}' is unknown; give {', '.join(get_args(Upsampling))}")


def at_pixels(attribution: Attribution, upsampling: Upsampling) -> Tensor:
    """Raw maps of a tensor at its pixels, (b H W) float32, or with "none" on the patch grid (b rows cols).

    Pixels beyond the last whole patch, which the model does not read, are 0.
    """
    if upsampling == "none":
        return attribution.values
    pixels = attribution.to_pixels(upsampling)
    assert isinstance(pixels, Tensor)  # a tensor's pictures are of one size
    return torch.nan_to_num(pixels, nan=0.0)


def _explainer_of(model: nn.Module | Anatomy | str) -> Explainer:
    """An Explainer of a model whose pictures come prepared, so that nothing has to be known of how they are."""
    if isinstance(model, str):
        return Explainer(model)
    anatomy = model if isinstance(model, Anatomy) else anatomy_of(model)
    as_they_are = Preprocessing(anatomy.input_size, "bilinear", 1.0, "center", (0.0,) * 3, (1.0,) * 3)
    return Explainer(model, preprocessing=as_they_are)
