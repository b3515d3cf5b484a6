"""transformers' CLIP: the image tower alone, with its projection, in the whole model, or with a classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitscope.models.anatomy import Anatomy
from vitscope.models.hf.common import Tail, at_size, class_in, describe, encoder_blocks, headed, pair
from vitscope.models.registry import register_adapter

_CLASSES = ("CLIPModel", "CLIPVisionModelWithProjection", "CLIPVisionModel", "CLIPForImageClassification")


@register_adapter("transformers CLIP")
def describe_clip(model: nn.Module) -> Anatomy | None:
    """Describe a transformers CLIP; None for another class.

    The class token behind its norm is the output of the image tower alone; with a projection, and in the whole model,
    it is the image's embedding before it is brought to length 1. A classifier reads the mean of the patch tokens.

    Raises:
        ModelError: a class of this family that gives no one output a picture.
    """
    known = class_in(model, ("clip",), _CLASSES)
    return _describe(model, known) if known else None


def _describe(model: Any, known: str) -> Anatomy:
    outer = getattr(model, "vision_model", model)
    tower = getattr(outer, "vision_model", outer)  # older versions have one more module around it
    projection = getattr(model, "visual_projection", None) or nn.Identity()
    classifies = known == "CLIPForImageClassification"
    built_for = pair(tower.config.image_size)
    image_part = model if classifies else outer
    call = at_size(image_part, built_for)

    def embedding(rows: Tensor) -> Tensor:
        projected: Tensor = projection(tower.post_layernorm(rows[:, 0]))
        return projected

    def output(images: Tensor) -> Tensor:
        found = call(images)
        given: Tensor = found.logits if classifies else projection(found.pooler_output)
        return given

    return describe(
        "transformers CLIP",
        model,
        tower.config,
        prefix=("class",),
        blocks=encoder_blocks(model, tower, None if classifies else 1),
        final_site=None,
        tail=(
            headed(lambda rows: rows[:, 1:].mean(dim=1), model.config.num_labels, model.classifier)
            if classifies
            else Tail(embedding)
        ),
        call=output,
    )
