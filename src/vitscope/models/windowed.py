"""Families without rows to follow: Swin, SwinV2, MaxViT, Hiera, PVT-v2, LeViT, CrossViT (timm), Swin (torchvision).

Their attention stays within windows, or its keys are pooled, or there are two grids at once; what keys receive is put
back into the picture, stage by stage, by the family's own way of cutting windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any

from timm.models.crossvit import CrossVit
from timm.models.hiera import Hiera
from timm.models.levit import Levit
from timm.models.maxxvit import MaxxVit, PartitionAttentionCl, grid_reverse, window_reverse
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin
from torchvision.models.swin_transformer import SwinTransformerBlock

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Grid, Window
from vitscope.models.parts import windows_to_picture
from vitscope.models.registry import register_adapter
from vitscope.models.timm_vit import name_of

PutBack = Callable[[Tensor, tuple[Any, ...]], Tensor]


@register_adapter("timm Swin")
def describe_swin(model: nn.Module) -> Anatomy | None:
    """Describe a timm Swin or SwinV2; None for another class."""
    if not isinstance(model, SwinTransformer | SwinTransformerV2):
        return None
    layers: Any = model.layers
    windows = [
        Window(f"layers.{stage}.blocks.{index}", stage, block.attn, block, _swin(block))
        for stage, layer in enumerate(layers)
        for index, block in enumerate(layer.blocks)
    ]
    return _describe("timm Swin", model, windows, _embedding_size(model))


@register_adapter("torchvision Swin")
def describe_torchvision_swin(model: nn.Module) -> Anatomy | None:
    """Describe a torchvision SwinTransformer, also of its second version; None for another class."""
    if not isinstance(model, TorchvisionSwin):
        return None
    windows = []
    stage = -1
    for name, part in model.features.named_children():
        blocks = [block for block in part.children() if isinstance(block, SwinTransformerBlock)]
        stage += bool(blocks)
        for index, block in enumerate(blocks):
            attention: Any = block.attn
            windows.append(
                Window(f"features.{name}.{index}", stage, attention, attention, _swin(attention, pad_first=True))
            )
    return _describe("torchvision Swin", model, windows, None)


def _swin(cutter: Any, pad_first: bool = False) -> PutBack:
    """Windows cut from a picture that is shifted and padded, of a site whose input is (b H W D).

    Args:
        cutter: has `window_size` and `shift_size`, (height, width) each.
        pad_first: as for `windows_to_picture`.
    """

    def put_back(received: Tensor, inputs: tuple[Any, ...]) -> Tensor:
        height, width = inputs[0].shape[1:3]
        return windows_to_picture(received, (height, width), cutter.window_size, cutter.shift_size, pad_first)

    return put_back


@register_adapter("timm MaxxVit")
def describe_maxxvit(model: nn.Module) -> Anatomy | None:
    """Describe a timm MaxxVit (MaxViT, CoAtNet's kin with windows) by its window and grid attention; None for another.

    Raises:
        ModelError: it has no such attention, or one with channels first.
    """
    if not isinstance(model, MaxxVit):
        return None
    stages: Any = model.stages
    windows = [
        Window(f"stages.{stage}.{name}", stage, part.attn, part, _partitioned(part))
        for stage, whole in enumerate(stages)
        for name, part in whole.named_modules()
        if type(part) is PartitionAttentionCl
    ]
    if not windows:
        raise ModelError(
            f"{name_of(model)} has no window attention with channels last, which is all that vitscope can put back"
        )
    return _describe("timm MaxxVit", model, windows, _built_size(model))


def _partitioned(part: Any) -> PutBack:
    def put_back(received: Tensor, inputs: tuple[Any, ...]) -> Tensor:
        size, window = list(inputs[0].shape[1:3]), part.partition_size
        cut = received.transpose(1, 2).unflatten(1, tuple(window))  # windows tall wide h
        whole: Tensor = (window_reverse if part.partition_block else grid_reverse)(cut.contiguous(), window, size)
        return whole.permute(0, 3, 1, 2)

    return put_back


@register_adapter("timm Hiera")
def describe_hiera(model: nn.Module) -> Anatomy | None:
    """Describe a timm Hiera by its attention in mask units and over the whole; None for another class.

    Blocks that pool their queries belong to two stages and are left out.
    """
    if not isinstance(model, Hiera):
        return None
    blocks: Any = model.blocks
    ends: list[int] = list(model.stage_ends)
    windows = [
        Window(
            f"blocks.{index}",
            sum(index > end for end in ends),
            block.attn,
            block,
            _unrolled(model, index),
        )
        for index, block in enumerate(blocks)
        if block.attn.q_stride == 1
    ]
    shape: list[int] = list(model.tokens_spatial_shape)
    height, width = (cells * stride for cells, stride in zip(shape, model.patch_stride, strict=True))
    return _describe("timm Hiera", model, windows, (height, width))


def _unrolled(model: Any, index: int) -> PutBack:
    def put_back(received: Tensor, _: tuple[Any, ...]) -> Tensor:
        # In units, tokens lie (within a unit, unit), as MaskUnitAttention reads them: b h units n -> b n units h.
        tokens = received.permute(0, 3, 2, 1).flatten(1, 2) if received.ndim == 4 else received.transpose(1, 2)
        whole: Tensor = model.reroll(tokens.contiguous(), index)
        return whole.permute(0, 3, 1, 2)

    return put_back


@register_adapter("timm PVT-v2")
def describe_pvt(model: nn.Module) -> Anatomy | None:
    """Describe a timm PyramidVisionTransformerV2, whose queries all share a few pooled keys; None for another class."""
    if not isinstance(model, PyramidVisionTransformerV2):
        return None
    stages: Any = model.stages
    windows = [
        Window(f"stages.{stage}.blocks.{index}", stage, block.attn, block.attn, _pooled_keys(block.attn))
        for stage, whole in enumerate(stages)
        for index, block in enumerate(whole.blocks)
    ]
    return _describe("timm PVT-v2", model, windows, _built_size(model))


def _pooled_keys(attention: Any) -> PutBack:
    def put_back(received: Tensor, inputs: tuple[Any, ...]) -> Tensor:
        height, width = inputs[1]
        if attention.pool is not None:
            side = attention.pool.output_size
            height, width = side if isinstance(side, tuple) else (side, side)
        elif attention.sr is not None:
            height, width = height // attention.sr.stride[0], width // attention.sr.stride[1]
        on_grid: Tensor = received.unflatten(-1, (height, width))
        return on_grid

    return put_back


@register_adapter("timm LeViT")
def describe_levit(model: nn.Module) -> Anatomy | None:
    """Describe a timm Levit, whose stages shrink the picture, for square pictures; None for another class."""
    if not isinstance(model, Levit):
        return None
    stages: Any = model.stages
    windows = [
        Window(f"stages.{stage}.{name}", stage, part, part, _square)
        for stage, whole in enumerate(stages)
        for name, part in whole.named_modules()
        if type(part).__name__ == "Attention"
    ]
    first: Any = windows[0].attention
    side = isqrt(first.attention_bias_idxs.shape[-1]) * int(model.stem.stride)
    return _describe("timm LeViT", model, windows, (side, side))


def _square(received: Tensor, _: tuple[Any, ...]) -> Tensor:
    side = isqrt(received.shape[-1])
    on_grid: Tensor = received.unflatten(-1, (side, side))
    return on_grid


@register_adapter("timm CrossViT")
def describe_crossvit(model: nn.Module) -> Anatomy | None:
    """Describe a timm CrossVit, whose two branches cut the picture into patches of two sizes; None for another class.

    A branch stands for a stage; the attention between branches is left out, and so are the class tokens' columns.
    """
    if not isinstance(model, CrossVit):
        return None
    multi: Any = model.blocks
    grids = [
        (int(size[0]) // int(embed.patch_size[0]), int(size[1]) // int(embed.patch_size[1]))
        for size, embed in zip(model.img_size_scaled, model.patch_embed, strict=True)
    ]
    windows = [
        Window(f"blocks.{index}.blocks.{branch}.{depth}", branch, block.attn, block, _branch(grids[branch]))
        for branch in range(len(grids))
        for index, both in enumerate(multi)
        for depth, block in enumerate(both.blocks[branch])
    ]
    return _describe("timm CrossViT", model, windows, _built_size(model))


def _branch(grid: Grid) -> PutBack:
    return lambda received, _: received[..., 1:].unflatten(-1, grid)


def _describe(family: str, model: Any, windows: Sequence[Window], size: Grid | None) -> Anatomy:
    """By its windows alone; `size` is the only picture size that it takes, or None where it takes others."""
    return Anatomy(
        family=family,
        name=name_of(model),
        model=model,
        prefix=(),
        blocks=(),
        final_site=None,
        features=lambda output: output,
        classifier=None,
        patch=(1, 1),
        grid=lambda asked: asked,
        input_size=size or (224, 224),
        flexible_size=size is None,
        outputs=_outputs(model),
        windows=tuple(windows),
    )


def _outputs(model: Any) -> int:
    return int(getattr(model, "num_classes", 0) or getattr(getattr(model, "head", None), "out_features", 0))


def _embedding_size(model: Any) -> Grid:
    height, width = model.patch_embed.img_size
    return int(height), int(width)


def _built_size(model: Any) -> Grid:
    """The picture size that the model was built for, where it says so; else its published one."""
    size = getattr(model, "img_size", None) or (getattr(model, "pretrained_cfg", None) or {}).get("input_size", ())[1:]
    height, width = size or (224, 224)
    return int(height), int(width)
