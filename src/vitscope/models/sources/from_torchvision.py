"""torchvision's vision transformers: ViT, Swin and MaxViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from vitscope.errors import ModelError, nearest
from vitscope.images import Preprocessing
from vitscope.models.loaded import Loaded, Request, one_line
from vitscope.models.sources.translate import crop_share
from vitscope.models.weights import load_strictly, outputs_in

_FAMILIES = ("vit_", "swin_", "maxvit_")


def names() -> list[str]:
    """The names of torchvision's vision transformers, without "torchvision/"."""
    return [name for name in torchvision.models.list_models(module=torchvision.models) if name.startswith(_FAMILIES)]


def load(request: Request) -> Loaded:
    """A model of torchvision, with the default of its published weights.

    Its preprocessing and class names are those of these weights. A ViT can be built for another, square, size; its
    position embedding is then resampled by torchvision's own function. Swin takes any size, MaxViT its own alone.

    Raises:
        ModelError: unknown name, ill-fitting weights or size, or no network within reach.
    """
    name = request.rest
    if name not in names():
        raise ModelError(f"{request.name}: torchvision has no such vision transformer{nearest(name, names())}")
    default = get_model_weights(name).DEFAULT
    preprocessing = _preprocessing(name)
    labels = tuple(default.meta["categories"])
    options = _size_options(request, preprocessing)
    tensors, origin = _weights(request, default)
    outputs = None if tensors is None else outputs_in(tensors)
    model: nn.Module = get_model(name, weights=None, **options, **({"num_classes": outputs} if outputs else {}))
    if tensors is not None:
        if isinstance(model, VisionTransformer) and "encoder.pos_embedding" in tensors:
            tensors = _resampled(model, tensors)
        load_strictly(model, tensors, origin, request.name)
    size = request.image_size or preprocessing.size
    named = labels if outputs in (None, len(labels)) else ()
    source = f"torchvision {torchvision.__version__}" + (f", {default}" if origin == str(default) else "")
    return Loaded(model.eval(), preprocessing.replaced(size=size), names=named, source=source)


def _preprocessing(name: str) -> Preprocessing:
    """That of the default published weights, pixel by pixel."""
    published = get_model_weights(name).DEFAULT.transforms()
    return Preprocessing.of_fields(
        size=published.crop_size[0],
        interpolation=published.interpolation.value,
        crop_pct=crop_share(published.crop_size[0], published.resize_size[0]),
        crop_mode="center",
        mean=published.mean,
        std=published.std,
    )


def _size_options(request: Request, preprocessing: Preprocessing) -> dict[str, int]:
    size = request.image_size
    if size is None or size == preprocessing.size or request.rest.startswith("swin"):
        return {}
    if request.rest.startswith("vit") and size[0] == size[1] and size[0] % int(request.rest.split("_")[2]) == 0:
        return {"image_size": size[0]}
    height, width = preprocessing.size
    takes = "square sizes of whole patches" if request.rest.startswith("vit") else f"{height} x {width} pixels alone"
    raise ModelError(f"{request.name}: cannot be built for {size[0]} x {size[1]} pixels; it takes {takes}")


def _weights(request: Request, default: Any) -> tuple[Mapping[str, Tensor] | None, str]:
    """The tensors to load and where they are from; None for random ones."""
    if (weights := request.read) is not None:
        return weights.tensors, weights.label
    if not request.pretrained:
        return None, ""
    try:
        return default.get_state_dict(progress=False, check_hash=True), str(default)
    except Exception as error:  # urllib, sockets and files raise many kinds
        raise ModelError(
            f"{request.name}: cannot fetch its published weights ({one_line(error)}); "
            "pass --weights FILE, or connect to the network"
        ) from error


def _resampled(model: VisionTransformer, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights for the model's size, where only the number of patches differs."""
    wanted, have = model.encoder.pos_embedding.shape, tensors["encoder.pos_embedding"].shape
    side = round((have[1] - 1) ** 0.5)
    if wanted == have or have[-1] != wanted[-1] or side * side != have[1] - 1:
        return tensors
    resampled: Mapping[str, Tensor] = interpolate_embeddings(model.image_size, model.patch_size, dict(tensors))
    return resampled
