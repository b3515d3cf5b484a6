"""What an explanation rests on: versions, model, weights, preprocessing; and what of the picture its grid covers."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vitscope.images import Batch, Geometry, Placement, Preprocessing
from vitscope.models import Anatomy


def provenance_of(
    anatomy: Anatomy, preprocessing: Preprocessing, source: Mapping[str, Any], grid: tuple[int, ...]
) -> dict[str, Any]:
    """All that is needed to repeat an explanation, ready for JSON.

    Args:
        anatomy: of the model.
        preprocessing: of its pictures.
        source: where the model came from.
        grid: rows and columns of the maps.
    """
    return {
        "versions": dict(_versions()),
        "python": platform.python_version(),
        "model": {**source, "name": anatomy.name, "family": anatomy.family},
        "grid": list(grid),
        "prefix_tokens": list(anatomy.prefix),
        "preprocessing": preprocessing.describe(),
        "running": anatomy.running.describe(),
        "activation": anatomy.activation,
    }


def covered_by(anatomy: Anatomy, batch: Batch, grid: tuple[int, int]) -> tuple[Geometry, ...]:
    """Where the grid lies on each original: a model may pad to whole patches, or be shown a part of its input.

    Args:
        anatomy: of the model.
        batch: as the model is given it.
        grid: rows and columns of patches on the image that is cut into patches.
    """
    placement = anatomy.placement(batch.size)
    reach = reach_of(anatomy, placement, grid)
    return tuple(placement.on(geometry, reach) for geometry in batch.geometries)


def reach_of(anatomy: Anatomy, placement: Placement, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of pixels, of the image that is cut into patches, that the grid covers."""
    return placement.inner if anatomy.windows else (grid[0] * anatomy.patch[0], grid[1] * anatomy.patch[1])


@cache
def _versions() -> Mapping[str, str]:
    """Of what took part; read once, since each reading parses a file and takes as long as a block of a small model."""
    return {name: version(name) for name in ("vitscope", "torch", "timm")}


def parameters_of(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def pixels_of(photo: Image.Image) -> str:
    """SHA-256 of an image's size and pixels, as RGB."""
    plain = photo.convert("RGB")
    return hashlib.sha256(f"{plain.width} {plain.height}\n".encode() + plain.tobytes()).hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's values, wherever they are."""
    found: memoryview = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return found
