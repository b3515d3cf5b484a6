"""transformers' DINOv2, with and without registers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitscope.models.anatomy import Anatomy
from vitscope.models.hf.common import Tail, class_in, describe, encoder_blocks, encoder_of, headed
from vitscope.models.registry import register_adapter

_CLASSES = (
    "Dinov2ForImageClassification",
    "Dinov2Model",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersModel",
)


@register_adapter("transformers DINOv2")
def describe_dinov2(model: nn.Module) -> Anatomy | None:
    """Describe a transformers DINOv2; None for another class.

    The model alone gives the class token. The classifier reads the class token beside the mean of the patch tokens, so
    that every row of the attention leads to the output.

    Raises:
        ModelError: a class of this family that gives no one output a picture.
    """
    known = class_in(model, ("dinov2", "dinov2_with_registers"), _CLASSES)
    return _describe(model, known.endswith("ForImageClassification")) if known else None


def _describe(model: Any, classifies: bool) -> Anatomy:
    encoder = encoder_of(model)
    registers = int(getattr(model.config, "num_register_tokens", 0))
    prefix = ("class", *(f"register {index + 1}" for index in range(registers)))

    def class_token(tokens: Tensor) -> Tensor:
        normed: Tensor = encoder.layernorm(tokens)
        return normed[:, 0]

    def class_and_patches(tokens: Tensor) -> Tensor:
        normed = encoder.layernorm(tokens)
        return torch.cat([normed[:, 0], normed[:, len(prefix) :].mean(dim=1)], dim=1)

    def output(images: Tensor) -> Tensor:
        found = model(images, return_dict=True)
        given: Tensor = found.logits if classifies else found.last_hidden_state[:, 0]
        return given

    return describe(
        "transformers DINOv2",
        model,
        model.config,
        prefix=prefix,
        blocks=encoder_blocks(model, encoder, None if classifies else 1),
        final_site=encoder.layernorm,
        tail=(
            headed(class_and_patches, model.config.num_labels, model.classifier) if classifies else Tail(class_token)
        ),
        call=output,
        reads=("class", "patches"),
        note="the classifier reads the class token and the mean of the patch tokens" if classifies else "",
    )
