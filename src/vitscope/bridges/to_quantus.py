"""A method as the `explain_func` of Quantus's metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitscope.attribution import Attribution
from vitscope.bridges.single import Single, Upsampling, at_pixels, check_upsampling, named
from vitscope.errors import ImageError, MethodError, TargetError
from vitscope.methods import Method
from vitscope.models import Anatomy

Describe = Callable[[nn.Module], Anatomy]
"""What `vitscope.adapt` says of a model, for models that are not known."""


class ExplainFunc:
    """What Quantus calls for the maps of a batch; made by `quantus`.

    It understands a model at the first call, and again where it is handed another one; the last is kept.
    """

    def __init__(
        self, method: str | Method, any_target: bool, upsampling: Upsampling, describe: Describe | None
    ) -> None:
        check_upsampling(upsampling)
        if upsampling == "none":
            raise MethodError("Quantus compares maps with pixels; give the upsampling bilinear or nearest")
        (self.label,) = named(method)
        self._wanted = method
        self._any_target, self._upsampling, self._describe = any_target, upsampling, describe
        self._last: tuple[nn.Module, Single] | None = None

    def __repr__(self) -> str:
        return f"ExplainFunc({self.label})"

    def __call__(
        self,
        model: nn.Module,
        inputs: np.ndarray[Any, Any] | Tensor,
        targets: np.ndarray[Any, Any] | Tensor | None,
        *,
        device: str | torch.device | None = None,
        method: str | None = None,
    ) -> np.ndarray[Any, Any]:
        """The maps, raw: signed where the method is.

        Args:
            model: the model, which stays where it lies.
            inputs: (b 3 H W), normalised float.
            targets: a class an image, (b) int; None for the predicted ones.
            device, method: what Quantus's metrics and its `evaluate` hand on to every such function; not read: the
                model's own device is taken, and the method is that of `quantus`.

        Returns:
            (b 1 H W) float32.

        Raises:
            ModelError: the model is not understood.
            MethodError: the method is not defined for it.
            ImageError: the inputs are no such pictures.
            TargetError: a class that does not exist, or that a class-agnostic method ignores.
            FlatMapError: a map is constant or not finite.
        """
        images = torch.as_tensor(inputs)
        if images.ndim != 4 or not images.is_floating_point():
            raise ImageError(
                f"inputs of {images.dtype} and shape {tuple(images.shape)} are none of the model; give (B, 3, H, W), "
                "normalised"
            )
        single = self._single_of(model)
        images = images.to(next(model.parameters()).dtype)
        classes = None if targets is None else np.asarray(targets).tolist()
        found = self._explained(single, images, classes)
        return at_pixels(found, self._upsampling)[:, None].numpy()

    def _single_of(self, model: nn.Module) -> Single:
        if self._last is None or self._last[0] is not model:
            known = model if self._describe is None else self._describe(model)
            self._last = model, Single.of(known, self._wanted)
        return self._last[1]

    def _explained(self, single: Single, images: Tensor, classes: list[int] | None) -> Attribution:
        if classes is None or single.method.facts.class_specific:
            return single(images, classes)
        found = single(images, None)
        predicted = found.subject.target
        if not self._any_target and (predicted is None or predicted.tolist() != classes):
            raise TargetError(
                f"{self.label} is class-agnostic, and not all targets are the predicted classes: its map is the same "
                f'for any class; give any_target=True to quantus("{self.label}") to measure that, or use a '
                "class-specific method"
            )
        return found


def quantus(
    method: str | Method = "daam",
    *,
    any_target: bool = False,
    upsampling: Upsampling = "bilinear",
    describe: Describe | None = None,
) -> ExplainFunc:
    """A method as the `explain_func` of Quantus's metrics.

    Example:
        >>> import numpy as np, vitscope
        >>> model = vitscope.models.load("scenes").model
        >>> x_batch, y_batch = np.random.randn(2, 3, 96, 96).astype("float32"), np.array([3, 5])
        >>> quantus("agcam")(model, x_batch, y_batch).shape  # metric(..., explain_func=quantus("agcam"))
        (2, 1, 96, 96)

    Args:
        method: one method, "agcam" or "agcam:scores=softmax".
        any_target: whether a class-agnostic method gives its map for targets that are not the predicted classes too, so
            that metrics measure what that costs; otherwise it refuses them.
        upsampling: from the patch grid to pixels, "bilinear" between the patches' centres or "nearest".
        describe: module -> what `vitscope.adapt` says of it, for a model that is not known. Quantus's randomisation
            metrics hand over copies of the model.

    Raises:
        MethodError: an unknown method or upsampling.
    """
    return ExplainFunc(method, any_target, upsampling, describe)
