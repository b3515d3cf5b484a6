"""timm's Beit (BEiT, BEiT-v2) and Eva (EVA, EVA-02, DINOv3, PE, RoPE ViTs): biases by position, rotary positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.eva import AttentionRope, Eva, EvaAttention, EvaBlock
from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Block, Grid
from vitscope.models.parts import (
    Projections,
    Rotate,
    apart,
    fused,
    joint,
    outputs_of,
    reading,
    rotated_after,
    scaled_by,
    timm_like_block,
)
from vitscope.models.registry import register_adapter
from vitscope.models.timm_vit import (
    attention_pool,
    check_kept,
    classifier_of,
    fixed_or_dynamic_grid,
    name_of,
    prefix_of,
)


@register_adapter("timm Beit")
def describe_beit(model: nn.Module) -> Anatomy | None:
    """Describe a timm Beit; None for another class."""
    if not isinstance(model, Beit):
        return None
    return _describe("timm Beit", model, lambda _: None)


@register_adapter("timm Eva")
def describe_eva(model: nn.Module) -> Anatomy | None:
    """Describe a timm Eva; None for another class.

    Raises:
        ModelError: post-norm or gated blocks, grouped queries, or positions that depend on more than the grid.
    """
    if not isinstance(model, Eva):
        return None
    return _describe("timm Eva", model, lambda index: _rotation(model, index))


def _describe(family: str, model: Any, rotation: Callable[[int], Rotate | None]) -> Anatomy:
    check_kept(model)
    if not model.global_pool:
        raise ModelError("the model gives an output for every token; build it with global_pool='avg' or 'token'")
    pool = getattr(model, "attn_pool", None)
    rows = 1 if pool is None and model.global_pool == "token" else None
    blocks = tuple(_block(f"blocks.{index}", block, rows, rotation(index)) for index, block in enumerate(model.blocks))
    classifier = classifier_of(model)

    def features(rows: Tensor) -> Tensor:
        if pool is None:
            read: Tensor = model.forward_head(model.norm(rows), pre_logits=classifier is not None)
        else:
            read = model.head_drop(model.fc_norm(rows[:, 0]))
            read = read if classifier is not None else model.head(read)
        return read

    return Anatomy(
        family=family,
        name=name_of(model),
        model=model,
        prefix=prefix_of(model),
        blocks=blocks if pool is None else (*blocks, attention_pool("attn_pool", model, include_prefix=True)),
        final_site=model.norm if pool is None else None,
        features=features,
        classifier=classifier,
        patch=tuple(model.patch_embed.patch_size),
        grid=fixed_or_dynamic_grid(model),
        input_size=tuple(model.patch_embed.img_size),
        flexible_size=bool(getattr(model, "dynamic_img_size", False)),
        outputs=outputs_of(model.head, int(model.num_classes)),
    )


def _rotation(model: Any, index: int) -> Rotate | None:
    """How the queries and keys of block `index` are turned by their positions, or None."""
    rope = model.rope
    if rope is None:
        return None

    def rotation(rows: Tensor, grid: Grid) -> Tensor:
        if model.dynamic_img_size or not hasattr(rope, "feat_shape"):
            angles = rope.get_embed(shape=grid)
        else:
            angles = rope.get_embed()
        mine = angles[index] if getattr(model, "rope_mixed", False) else angles
        turned: Tensor = apply_rot_embed_cat(rows, mine, half=getattr(model.blocks[index].attn, "rotate_half", False))
        return turned

    return rotated_after(model.blocks[index].attn.num_prefix_tokens, rotation)


def _block(name: str, block: Any, rows: int | None, rotate: Rotate | None) -> Block:
    attention = block.attn
    kind = type(block).__name__ if isinstance(attention, EvaAttention | AttentionRope | BeitAttention) else ""
    if not kind or (not isinstance(attention, BeitAttention) and type(block) is not EvaBlock):
        raise ModelError(f"{name} is a {type(block).__name__}, whose rows vitscope cannot follow yet")
    if getattr(attention, "gate", None) is not None:
        raise ModelError(f"{name} gates its attention output by its input; gated attention is not supported yet")
    if getattr(attention, "num_kv_groups", 1) > 1:
        raise ModelError(f"{name} shares keys among its heads; grouped queries are not supported yet")
    norm = getattr(attention, "norm", None) or nn.Identity()
    read = reading(
        _projections(attention),
        attention.num_heads,
        attention.scale,
        getattr(attention, "q_norm", None),
        getattr(attention, "k_norm", None),
        rotate,
    )
    return dataclasses.replace(
        timm_like_block(name, block, read),
        projection=scaled_by(lambda: block.gamma_1, lambda rows: attention.proj(norm(rows))),
        feedforward=scaled_by(lambda: block.gamma_2, lambda rows: block.mlp(block.norm2(rows))),
        rows=rows,
    )


def _projections(attention: Any) -> Projections:
    if attention.qkv is None:
        return apart(attention.q_proj, attention.k_proj, attention.v_proj)
    if getattr(attention, "q_bias", None) is None:
        return fused(attention.qkv)
    bias = lambda: torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))  # noqa: E731
    return joint(lambda: attention.qkv.weight, bias)
