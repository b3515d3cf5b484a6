"""A method as one of pytorch-grad-cam's classes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitscope.attribution import Attribution
from vitscope.bridges.row_targets import RowTarget, of_rows
from vitscope.bridges.single import Single, at_pixels
from vitscope.errors import FlatMapError, MethodError
from vitscope.explainer import Explainer
from vitscope.methods import Method
from vitscope.models import Anatomy
from vitscope.targets import Class

_LOG = logging.getLogger(__name__)

Reshape = Callable[[Tensor], Tensor]
"""Tokens (b n D) -> (b D rows cols)."""

_AUGMENTED = [(flipped, factor) for flipped in (False, True) for factor in (1.0, 0.9, 1.1)]
"""The copies of pytorch-grad-cam's `aug_smooth`: mirrored or not, times a factor; the first is the picture itself."""


class CAM:
    """A method with the face of pytorch-grad-cam's classes.

    Example:
        >>> import torch, vitscope
        >>> model = vitscope.models.load("scenes").model
        >>> with CAM(model=model, method="agcam") as cam:
        ...     cam(input_tensor=torch.randn(2, 3, 96, 96)).shape
        (2, 96, 96)

    Attributes:
        model: the model, left as it is.
        target_layers, reshape_transform: as given.
        outputs: the model's output of the last call, (b c); None before the first.
    """

    def __init__(
        self,
        model: nn.Module | Anatomy | Explainer | str,
        target_layers: Sequence[nn.Module] | None = None,
        reshape_transform: Reshape | None = None,
        *,
        method: str | Method = "daam",
    ) -> None:
        """Understand the model.

        Args:
            model: as for an Explainer, or an Explainer.
            target_layers: not needed. The CAM family is defined at a layer, and is read at the first norm of the last
                block, as that library's documentation advises for transformers; another one is refused there. Other
                methods have no such layer.
            reshape_transform: not needed. Where the CAM family is read, one that lays the patches out otherwise than
                the model does is refused.
            method: one method, "agcam" or "agcam:scores=softmax".

        Raises:
            ModelError: the model is not understood.
            MethodError: an unknown method, one that is not defined for the model, or a layer where it is not read.
        """
        self._single = Single.of(model, method)
        self.model = self._single.model
        self.target_layers, self.reshape_transform = target_layers, reshape_transform
        self.outputs: Tensor | None = None
        if self._at_a_layer:
            self._check_layers()
        given = {"target_layers": target_layers, "reshape_transform": reshape_transform}
        if unneeded := [name for name, value in given.items() if value is not None]:
            _say_once(
                f"{' and '.join(unneeded)}: not needed for {self._single.label}; vitscope finds out where patches are"
            )

    def __repr__(self) -> str:
        return f"CAM({self._single.label} of {self._single.explainer.anatomy.name})"

    def __enter__(self) -> CAM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left in the model that would have to be taken away."""

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[RowTarget] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> np.ndarray[Any, Any]:
        """The maps as that library scales them: the positive part, each from 0 to 1.

        Args:
            input_tensor: (b 3 H W), normalised.
            targets: None for the predicted classes, or one an image: `ClassifierOutputTarget(281)`, another of that
                library's, or any function of one image's output (c) that gives one number.
            aug_smooth: the mean over the mirrored picture and over pixels times 0.9, 1 and 1.1: six passes, all for
                the class predicted for the picture itself where `targets` is None.
            eigen_smooth: False.

        Returns:
            (b H W) float32.

        Raises:
            ImageError: no float tensor of pictures.
            TargetError: a target that does not exist, does not fit the batch, or that a class-agnostic method ignores.
            MethodError: eigen_smooth, or a reshape_transform that would give another map.
            FlatMapError: a map is constant or not finite, or has no positive part.
        """
        if eigen_smooth:
            raise MethodError(
                "eigen_smooth needs the channels of a layer, which a map has no longer; leave it out, or take the "
                "method eigengradcam"
            )
        target = None if targets is None else of_rows(targets)
        found = self._single(input_tensor, target)
        if self._at_a_layer and self.reshape_transform is not None:
            self._check_transform(self.reshape_transform, found)
        self.outputs = found.subject.logits
        maps = [_scaled(found)]
        if aug_smooth:
            predicted = found.subject.target
            if target is None and predicted is not None and found.facts.class_specific:
                target = Class(tuple(predicted.tolist()))
            for flipped, factor in _AUGMENTED[1:]:
                altered = factor * (input_tensor.flip(-1) if flipped else input_tensor)
                scaled = _scaled(self._single(altered, target))
                maps.append(scaled.flip(-1) if flipped else scaled)
        return torch.stack(maps).mean(dim=0).numpy()

    @property
    def _at_a_layer(self) -> bool:
        """Whether the method is defined by the tokens of one layer, as the library's own are."""
        facts = self._single.method.facts
        return facts.family == "cam" or facts.name == "scorecam"

    def _check_layers(self) -> None:
        last = self._single.explainer.anatomy.blocks[-1].norm
        if self.target_layers is None or (len(self.target_layers) == 1 and self.target_layers[0] is last):
            return
        names = {module: name for name, module in self.model.named_modules()}
        there = ", ".join(names.get(layer, type(layer).__name__) for layer in self.target_layers) or "none"
        raise MethodError(
            f"{self._single.label} is read at {names.get(last, type(last).__name__)}, and target_layers names {there}, "
            "which would give another map; leave target_layers out, or stay with pytorch-grad-cam's own class"
        )

    def _check_transform(self, reshape: Reshape, found: Attribution) -> None:
        """Raise MethodError where tokens that carry their own number come out in another order than the patches'."""
        anatomy = self._single.explainer.anatomy
        rows, cols = found.values.shape[1:]
        first, count = len(anatomy.prefix), rows * cols
        width = next(anatomy.blocks[-1].norm.parameters(), torch.empty(1)).shape[-1]
        numbers = torch.arange(first + count, dtype=torch.float32)
        wanted = numbers[first:].view(1, 1, rows, cols).expand(1, width, rows, cols)
        advice = f"tokens before the patches: {first}, patches: {rows} rows of {cols}; leave reshape_transform out"
        try:
            given = reshape(numbers.view(1, -1, 1).expand(1, -1, width).contiguous())
        except Exception as error:
            raise MethodError(f"reshape_transform fails ({type(error).__name__}): {advice}") from error
        if not isinstance(given, Tensor) or given.shape != wanted.shape or not torch.equal(given.cpu(), wanted):
            raise MethodError(f"reshape_transform gives another order or shape than the patches': {advice}")


def _scaled(found: Attribution) -> Tensor:
    """The positive part, cut on the patch grid, at the pixels, each image's from 0 to 1, (b H W) float32."""
    positive = at_pixels(dataclasses.replace(found, values=found.values.clamp(min=0)), "bilinear")
    if not found.facts.trivial:
        _refuse_nothing(found)
    low, high = (edge(positive, dim=(1, 2), keepdim=True) for edge in (torch.amin, torch.amax))
    return (positive - low) / (high - low).clamp(min=torch.finfo(positive.dtype).tiny)  # a trivial map may be constant


def _refuse_nothing(found: Attribution) -> None:
    for image, values in enumerate(found.values):
        if values.max() <= 0:
            raise FlatMapError(
                f"no patch of image {image} speaks for the target, so that {found.label} has no positive part, which "
                "is all that pytorch-grad-cam shows; explain another target, or see the signs with vitscope.explain"
            )


@cache
def _say_once(text: str) -> None:
    _LOG.warning(text)
