"""The original DINO models, from the repository of their authors by torch.hub."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitscope.errors import ModelError, nearest
from vitscope.images import Preprocessing
from vitscope.models.loaded import Loaded, Request, one_line
from vitscope.models.sources.translate import crop_share
from vitscope.models.weights import load_strictly

REPOSITORY = "facebookresearch/dino:main"
MODELS = ("dino_vits16", "dino_vits8", "dino_vitb16", "dino_vitb8")


def names() -> list[str]:
    """The names of the models, without "hub/"."""
    return list(MODELS)


def load(request: Request) -> Loaded:
    """A DINO model by torch.hub: this downloads and RUNS THE CODE of github.com/facebookresearch/dino.

    Its preprocessing is that of the repository's evaluation: 256 pixels, bicubic, the central 224, ImageNet's mean and
    standard deviation. It has no classifier. Needs a network, unless torch.hub has the repository in its cache.

    Raises:
        ModelError: unknown name, ill-fitting weights, or no network within reach.
    """
    if request.rest not in MODELS:
        hint = nearest(request.rest, MODELS) or f"; known: {', '.join(MODELS)}"
        raise ModelError(f"{request.name}: no such model{hint}")
    published = request.pretrained and request.weights is None
    try:
        hub: Any = torch.hub
        model: nn.Module = hub.load(
            REPOSITORY, request.rest, pretrained=published, trust_repo=True, skip_validation=True, verbose=False
        )
    except Exception as error:  # urllib, the repository's code and files raise many kinds
        raise ModelError(
            f"{request.name}: torch.hub cannot load {REPOSITORY} ({one_line(error)}); connect to the network, or use "
            f"timm's copy of these weights, as timm/vit_small_patch16_224.dino"
        ) from error
    if (weights := request.read) is not None:
        tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("head.")}
        load_strictly(model, tensors, weights.label, request.name)
    preprocessing = Preprocessing.of_fields(
        size=request.image_size or 224,
        interpolation="bicubic",
        crop_pct=crop_share(224, 256),
        crop_mode="center",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    return Loaded(model.eval(), preprocessing, source=f"torch.hub {REPOSITORY}")
