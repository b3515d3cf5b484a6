"""transformers' SigLIP: no class token; an attention pool, or the mean of the patch tokens under a classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Block, Grid
from vitscope.models.hf.common import Tail, at_size, class_in, describe, encoder_blocks, headed, pair
from vitscope.models.parts import joint, reading
from vitscope.models.registry import register_adapter


@register_adapter("transformers SigLIP")
def describe_siglip(model: nn.Module) -> Anatomy | None:
    """Describe a transformers SigLIP; None for another class.

    The output is what the attention pool gives; a classifier reads the mean of the tokens.

    Raises:
        ModelError: a class of this family that gives no one output a picture; SigLIP 2 with pictures of any shape.
    """
    if class_in(model, ("siglip2",), ("Siglip2Model", "Siglip2VisionModel", "Siglip2ForImageClassification")):
        raise ModelError(
            "this SigLIP 2 takes patches with their places, not pictures; use a checkpoint of one size (such as "
            "google/siglip2-base-patch16-224), which is a SiglipModel"
        )
    known = class_in(model, ("siglip",), ("SiglipModel", "SiglipVisionModel", "SiglipForImageClassification"))
    return _describe(model, known == "SiglipForImageClassification") if known else None


def _describe(model: Any, classifies: bool) -> Anatomy:
    outer = getattr(model, "vision_model", model)
    tower = getattr(outer, "vision_model", outer)  # older versions have one more module around it
    if not classifies and not getattr(tower, "use_head", True):
        raise ModelError("the model has no pooling head and gives an output for every token; build it with one")
    call = at_size(model if classifies else outer, pair(tower.config.image_size))
    blocks = encoder_blocks(model, tower, None)

    def mean(tokens: Tensor) -> Tensor:
        normed: Tensor = tower.post_layernorm(tokens)
        return normed.mean(dim=1)

    def output(images: Tensor) -> Tensor:
        found = call(images)
        given: Tensor = found.logits if classifies else found.pooler_output
        return given

    return describe(
        "transformers SigLIP",
        model,
        tower.config,
        prefix=(),
        blocks=blocks if classifies else (*blocks, _pool(model, tower)),
        final_site=tower.post_layernorm if classifies else None,
        tail=headed(mean, model.config.num_labels, model.classifier) if classifies else Tail(lambda rows: rows[:, 0]),
        call=output,
    )


def _pool(model: nn.Module, tower: Any) -> Block:
    """The attention pool as the last block: its one row is the probe's."""
    pool = tower.head
    attention: nn.MultiheadAttention = pool.attention
    heads, width = attention.num_heads, attention.head_dim
    layers = joint(lambda: _known(attention.in_proj_weight), lambda: attention.in_proj_bias)
    read = reading(layers, heads, width**-0.5)

    def queries(rows: Tensor, grid: Grid) -> Tensor:
        return read.queries(pool.probe, grid).expand(len(rows), -1, -1, -1)

    def feedforward(rows: Tensor) -> Tensor:
        added: Tensor = pool.mlp(pool.layernorm(rows))
        return added

    return Block(
        name=next(name for name, module in model.named_modules() if module is pool),
        module=pool,
        norm=tower.post_layernorm,
        attention=attention,
        heads=heads,
        projection=attention.out_proj,
        feedforward=feedforward,
        feedforward_site=pool.layernorm,
        queries=queries,
        keys_values=read.keys_values,
        affine_keys=read.affine_keys,
        plain=False,
        residual=False,
    )


def _known(weight: Tensor | None) -> Tensor:
    if weight is None:
        raise ModelError("the attention pool's keys are of another width than its queries; that is not supported")
    return weight
