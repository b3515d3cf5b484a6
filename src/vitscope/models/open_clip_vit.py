"""open_clip's image towers: its own VisionTransformer, and timm models within it; alone or in a CLIP model."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Block
from vitscope.models.parts import multi_head, whole_patches
from vitscope.models.registry import described, register_adapter


@register_adapter("open_clip")
def describe_open_clip(model: nn.Module) -> Anatomy | None:
    """Describe an open_clip image tower, or that of a CLIP model; None for another class.

    The output is the image's embedding (b F), not brought to length 1; there is no classifier.

    Raises:
        ModelError: a tower or a pool of a kind that has no description yet.
    """
    kind = type(model)
    if not kind.__module__.startswith("open_clip."):
        return None
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    visual: Any = getattr(model, "visual", model)
    whole: Any = model
    texts = (lambda tokens: whole.encode_text(tokens)) if visual is not model else None
    if isinstance(visual, TimmModel):
        return dataclasses.replace(_timm(visual), texts=texts)
    if not isinstance(visual, VisionTransformer):
        raise ModelError(
            f"the image tower is a {type(visual).__name__}, which vitscope cannot follow; it knows open_clip's "
            "VisionTransformer and timm models"
        )
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg") or visual.output_tokens:
        raise ModelError("the image tower pools by attention or gives its tokens; vitscope cannot follow that yet")
    rows = 1 if visual.pool_type == "tok" else None

    def features(rows: Tensor) -> Tensor:
        pooled, _ = visual._pool(rows)
        read: Tensor = pooled if visual.proj is None else pooled @ visual.proj
        return read

    patch = (int(visual.patch_size[0]), int(visual.patch_size[1]))
    size = (int(visual.image_size[0]), int(visual.image_size[1]))
    blocks = visual.transformer.resblocks
    return Anatomy(
        family="open_clip VisionTransformer",
        name=type(visual).__name__,
        model=visual,
        prefix=("class",),
        blocks=tuple(_block(f"transformer.resblocks.{index}", block, rows) for index, block in enumerate(blocks)),
        final_site=None if visual.final_ln_after_pool else visual.ln_post,
        features=features,
        classifier=None,
        patch=patch,
        grid=whole_patches(patch, only=size),
        input_size=size,
        flexible_size=False,
        outputs=0,
        texts=texts,
    )


def _timm(tower: Any) -> Anatomy:
    """A timm model with what open_clip puts behind it, a projection of its pooled features."""
    inner = described(tower.trunk)
    if inner is None:
        raise ModelError(f"the image tower is a timm {type(tower.trunk).__name__}, which vitscope cannot follow yet")

    def features(rows: Tensor) -> Tensor:
        read: Tensor = tower.head(inner.output(inner.features(rows)))
        return read

    return dataclasses.replace(inner, model=tower, features=features, classifier=None, outputs=0)


def _block(name: str, block: Any, rows: int | None) -> Block:
    if type(getattr(block, "attn", None)) is not nn.MultiheadAttention or hasattr(block, "ln_1_kv"):
        raise ModelError(f"{name} is a {type(block).__name__}, whose class row vitscope cannot follow yet")
    read = multi_head(name, block.attn)
    return Block(
        name=name,
        module=block,
        norm=block.ln_1,
        attention=block.attn,
        heads=int(block.attn.num_heads),
        projection=lambda rows: block.ls_1(block.attn.out_proj(rows)),
        feedforward=lambda rows: block.ls_2(block.mlp(block.ln_2(rows))),
        feedforward_site=block.ln_2,
        queries=read.queries,
        keys_values=read.keys_values,
        affine_keys=read.affine_keys,
        rows=rows,
    )
