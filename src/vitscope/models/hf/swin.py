"""transformers' Swin and SwinV2: attention within windows, what keys receive put back into the picture."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitscope.models.anatomy import Anatomy, Window
from vitscope.models.hf.common import class_in, pair
from vitscope.models.parts import windows_to_picture
from vitscope.models.registry import register_adapter

_CLASSES = ("SwinForImageClassification", "SwinModel", "Swinv2ForImageClassification", "Swinv2Model")


@register_adapter("transformers Swin")
def describe_swin(model: nn.Module) -> Anatomy | None:
    """Describe a transformers Swin or SwinV2; None for another class."""
    known = class_in(model, ("swin", "swinv2"), _CLASSES)
    if not known:
        return None
    outer: Any = model
    classifies = known.endswith("ForImageClassification")
    tower = (outer.swinv2 if hasattr(outer, "swinv2") else outer.swin) if classifies else outer
    root = f"{'swinv2' if hasattr(outer, 'swinv2') else 'swin'}." if classifies else ""
    windows = tuple(
        Window(f"{root}encoder.layers.{stage}.blocks.{index}", stage, layer.attention, layer, _put_back(layer))
        for stage, whole in enumerate(tower.encoder.layers)
        for index, layer in enumerate(whole.blocks)
    )

    def output(images: Tensor) -> Tensor:
        found = outer(images)
        given: Tensor = found.logits if classifies else found.pooler_output
        return given

    config: Any = outer.config
    return Anatomy(
        family="transformers Swin",
        name=str(getattr(config, "_name_or_path", "") or type(model).__name__),
        model=model,
        prefix=(),
        blocks=(),
        final_site=None,
        features=lambda features: features,
        classifier=None,
        patch=(1, 1),
        grid=lambda asked: asked,
        input_size=pair(config.image_size),
        flexible_size=False,
        outputs=int(config.num_labels) if classifies else 0,
        windows=windows,
        call=output,
    )


def _put_back(layer: Any) -> Any:
    def put_back(received: Tensor, inputs: tuple[Any, ...]) -> Tensor:
        # The layer fits window and shift to its input when it runs, one number each.
        height, width = inputs[1]
        return windows_to_picture(
            received, (int(height), int(width)), pair(layer.window_size), pair(layer.shift_size), pad_first=True
        )

    return put_back
