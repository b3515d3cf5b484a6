"""From a name such as "timm/vit_tiny_patch16_224" to a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import isqrt
from typing import Any

import timm
from torch import Tensor, nn

from vitscope.errors import ModelError, nearest
from vitscope.models.bundled import BUNDLED, FOLDER, PATCH, scenes_vit
from vitscope.models.t2t import PATCH as T2T_PATCH
from vitscope.models.t2t import T2T, t2t_vit
from vitscope.models.weights import outputs_in, put_weights, read_weights

_TIMM_FILES = ("vision_transformer", "deit")


def list_models(pattern: str = "") -> list[str]:
    """Names that `load_model` takes and whose family has an adapter, those that contain `pattern`.

    Not every one has a class token that its head reads; `vitscope.describe` tells for each.
    """
    names = {f"timm/{name}" for file in _TIMM_FILES for name in timm.list_models(module=file)} | {*BUNDLED, *T2T}
    return sorted(name for name in names if pattern.lower() in name.lower())


def load_model(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    pretrained: bool = True,
    image_size: tuple[int, int] | None = None,
) -> nn.Module:
    """Build the model `name`, in evaluation mode, on the CPU.

    Args:
        name: "timm/NAME" (the prefix may be left out), a bundled model: "scenes", "scenes-ssl", "scenes-shortcut", or
            a T2T-ViT, such as "t2t_vit_14", whose published weights are a file to be given.
        weights: a .safetensors or .pth file; the number of classes is taken from it.
        pretrained: where no file is given, fetch the published weights from the hub (a bundled model's are in the
            package); False leaves random weights.
        image_size: (height, width) in pixels, where it shall differ from the model's own.

    Raises:
        ModelError: unknown name, unreadable or ill-fitting weights, or no hub within reach.
    """
    if name in BUNDLED:
        return _bundled(name, weights, pretrained, image_size)
    if name in T2T:
        return _t2t(name, weights, pretrained, image_size)
    library, _, architecture = name.partition("/") if "/" in name else ("timm", "/", name)
    if library != "timm":
        raise ModelError(f"{name}: models of '{library}' cannot be loaded yet; use timm/NAME or pass an nn.Module")
    if not timm.is_model(architecture.split(".")[0]):
        hint = nearest(architecture, [*timm.list_models(), *BUNDLED, *T2T])
        raise ModelError(f"{name}: timm has no such model{hint or '; see vitscope models'}")
    options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    if weights is not None:
        tensors = read_weights(weights)
        outputs = outputs_in(tensors)
        if outputs is not None:
            options["num_classes"] = outputs
        model = _create(architecture, pretrained=False, **options)
        put_weights(model, tensors, str(weights), name)
        return model
    return _create(architecture, pretrained=pretrained, **options)


def _bundled(
    name: str, weights: str | os.PathLike[str] | None, pretrained: bool, image_size: tuple[int, int] | None
) -> nn.Module:
    tensors = read_weights(weights or FOLDER / f"{name}.safetensors") if weights or pretrained else None
    outputs = BUNDLED[name].outputs if tensors is None else outputs_in(tensors) or 0
    if image_size is not None and any(side < PATCH or side % PATCH for side in image_size):
        height, width = image_size
        raise ModelError(f"{name}: cannot be built for {height} x {width} pixels; give multiples of its patch, {PATCH}")
    model: nn.Module = scenes_vit(outputs, **({} if image_size is None else {"img_size": image_size}))
    if tensors is not None:
        put_weights(model, tensors, str(weights or name), name)
    return model.eval()


def _t2t(
    name: str, weights: str | os.PathLike[str] | None, pretrained: bool, image_size: tuple[int, int] | None
) -> nn.Module:
    if weights is None and pretrained:
        raise ModelError(
            f"{name}: its published weights are in no hub; download the file from "
            "github.com/yitu-opensource/T2T-ViT and pass --weights FILE"
        )
    tensors = {} if weights is None else read_weights(weights)
    outputs = outputs_in(tensors)
    model: nn.Module = t2t_vit(
        name, num_classes=1000 if outputs is None else outputs, img_size=image_size or _side_of_positions(tensors)
    )
    if tensors:
        put_weights(model, tensors, str(weights), name)
    return model.eval()


def _side_of_positions(tensors: Mapping[str, Tensor]) -> int:
    """Side in pixels of the square pictures that a T2T-ViT's position embedding was made for; 224 where unknown."""
    positions = tensors.get("pos_embed")
    cells = 0 if positions is None or positions.ndim != 3 else positions.shape[1] - 1
    return isqrt(cells) * T2T_PATCH if cells > 0 and isqrt(cells) ** 2 == cells else 224


def _create(architecture: str, *, pretrained: bool, **options: Any) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(architecture, pretrained=pretrained, **options)
    except Exception as error:  # timm and the hub raise many kinds; each becomes one line with the cause kept
        reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
        action = "pass --weights FILE, or connect to the hub" if pretrained else "check the name and the image size"
        raise ModelError(f"timm/{architecture}: cannot be built ({reason}); {action}") from error
    return model.eval()
