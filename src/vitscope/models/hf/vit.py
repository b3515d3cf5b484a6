"""transformers' ViT, DeiT (also with a teacher), MSN, I-JEPA and MAE: one encoder, several heads.

The head reads the class token behind the final norm; with a teacher, the distillation token too; I-JEPA has no class
token, and its head the mean of all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.errors import RefusedError
from vitscope.models.anatomy import Anatomy
from vitscope.models.hf.common import (
    Size,
    Tail,
    at_size,
    class_in,
    describe,
    encoder_blocks,
    encoder_of,
    headed,
    pair,
)
from vitscope.models.parts import RowMap
from vitscope.models.registry import register_adapter

_CLASSES = (
    "ViTForImageClassification",
    "ViTModel",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "DeiTModel",
    "ViTMSNForImageClassification",
    "ViTMSNModel",
    "IJepaForImageClassification",
    "IJepaModel",
    "ViTMAEModel",
)


@register_adapter("transformers ViT")
def describe_vit(model: nn.Module) -> Anatomy | None:
    """Describe a transformers ViT or a model of the same encoder; None for another class.

    A model without a classifier gives the class token behind the final norm (I-JEPA: the mean of all tokens), not what
    a pooler makes of it.

    Raises:
        ModelError: a class of these families that gives no one output a picture; an MAE that hides patches.
    """
    known = class_in(model, ("vit", "deit", "vit_msn", "ijepa", "vit_mae"), _CLASSES)
    return _describe(model, known) if known else None


def _describe(model: Any, known: str) -> Anatomy:
    encoder = encoder_of(model)
    prefix = ("class", "distillation") if known.startswith("DeiT") else () if known.startswith("IJepa") else ("class",)
    rows = 2 if known.endswith("WithTeacher") else 1 if prefix else None
    built_for = pair(model.config.image_size)
    call = _masked_call(model, built_for) if known == "ViTMAEModel" else at_size(model, built_for)
    classifies = "ForImageClassification" in known

    def read(tokens: Tensor) -> Tensor:
        normed: Tensor = encoder.layernorm(tokens)
        return pooled(normed)

    def pooled(normed: Tensor) -> Tensor:
        return normed.mean(dim=1) if rows is None else normed[:, :rows].flatten(1)

    def output(images: Tensor) -> Tensor:
        found = call(images)
        given: Tensor = found.logits if classifies else pooled(found.last_hidden_state)
        return given

    return describe(
        "transformers ViT",
        model,
        model.config,
        prefix=prefix,
        blocks=encoder_blocks(model, encoder, rows),
        final_site=encoder.layernorm,
        tail=_tail(model, read) if classifies else Tail(read),
        call=output,
        interpolates=built_for[0] == built_for[1],
    )


def _tail(model: Any, read: RowMap) -> Tail:
    heads = [getattr(model, name, None) for name in ("classifier", "cls_classifier", "distillation_classifier")]
    return headed(read, model.config.num_labels, *[head for head in heads if head is not None])


def _masked_call(model: Any, built_for: Size) -> Callable[[Tensor], Any]:
    """An MAE that hides no patch, called with a noise that leaves the patches in their order.

    Raises:
        ModelError: it hides patches.
    """
    if share := model.config.mask_ratio:
        raise RefusedError(
            f"the model hides {share:.0%} of the patches at random; set model.config.mask_ratio = 0, so that it sees "
            "the whole picture"
        )
    patch, sized = pair(model.config.patch_size), at_size(model, built_for)

    def call(images: Tensor) -> Any:
        patches = (images.shape[-2] // patch[0]) * (images.shape[-1] // patch[1])
        return sized(images, noise=torch.arange(patches, device=images.device).expand(len(images), -1))

    return call
