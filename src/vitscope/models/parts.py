"""What adapters share: how queries, keys and values are read off a module's own layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Block, Grid

RowMap = Callable[[Tensor], Tensor]
Rotate = Callable[[Tensor, Grid], Tensor]


@dataclass(frozen=True)
class Projections:
    """The layers from t_b to queries, keys and values, before heads are split: each (b n D) -> (b n D).

    `affine` tells whether keys and values are known to be affine in the tokens.
    """

    query: RowMap
    keys_values: Callable[[Tensor], tuple[Tensor, Tensor]]
    affine: bool = True


def joint(weight: Callable[[], Tensor], bias: Callable[[], Tensor | None]) -> Projections:
    """One matrix for all three, rows in the order query, key, value, as it is when it is asked for.

    Args:
        weight: gives (3D x D).
        bias: gives (3D), or None.
    """

    def query(rows: Tensor) -> Tensor:
        matrix, offset = weight(), bias()
        width = len(matrix) // 3
        return F.linear(rows, matrix[:width], None if offset is None else offset[:width])

    def keys_values(tokens: Tensor) -> tuple[Tensor, Tensor]:
        matrix, offset = weight(), bias()
        width = len(matrix) // 3
        keys, values = F.linear(tokens, matrix[width:], None if offset is None else offset[width:]).chunk(2, dim=-1)
        return keys, values

    return Projections(query, keys_values)


def fused(layer: nn.Module) -> Projections:
    """One layer for all three, outputs in the order query, key, value.

    A plain Linear layer is evaluated in parts. Any other, such as one with a LoRA adapter, is called as it is, so that
    all that it adds is included.
    """
    if is_plain_linear(layer):
        return joint(lambda: layer.weight, lambda: layer.bias)

    def keys_values(tokens: Tensor) -> tuple[Tensor, Tensor]:
        _, keys, values = layer(tokens).chunk(3, dim=-1)
        return keys, values

    return Projections(lambda rows: layer(rows).chunk(3, dim=-1)[0], keys_values, affine=False)


def apart(query: nn.Module, key: nn.Module, value: nn.Module) -> Projections:
    """A layer for each."""
    affine = is_plain_linear(key) and is_plain_linear(value)
    return Projections(query, lambda tokens: (key(tokens), value(tokens)), affine)


def is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether calling `layer` gives exactly x W' + b with its own weight and bias: no subclass, adapter or hook."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return type(layer) is nn.Linear and not hooked


@dataclass(frozen=True)
class Reading:
    """The `queries`, `keys_values` and `affine_keys` of a `Block`."""

    queries: Callable[[Tensor, Grid], Tensor]
    keys_values: Callable[[Tensor, Grid], tuple[Tensor, Tensor]]
    affine_keys: bool


def reading(
    layers: Projections,
    heads: int,
    scale: float,
    query_norm: nn.Module | None = None,
    key_norm: nn.Module | None = None,
    rotate: Rotate | None = None,
) -> Reading:
    """Split into heads, norm, rotate by position, scale.

    Args:
        layers: the three projections.
        heads: number of heads h.
        scale: of the scores.
        query_norm, key_norm: applied to each head's vectors.
        rotate: leading rows by head (b h r d), patch grid -> the same, rotated by their positions.
    """
    normed_query = query_norm or nn.Identity()
    normed_key = key_norm or nn.Identity()

    def by_head(rows: Tensor) -> Tensor:
        split: Tensor = rows.unflatten(-1, (heads, -1))
        return split.transpose(1, 2)

    def queries(rows: Tensor, grid: Grid) -> Tensor:
        found = normed_query(by_head(layers.query(rows)))
        scaled: Tensor = (found if rotate is None else rotate(found, grid)) * scale
        return scaled

    def keys_values(tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        keys, values = layers.keys_values(tokens)
        found = normed_key(by_head(keys))
        return (found if rotate is None else rotate(found, grid)), by_head(values)

    return Reading(
        queries, keys_values, affine_keys=layers.affine and rotate is None and isinstance(normed_key, nn.Identity)
    )


def rotated_after(prefix: int, rotation: Callable[[Tensor, Grid], Tensor]) -> Rotate:
    """Rotate the rows (b h r d) behind the first `prefix`, which have no position."""

    def rotate(rows: Tensor, grid: Grid) -> Tensor:
        if rows.shape[2] <= prefix:
            return rows
        turned = rotation(rows[:, :, prefix:], grid)
        return torch.cat([rows[:, :, :prefix], turned], dim=2).type_as(rows)

    return rotate


def scaled_by(scale: Callable[[], Tensor | float | None], function: RowMap) -> RowMap:
    """`function` times a LayerScale parameter, where there is one."""

    def scaled(rows: Tensor) -> Tensor:
        factor = scale()
        return function(rows) if factor is None else factor * function(rows)

    return scaled


def multi_head(name: str, attention: nn.MultiheadAttention) -> Reading:
    """Of torch's own multi-head self-attention.

    Raises:
        ModelError: keys of another width, added keys, or tokens on the first axis.
    """
    weight = attention.in_proj_weight
    if weight is None or attention.bias_k is not None or attention.add_zero_attn or not attention.batch_first:
        raise ModelError(
            f"{name} is an nn.MultiheadAttention with keys of their own or tokens before pictures; build it with "
            "batch_first=True and without kdim, vdim, add_bias_kv and add_zero_attn"
        )
    layers = joint(lambda: attention.in_proj_weight, lambda: attention.in_proj_bias)
    return reading(layers, attention.num_heads, attention.head_dim**-0.5)


def whole_patches(patch: Grid, only: Grid | None = None) -> Callable[[Grid], Grid]:
    """Picture size in pixels -> patch grid, for pictures of whole patches, or of one size alone.

    Args:
        patch: (height, width) of a patch in pixels.
        only: the one size (height, width) that the model takes, or None for any.
    """

    def grid(size: Grid) -> Grid:
        if only is not None and tuple(size) != tuple(only):
            raise ModelError(
                f"the model takes pictures of {only[0]} x {only[1]} pixels, got {size[0]} x {size[1]}; resize them"
            )
        if size[0] % patch[0] or size[1] % patch[1]:
            raise ModelError(
                f"pictures of {size[0]} x {size[1]} pixels are not made of whole patches of {patch[0]} x {patch[1]}; "
                "resize them"
            )
        return size[0] // patch[0], size[1] // patch[1]

    return grid


def timm_like_block(name: str, block: Any, read: Reading | None = None) -> Block:
    """A block of timm's names without more: norm1, attn (qkv, proj, num_heads, scale), norm2, mlp.

    Args:
        name: for messages.
        block: of timm's names, the class token's row of which leads to the output.
        read: how queries, keys and values are read, where that is not by one `qkv` layer.
    """
    attention = block.attn
    if read is None:
        read = reading(fused(attention.qkv), attention.num_heads, attention.scale)
    return Block(
        name=name,
        module=block,
        norm=block.norm1,
        attention=attention,
        heads=int(attention.num_heads),
        projection=attention.proj,
        feedforward=lambda rows: block.mlp(block.norm2(rows)),
        feedforward_site=block.norm2,
        queries=read.queries,
        keys_values=read.keys_values,
        affine_keys=read.affine_keys,
    )


def windows_to_picture(
    received: Tensor, size: Grid, window: Sequence[int], shift: Sequence[int], pad_first: bool
) -> Tensor:
    """Values of the tokens of Swin's windows -> where they lie, (b h rows cols).

    Args:
        received: (windows h n), the windows of a picture together, row by row.
        size: rows and columns of the picture's tokens.
        window: rows and columns of a window.
        shift: by how much the picture was rolled up and to the left before it was cut.
        pad_first: whether it was padded to whole windows before it was rolled; then a side of one window is not.
    """
    (height, width), (tall, wide), (down, right) = size, window, shift
    rows, cols = -(-height // tall), -(-width // wide)
    cut = received.unflatten(0, (-1, rows, cols)).unflatten(-1, (tall, wide))  # b rows cols h tall wide
    whole = cut.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    if not pad_first:
        return torch.roll(whole[..., :height, :width], (down, right), dims=(2, 3))
    down, right = (0 if rows == 1 else down), (0 if cols == 1 else right)
    return torch.roll(whole, (down, right), dims=(2, 3))[..., :height, :width]


def outputs_of(head: nn.Module | None, told: int) -> int:
    """How many outputs a head has as far as its layers tell, 0 for none: those of its last Linear layer.

    What a model itself tells is often stale, since heads are replaced by hand. The pass that verifies a description
    counts the outputs in any case.

    Args:
        head: of the model, or None.
        told: for a head without such a layer.
    """
    if head is None or isinstance(head, nn.Identity):
        return 0
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    return layers[-1].out_features if layers else told
