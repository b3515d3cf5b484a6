"""timm's VisionTransformer: ViT, DeiT (also distilled), DeiT-3, DINO, DINOv2 with registers, MAE, CLIP towers.

Bound to timm's classes and to the roles of their parts, so that names of checkpoints do not matter; every claim
made here is held against the model's own numbers by `vitscope.trace.verify` before a map is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from timm.layers import AttentionPoolLatent, HybridEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, VisionTransformer
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from vitscope.errors import ModelError, RefusedError
from vitscope.models.anatomy import Anatomy, Block, Classifier, Grid
from vitscope.models.parts import Projections, fused, is_plain_linear, outputs_of, reading, timm_like_block
from vitscope.models.registry import register_adapter
from vitscope.models.within import unwrapped


@register_adapter("timm VisionTransformer")
def describe_timm_vit(model: nn.Module) -> Anatomy | None:
    """Describe a timm VisionTransformer; None for another class.

    Raises:
        ModelError: blocks or attention of a kind whose class row has no description yet.
    """
    if not isinstance(model, VisionTransformer):
        return None
    check_kept(model)
    classifier = classifier_of(model)
    rows = _rows_read(model)
    blocks = tuple(block_of(f"blocks.{index}", block, rows) for index, block in enumerate(model.blocks))
    pooled = model.attn_pool is not None

    def features(rows: Tensor) -> Tensor:
        if pooled:
            read: Tensor = model.head_drop(model.fc_norm(rows[:, 0]))
            return read if classifier is not None else model.head(read)
        normed = model.norm(rows)
        if isinstance(model, VisionTransformerDistilled):
            read = model.head_drop(normed).flatten(1) if classifier is not None else model.forward_head(normed)
        else:
            read = model.forward_head(normed, pre_logits=classifier is not None)
        return read

    return Anatomy(
        family="timm VisionTransformer",
        name=name_of(model),
        model=model,
        prefix=prefix_of(model),
        blocks=(*blocks, attention_pool("attn_pool", model, model.pool_include_prefix)) if pooled else blocks,
        final_site=None if pooled else model.norm,
        features=features,
        classifier=classifier,
        patch=_patch_side(model.patch_embed),
        grid=fixed_or_dynamic_grid(model),
        input_size=tuple(model.patch_embed.img_size),
        flexible_size=bool(model.dynamic_img_size),
        outputs=outputs_of(model.head, int(model.num_classes)),
        reads=("all",) if model.pool_include_prefix else ("patches",),
    )


def check_kept(model: Any) -> None:
    """Raise ModelError where a timm model recomputes its blocks in the backward pass."""
    if getattr(model, "grad_checkpointing", False):
        raise RefusedError(
            "the model recomputes its blocks in the backward pass; call model.set_grad_checkpointing(False) first"
        )


def name_of(model: nn.Module) -> str:
    """A timm model's architecture, or its class."""
    return str((getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__)


def classifier_of(model: Any) -> Classifier | None:
    """The linear layer or layers that the features go into, or None where there is none."""
    heads = (model.head, model.head_dist) if isinstance(model, VisionTransformerDistilled) else (model.head,)
    return Classifier(heads) if all(type(head) is nn.Linear for head in heads) else None


def prefix_of(model: Any) -> tuple[str, ...]:
    """Names of the tokens before the patch tokens."""
    names = ["class"] if model.cls_token is not None else []
    if getattr(model, "dist_token", None) is not None:
        names.append("distillation")
    names += [f"register {index + 1}" for index in range(model.num_prefix_tokens - len(names))]
    return tuple(names)


def _rows_read(model: VisionTransformer) -> int | None:
    """How many leading rows of the last block's output the head reads; None for all.

    Raises:
        ModelError: it gives no one value an image.
    """
    if isinstance(model, VisionTransformerDistilled):
        return 2
    if model.attn_pool is None and model.global_pool == "token":
        return 1
    if model.attn_pool is None and not model.global_pool:
        raise ModelError("the model gives an output for every token; build it with global_pool='avg' or 'token'")
    return None


def attention_pool(name: str, model: Any, include_prefix: bool) -> Block:
    """The head's attention pool as the last block: its one row is the learned query's.

    Args:
        name: for messages.
        model: with its `attn_pool` behind its `norm`.
        include_prefix: whether the tokens before the patch tokens are pooled too.

    Raises:
        ModelError: a pool of another kind than timm's AttentionPoolLatent with one query over all tokens.
    """
    pool: Any = model.attn_pool
    if type(pool) is not AttentionPoolLatent or pool.latent_len != 1 or pool.mlp is None or pool.pos_embed is not None:
        raise ModelError(f"{name} is a {type(pool).__name__} of a kind that vitscope cannot follow yet")
    if model.num_prefix_tokens and not include_prefix:
        raise ModelError(f"{name} leaves the prefix tokens out, which vitscope cannot follow yet")

    def feedforward(rows: Tensor) -> Tensor:
        added: Tensor = pool.mlp(pool.norm(rows))
        return added

    def queries(rows: Tensor, _: Grid) -> Tensor:
        query = pool.q(pool.latent).unflatten(-1, (pool.num_heads, pool.head_dim)).transpose(1, 2)
        scaled: Tensor = pool.q_norm(query) * pool.scale
        return scaled.expand(len(rows), -1, -1, -1)

    layers = Projections(pool.q, lambda tokens: pool.kv(tokens).chunk(2, dim=-1), is_plain_linear(pool.kv))
    read = reading(layers, pool.num_heads, pool.scale, key_norm=pool.k_norm)
    return Block(
        name=name,
        module=pool,
        norm=model.norm,
        attention=pool,
        heads=int(pool.num_heads),
        projection=pool.proj,
        feedforward=feedforward,
        feedforward_site=pool.norm,
        queries=queries,
        keys_values=read.keys_values,
        affine_keys=read.affine_keys,
        plain=False,
        residual=False,
    )


def _patch_side(embed: Any) -> tuple[int, int]:
    """Height and width of a patch in pixels of the image; `patch_size` counts cells of the features of a CNN stem."""
    ratio = embed.feat_ratio(as_scalar=False) if isinstance(embed, HybridEmbed) else embed.patch_size
    return int(ratio[0]), int(ratio[1])


def fixed_or_dynamic_grid(model: Any) -> Callable[[tuple[int, int]], tuple[int, int]]:
    """Picture size in pixels -> patch grid, as the patch embedding will make it."""

    def grid(size: tuple[int, int]) -> tuple[int, int]:
        embed = model.patch_embed
        if getattr(model, "dynamic_img_size", False):
            rows, cols = embed.dynamic_feat_size(size)
            if not embed.dynamic_img_pad and any(s % p for s, p in zip(size, embed.patch_size, strict=True)):
                raise ModelError(
                    f"pictures of {size[0]} x {size[1]} pixels are not made of whole patches of "
                    f"{embed.patch_size[0]} x {embed.patch_size[1]}; resize them, or build the model with "
                    "dynamic_img_pad=True"
                )
        elif size != tuple(embed.img_size):
            other = ", or build the model with dynamic_img_size=True" if hasattr(model, "dynamic_img_size") else ""
            raise ModelError(
                f"the model takes pictures of {embed.img_size[0]} x {embed.img_size[1]} pixels, got "
                f"{size[0]} x {size[1]}; resize them{other}"
            )
        else:
            rows, cols = embed.grid_size
        return int(rows), int(cols)

    return grid


def block_of(name: str, block: Any, rows: int | None) -> Block:
    """Describe one pre-norm block; refuses the parallel, post-norm and gated kinds by name."""
    block = unwrapped(block)  # blocks may be compiled one by one
    attention: Any = getattr(block, "attn", None)
    if type(block) is not TimmBlock or type(attention) is not Attention:
        kind = type(block).__name__ if type(block) is not TimmBlock else type(attention).__name__
        raise ModelError(
            f"{name} is a {kind}, whose class row vitscope cannot follow yet; use a model built of timm's "
            "Block and Attention (ViT, DeiT, DINO, DINOv2, MAE)"
        )
    if getattr(attention, "gate", None) is not None:
        raise ModelError(f"{name} gates its attention output by its input; gated attention is not supported yet")

    def projection(rows: Tensor) -> Tensor:
        added: Tensor = block.ls1(attention.proj(attention.norm(rows)))
        return added

    def feedforward(rows: Tensor) -> Tensor:
        added: Tensor = block.ls2(block.mlp(block.norm2(rows)))
        return added

    read = reading(fused(attention.qkv), attention.num_heads, attention.scale, attention.q_norm, attention.k_norm)
    return dataclasses.replace(
        timm_like_block(name, block, read), projection=projection, feedforward=feedforward, rows=rows
    )
