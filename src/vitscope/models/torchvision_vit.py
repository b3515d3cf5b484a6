"""torchvision's VisionTransformer (vit_b_16 and kin): torch's own multi-head attention, class token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Block, Classifier
from vitscope.models.parts import multi_head, whole_patches
from vitscope.models.registry import register_adapter


@register_adapter("torchvision VisionTransformer")
def describe_torchvision_vit(model: nn.Module) -> Anatomy | None:
    """Describe a torchvision VisionTransformer; None for another class.

    Raises:
        ModelError: blocks of another kind.
    """
    if not isinstance(model, VisionTransformer):
        return None
    encoder: Any = model.encoder
    *before, last = model.heads
    classifier = Classifier((last,)) if type(last) is nn.Linear else None
    heads = nn.Sequential(*before) if classifier else model.heads

    def features(rows: Tensor) -> Tensor:
        read: Tensor = heads(encoder.ln(rows)[:, 0])
        return read

    size, side = int(model.image_size), int(model.patch_size)
    return Anatomy(
        family="torchvision VisionTransformer",
        name=type(model).__name__,
        model=model,
        prefix=("class",),
        blocks=tuple(_block(f"encoder.layers.{name}", block) for name, block in encoder.layers.named_children()),
        final_site=encoder.ln,
        features=features,
        classifier=classifier,
        patch=(side, side),
        grid=whole_patches((side, side), only=(size, size)),
        input_size=(size, size),
        flexible_size=False,
        outputs=0 if classifier is None else classifier.heads[0].out_features,
    )


def _block(name: str, block: Any) -> Block:
    if type(block) is not EncoderBlock:
        raise ModelError(f"{name} is a {type(block).__name__}, whose class row vitscope cannot follow yet")
    read = multi_head(name, block.self_attention)
    return Block(
        name=name,
        module=block,
        norm=block.ln_1,
        attention=block.self_attention,
        heads=int(block.self_attention.num_heads),
        projection=block.self_attention.out_proj,
        feedforward=lambda rows: block.mlp(block.ln_2(rows)),
        feedforward_site=block.ln_2,
        queries=read.queries,
        keys_values=read.keys_values,
        affine_keys=read.affine_keys,
    )
