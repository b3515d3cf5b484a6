"""transformers' DINOv3 ViT: registers, and positions that rotate queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitscope.models.anatomy import Anatomy, Grid
from vitscope.models.hf.common import Tail, class_in, describe, encoder_blocks, pair
from vitscope.models.parts import Rotate, rotated_after
from vitscope.models.registry import register_adapter


@register_adapter("transformers DINOv3")
def describe_dinov3(model: nn.Module) -> Anatomy | None:
    """Describe a transformers DINOv3ViTModel, which gives the class token; None for another class.

    Raises:
        ModelError: a class of this family that gives no one output a picture.
    """
    return _describe(model) if class_in(model, ("dinov3_vit",), ("DINOv3ViTModel",)) else None


def _describe(model: Any) -> Anatomy:
    prefix = ("class", *(f"register {index + 1}" for index in range(model.config.num_register_tokens)))

    def class_token(tokens: Tensor) -> Tensor:
        normed: Tensor = model.norm(tokens)
        return normed[:, 0]

    def output(images: Tensor) -> Tensor:
        found: Tensor = model(images, return_dict=True).last_hidden_state[:, 0]
        return found

    return describe(
        "transformers DINOv3",
        model,
        model.config,
        prefix=prefix,
        blocks=encoder_blocks(model, model, 1, _rotation(model, len(prefix))),
        final_site=model.norm,
        tail=Tail(class_token),
        call=output,
    )


def _rotation(model: Any, prefix: int) -> Rotate:
    """Rotates by the angles of the model's own module, which reads the size of a picture alone."""
    from transformers.models.dinov3_vit.modeling_dinov3_vit import rotate_half

    height, width = pair(model.config.patch_size)

    def rotate(rows: Tensor, grid: Grid) -> Tensor:
        picture = torch.empty((), dtype=rows.dtype, device=rows.device)
        cos, sin = model.rope_embeddings(picture.expand(1, 1, grid[0] * height, grid[1] * width))
        turned: Tensor = rows * cos + rotate_half(rows) * sin
        return turned

    return rotated_after(prefix, rotate)
