"""A method as one of Captum's attribution objects."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import Tensor, nn

from vitscope.bridges.single import Single, Upsampling, at_pixels, check_upsampling
from vitscope.errors import ImageError, MethodError, TargetError
from vitscope.explainer import Explainer
from vitscope.methods import Method
from vitscope.models import Anatomy
from vitscope.targets.target import TargetLike

P = ParamSpec("P")
R = TypeVar("R")


def _with_inner(function: Callable[P, R]) -> Callable[P, R]:
    """The same, with itself as `__wrapped__`: Captum's own methods are logged, and its tools call what is within."""

    @wraps(function)
    def outer(*args: P.args, **options: P.kwargs) -> R:
        return function(*args, **options)

    return outer


class CaptumAttribution:
    """A method with the face of Captum's `Attribution`, for code and tools that call `attribute(inputs, target=...)`.

    Example:
        >>> import torch, vitscope
        >>> model = vitscope.models.load("scenes").model
        >>> CaptumAttribution(model, "cdam").attribute(torch.randn(2, 3, 96, 96), target=3).shape
        torch.Size([2, 3, 96, 96])

    Attributes:
        forward_func: the model.
        upsampling: from the patch grid to pixels.
    """

    def __init__(
        self,
        model: nn.Module | Anatomy | Explainer | str,
        method: str | Method = "daam",
        *,
        upsampling: Upsampling = "bilinear",
    ) -> None:
        """Understand the model.

        Args:
            model: as for an Explainer, or an Explainer.
            method: one method, "agcam" or "agcam:scores=softmax".
            upsampling: "bilinear" between the patches' centres or "nearest", the patches as they are, gives a value for
                each pixel and channel, the same in all channels, as Captum's Occlusion does; "none" gives the patch
                grid (b 1 rows cols), as its LayerGradCam does.

        Raises:
            ModelError: the model is not understood.
            MethodError: an unknown method, one that is not defined for the model, or an unknown upsampling.
        """
        check_upsampling(upsampling)
        self._single = Single.of(model, method)
        self.forward_func = self._single.model
        self.upsampling: Upsampling = upsampling

    def __repr__(self) -> str:
        return f"CaptumAttribution({self._single.label} of {self._single.explainer.anatomy.name})"

    @_with_inner
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetLike | Tensor | list[tuple[int, ...]] = None,
        additional_forward_args: None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """The maps, raw: signed where the method is.

        Args:
            inputs: (b 3 H W), normalised, or a tuple of this one tensor.
            target: as Captum takes it: a class for all images (an int, a tensor of one, a tuple of one), or a list or
                tensor with one an image; or anything that an Explainer takes. None explains the predicted classes,
                where Captum asks for an output of one number.
            additional_forward_args: None.

        Returns:
            A tensor of the inputs' shape, dtype and device, or (b 1 rows cols) without upsampling; in a tuple where the
            inputs are.

        Raises:
            ImageError: several inputs, or no float tensor of pictures.
            TargetError: a target that does not exist, does not fit the batch, or that a class-agnostic method ignores.
            MethodError: there are additional arguments.
            FlatMapError: a map is constant or not finite.
        """
        if additional_forward_args is not None:
            raise MethodError(
                "additional_forward_args are not handed on; explain a module that calls the model with them"
            )
        images = inputs
        if isinstance(images, tuple):
            if len(images) != 1:
                raise ImageError(f"{len(images)} inputs are given, and the model reads one; give the pictures alone")
            (images,) = images
        found = self._single(images, _target(target))
        maps = at_pixels(found, self.upsampling)[:, None].to(images)
        if self.upsampling != "none":
            maps = maps.expand(images.shape if images.ndim == 4 else (1, *images.shape)).contiguous()
        return (maps,) if isinstance(inputs, tuple) else maps

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the maps are the inputs times something, for Captum's tools: False."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether there is a `compute_convergence_delta`, for Captum's tools: False."""
        return False


def _target(target: TargetLike | Tensor | list[tuple[int, ...]]) -> TargetLike:
    """What Captum's forms of a target mean for a model whose output is (b c)."""
    if isinstance(target, Tensor):
        if target.ndim > 1 and target.numel() > 1:
            raise TargetError(f"a target of shape {tuple(target.shape)} is none; give one class an image, (B,)")
        listed: int | list[int] = target.item() if target.numel() == 1 else target.tolist()  # type: ignore[assignment]
        return listed
    if isinstance(target, tuple):
        return _only(target)
    if isinstance(target, list):
        return [_only(entry) if isinstance(entry, tuple) else entry for entry in target]
    return target


def _only(entry: tuple[int | str, ...]) -> int | str:
    if len(entry) != 1:
        raise TargetError(
            f"{entry} selects within an output of {len(entry) + 1} axes, and the model's is (images, classes); "
            "give one class, or a list with one an image"
        )
    return entry[0]
