"""The class of DINO's own repository (torch.hub facebookresearch/dino), which many forks carry.

Its modules are no library's, so they are known by their names and roles: `prepare_tokens`, `blocks` with `norm1`,
`attn.qkv`, `attn.proj`, `norm2`, `mlp`, a final `norm` and a `head`. Its attention is written out and gives its matrix
beside its output.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitscope.models.anatomy import Anatomy, Classifier
from vitscope.models.parts import timm_like_block, whole_patches
from vitscope.models.registry import register_adapter

_PARTS = ("prepare_tokens", "interpolate_pos_encoding", "patch_embed", "cls_token", "pos_embed", "blocks", "norm")
_BLOCK = ("norm1", "attn.qkv", "attn.proj", "attn.num_heads", "attn.scale", "norm2", "mlp")


@register_adapter("DINO hub VisionTransformer")
def describe_dino_hub(model: nn.Module) -> Anatomy | None:
    """Describe a model of DINO's own class; None for one without its parts.

    Attention to pictures of any size of whole patches is taken, since it interpolates its position embedding.
    """
    built: Any = model
    if not all(hasattr(built, part) for part in _PARTS) or hasattr(built, "register_tokens"):
        return None
    if not all(_has(block, path) for block in built.blocks for path in _BLOCK):
        return None
    classifier = Classifier((built.head,)) if type(built.head) is nn.Linear else None

    def features(rows: Tensor) -> Tensor:
        read: Tensor = built.norm(rows)[:, 0]
        return read if classifier is not None else built.head(read)

    side, size = int(built.patch_embed.patch_size), int(built.patch_embed.img_size)
    return Anatomy(
        family="DINO hub VisionTransformer",
        name=type(built).__name__,
        model=model,
        prefix=("class",),
        blocks=tuple(timm_like_block(f"blocks.{index}", block) for index, block in enumerate(built.blocks)),
        final_site=built.norm,
        features=features,
        classifier=classifier,
        patch=(side, side),
        grid=whole_patches((side, side)),
        input_size=(size, size),
        flexible_size=True,
        outputs=0 if classifier is None else classifier.heads[0].out_features,
    )


def _has(module: nn.Module, path: str) -> bool:
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True
