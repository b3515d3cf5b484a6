"""T2T-ViT, which no library has: our own module, with the weights in a file that its authors publish."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import timm
from torch import Tensor

from vitscope.errors import ModelError, nearest
from vitscope.images import Preprocessing
from vitscope.models.loaded import Loaded, Request, own_names
from vitscope.models.t2t import PATCH, T2T, t2t_vit
from vitscope.models.weights import outputs_in, put_weights


def names() -> list[str]:
    """The published sizes."""
    return sorted(T2T)


def load(request: Request) -> Loaded:
    """A T2T-ViT with the weights of a file, or random ones; classes and picture size are taken from the file.

    Raises:
        ModelError: unknown name, ill-fitting weights, or no file: no hub has the published weights.
    """
    if request.rest not in T2T:
        hint = nearest(request.rest, list(T2T)) or f"; known: {', '.join(sorted(T2T))}"
        raise ModelError(f"{request.name}: no such T2T-ViT{hint}")
    if request.weights is None and request.pretrained:
        raise ModelError(
            f"{request.name}: its published weights are in no hub; download the file from "
            "github.com/yitu-opensource/T2T-ViT and pass --weights FILE"
        )
    weights = request.read
    tensors = {} if weights is None else weights.tensors
    outputs = outputs_in(tensors)
    size = request.image_size or _side_of_positions(tensors)
    model = t2t_vit(request.rest, num_classes=1000 if outputs is None else outputs, img_size=size)
    if weights is not None:
        put_weights(model, tensors, weights.label, request.name)
    model.eval()
    return Loaded(model, Preprocessing.of_model(model), names=own_names(model), source=f"timm {timm.__version__}")


def _side_of_positions(tensors: Mapping[str, Tensor]) -> int:
    """Side in pixels of the square pictures that a T2T-ViT's position embedding was made for; 224 where unknown."""
    positions = tensors.get("pos_embed")
    cells = 0 if positions is None or positions.ndim != 3 else positions.shape[1] - 1
    return isqrt(cells) * PATCH if cells > 0 and isqrt(cells) ** 2 == cells else 224
