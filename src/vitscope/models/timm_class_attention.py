"""timm's Cait, Xcit and ConVit: the class token comes in late, and only the blocks from there on have a class row.

The blocks before have none. CaiT's mix their heads' softmaxes, ConViT's mix content with fixed positions, and XCiT's
attention runs between channels, which gives no patch map. They are left out: maps show what the class token gathers in
its own blocks from patch tokens that the others have prepared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from timm.models.cait import Cait, ClassAttn, LayerScaleBlockClassAttn
from timm.models.convit import MHSA, ConVit
from timm.models.convit import Block as ConVitBlock
from timm.models.xcit import ClassAttentionBlock, Xcit
from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Block, Grid
from vitscope.models.parts import Reading, apart, outputs_of, reading, scaled_by, timm_like_block, whole_patches
from vitscope.models.registry import register_adapter
from vitscope.models.timm_vit import check_kept, classifier_of, fixed_or_dynamic_grid, name_of


@register_adapter("timm Cait")
def describe_cait(model: nn.Module) -> Anatomy | None:
    """Describe a timm Cait by its class-attention blocks; None for another class."""
    if not isinstance(model, Cait):
        return None
    blocks: Any = model.blocks_token_only
    described = [_cait_block(f"blocks_token_only.{index}", block) for index, block in enumerate(blocks or ())]
    return _describe("timm Cait", model, described, len(model.blocks), fixed_or_dynamic_grid(model))


@register_adapter("timm Xcit")
def describe_xcit(model: nn.Module) -> Anatomy | None:
    """Describe a timm Xcit by its class-attention blocks; None for another class."""
    if not isinstance(model, Xcit):
        return None
    blocks: Any = model.cls_attn_blocks
    described = [_xcit_block(f"cls_attn_blocks.{index}", block) for index, block in enumerate(blocks or ())]
    return _describe(
        "timm Xcit", model, described, len(model.blocks), whole_patches((int(model.patch_embed.patch_size),) * 2)
    )


@register_adapter("timm ConVit")
def describe_convit(model: nn.Module) -> Anatomy | None:
    """Describe a timm ConVit by its last blocks, which have a class token; None for another class."""
    if not isinstance(model, ConVit):
        return None
    first: int = model.local_up_to_layer
    late: Any = list(model.blocks)[first:]
    described = [_convit_block(f"blocks.{first + index}", block) for index, block in enumerate(late)]
    return _describe("timm ConVit", model, described, first, fixed_or_dynamic_grid(model))


def _describe(family: str, model: Any, blocks: Sequence[Block], before: int, grid: Callable[[Grid], Grid]) -> Anatomy:
    check_kept(model)
    if not blocks or model.global_pool != "token":
        raise ModelError(
            f"this {type(model).__name__} does not read its class token; build it with global_pool='token'"
        )
    classifier = classifier_of(model)

    def features(rows: Tensor) -> Tensor:
        read: Tensor = model.forward_head(model.norm(rows), pre_logits=classifier is not None)
        return read

    embed = model.patch_embed
    size = embed.img_size if isinstance(embed.img_size, Sequence) else (embed.img_size,) * 2
    patch = embed.patch_size if isinstance(embed.patch_size, Sequence) else (embed.patch_size,) * 2
    return Anatomy(
        family=family,
        name=name_of(model),
        model=model,
        prefix=("class",),
        blocks=tuple(blocks),
        final_site=model.norm,
        features=features,
        classifier=classifier,
        patch=(int(patch[0]), int(patch[1])),
        grid=grid,
        input_size=(int(size[0]), int(size[1])),
        flexible_size=isinstance(model, Xcit),
        outputs=outputs_of(model.head, int(model.num_classes)),
        note=f"the {before} blocks before have no class token and are left out",
        whole=before == 0,
    )


def _cait_block(name: str, block: Any) -> Block:
    _check(name, block, LayerScaleBlockClassAttn, ClassAttn)
    return dataclasses.replace(
        timm_like_block(name, block, _class_attention(block.attn)),
        projection=scaled_by(lambda: block.gamma_1, block.attn.proj),
        feedforward=scaled_by(lambda: block.gamma_2, lambda rows: block.mlp(block.norm2(rows))),
        plain=False,
        hands_on=False,
    )


def _xcit_block(name: str, block: Any) -> Block:
    """x + gamma1 attn(norm1(x)) = e; norm2(e) + gamma2 mlp(norm2(e)): the second residual starts behind the norm."""
    _check(name, block, ClassAttentionBlock, ClassAttn)

    def feedforward(rows: Tensor) -> Tensor:
        normed = block.norm2(rows)
        added: Tensor = normed - rows + block.gamma2 * block.mlp(normed)
        return added

    return dataclasses.replace(
        timm_like_block(name, block, _class_attention(block.attn)),
        projection=scaled_by(lambda: block.gamma1, block.attn.proj),
        feedforward=feedforward,
        plain=False,
    )


def _convit_block(name: str, block: Any) -> Block:
    _check(name, block, ConVitBlock, MHSA)
    return timm_like_block(name, block)


def _class_attention(attention: ClassAttn) -> Reading:
    return reading(apart(attention.q, attention.k, attention.v), attention.num_heads, attention.scale)


def _check(name: str, block: Any, kind: type, attention: type) -> None:
    for found, known in ((block, kind), (block.attn, attention)):
        if type(found) is not known:
            raise ModelError(f"{name} has a {type(found).__name__}, whose class row vitscope cannot follow yet")
