"""transformers' BEiT and Data2Vec-Vision: relative positions as an attention mask, mean pooling or a class token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitscope.models.anatomy import Anatomy
from vitscope.models.hf.common import Tail, class_in, describe, encoder_blocks, encoder_of, headed, pair
from vitscope.models.registry import register_adapter

_CLASSES = (
    "BeitForImageClassification",
    "BeitModel",
    "Data2VecVisionForImageClassification",
    "Data2VecVisionModel",
)


@register_adapter("transformers BEiT")
def describe_beit(model: nn.Module) -> Anatomy | None:
    """Describe a transformers BEiT or Data2Vec-Vision; None for another class.

    What `config.use_mean_pooling` says is read: the mean of the patch tokens with the pooler's norm, or the class
    token. A model without a classifier gives what its pooler gives; without a pooler, the class token.

    Raises:
        ModelError: a class of this family that gives no one output a picture.
    """
    known = class_in(model, ("beit", "data2vec"), _CLASSES)
    return _describe(model, known.endswith("ForImageClassification")) if known else None


def _describe(model: Any, classifies: bool) -> Anatomy:
    encoder = encoder_of(model)
    config, pooler = model.config, encoder.pooler
    mean = pooler is not None and pooler.layernorm is not None
    built_for = pair(config.image_size)

    def read(tokens: Tensor) -> Tensor:
        normed = encoder.layernorm(tokens)
        pooled: Tensor = normed[:, 0] if pooler is None else pooler(normed)
        return pooled

    def output(images: Tensor) -> Tensor:
        found = model(images, return_dict=True)
        if classifies:
            given: Tensor = found.logits
        else:
            given = found.last_hidden_state[:, 0] if pooler is None else found.pooler_output
        return given

    return describe(
        "transformers BEiT",
        model,
        config,
        prefix=("class",),
        blocks=encoder_blocks(model, encoder, None if mean else 1),
        final_site=encoder.layernorm,
        tail=headed(read, config.num_labels, model.classifier) if classifies else Tail(read),
        call=output,
        interpolates=built_for[0] == built_for[1],
    )
