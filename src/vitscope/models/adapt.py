"""For a vision transformer that no adapter knows: say where its parts are, and it is explained like any other."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Block, Classifier, Grid
from vitscope.models.parts import (
    Reading,
    RowMap,
    apart,
    fused,
    multi_head,
    outputs_of,
    reading,
    scaled_by,
    whole_patches,
)
from vitscope.models.placed import with_token_placement
from vitscope.options import check_options


@dataclass(frozen=True)
class Layout:
    """Where the parts of a pre-norm vision transformer are.

    Its blocks must compute e = x + scale1 proj(attention(norm1(x))) and x_next = e + scale2 mlp(norm2(e)). Names are
    attributes of a block, with dots where a part lies deeper.

    Attributes:
        blocks: the blocks in order.
        final_norm: the module behind the last block.
        head: the classifier, or None.
        patch: side of a patch in pixels, or (height, width).
        image_size: side of the pictures that the model takes, or (height, width).
        prefix: names of the tokens before the patch tokens, in order.
        reads: what goes into the head: the "class" token (the first), or the "mean" of the patch tokens, behind the
            final norm.
        norm1, attention, norm2, mlp: of a block.
        qkv: one layer for queries, keys and values, in this order, or three names; not needed where the attention is an
            nn.MultiheadAttention.
        projection: the layer behind the attention; likewise.
        heads: how many, or where the number stands.
        scale1, scale2: LayerScale, parameters or modules, where there are any.
        query_norm, key_norm: of each head's vectors, where there are any.
        score_scale: what the scores are multiplied by; otherwise 1 / sqrt(width of a head).
        any_size: whether pictures of other sizes are taken.
    """

    blocks: Sequence[nn.Module]
    final_norm: nn.Module
    head: nn.Module | None
    patch: int | Grid
    image_size: int | Grid
    prefix: tuple[str, ...] = ("class",)
    reads: Literal["class", "mean"] = "class"
    norm1: str = "norm1"
    attention: str = "attn"
    norm2: str = "norm2"
    mlp: str = "mlp"
    qkv: str | tuple[str, str, str] = "attn.qkv"
    projection: str = "attn.proj"
    heads: int | str = "attn.num_heads"
    scale1: str | None = None
    scale2: str | None = None
    query_norm: str | None = None
    key_norm: str | None = None
    score_scale: float | None = None
    any_size: bool = False


def adapt(model: nn.Module, layout: Layout) -> Anatomy:
    """Describe `model` by `layout`; `vitscope.Explainer(vitscope.adapt(model, layout))` explains it.

    What the layout says is held against the model's own numbers when the Explainer is made.

    Raises:
        ModelError: a part is not where the layout says, or not what it must be.
    """
    check_options(layout, ModelError, "Layout")
    if not layout.blocks:
        raise ModelError("the layout names no blocks; give the model's list of blocks")
    if layout.reads == "class" and not layout.prefix:
        raise ModelError("the layout reads a class token and names no prefix token; give prefix=('class',)")
    classifier = Classifier((layout.head,)) if type(layout.head) is nn.Linear else None
    skipped = len(layout.prefix)

    def features(rows: Tensor) -> Tensor:
        normed = layout.final_norm(rows)
        read: Tensor = normed[:, 0] if layout.reads == "class" else normed[:, skipped:].mean(dim=1)
        return read if classifier is not None or layout.head is None else layout.head(read)

    patch, size = _pair(layout.patch), _pair(layout.image_size)
    rows = 1 if layout.reads == "class" else None
    anatomy = Anatomy(
        family="adapted",
        name=type(model).__name__,
        model=model,
        prefix=tuple(layout.prefix),
        blocks=tuple(_block(f"block {index}", block, layout, rows) for index, block in enumerate(layout.blocks)),
        final_site=layout.final_norm,
        features=features,
        classifier=classifier,
        patch=patch,
        grid=whole_patches(patch, only=None if layout.any_size else size),
        input_size=size,
        flexible_size=layout.any_size,
        outputs=outputs_of(layout.head, told=1),
    )
    return with_token_placement(anatomy)


def _block(name: str, block: nn.Module, layout: Layout, rows: int | None) -> Block:
    def part(path: str) -> Any:
        try:
            return operator.attrgetter(path)(block)
        except AttributeError as error:
            raise ModelError(f"{name}, a {type(block).__name__}, has no '{path}'; correct the layout") from error

    attention, norm2, mlp = part(layout.attention), part(layout.norm2), part(layout.mlp)
    if isinstance(attention, nn.MultiheadAttention):
        read, projection, heads = multi_head(name, attention), attention.out_proj, attention.num_heads
    else:
        heads = layout.heads if isinstance(layout.heads, int) else int(part(layout.heads))
        read, projection = _reading(layout, part, heads), part(layout.projection)
    return Block(
        name=name,
        module=block,
        norm=part(layout.norm1),
        attention=attention,
        heads=heads,
        projection=_scaled(part(layout.scale1) if layout.scale1 else None, projection),
        feedforward=_scaled(part(layout.scale2) if layout.scale2 else None, lambda rows: mlp(norm2(rows))),
        feedforward_site=norm2,
        queries=read.queries,
        keys_values=read.keys_values,
        affine_keys=read.affine_keys,
        rows=rows,
        plain=False,  # nothing is known of how the block handles rows that are left out
    )


def _reading(layout: Layout, part: Callable[[str], Any], heads: int) -> Reading:
    """How queries, keys and values are read.

    Raises:
        ModelError: a part is no linear layer, or of a width that does not make three, or that many heads.
    """
    names = (layout.qkv,) if isinstance(layout.qkv, str) else layout.qkv
    if len(names) not in (1, 3):
        raise ModelError(f"qkv={names!r} names {len(names)} layers; give one, or three: queries, keys and values")
    found = [part(path) for path in names]
    if not hasattr(found[0], "out_features"):
        raise ModelError(f"qkv='{names[0]}' is a {type(found[0]).__name__} and no linear layer; correct the layout")
    if len(found) == 1:
        (layer,) = found
        layers, (width, rest) = fused(layer), divmod(layer.out_features, 3)
        if rest:
            raise ModelError(
                f"qkv='{names[0]}' has {layer.out_features} outputs, which are not three of one width; name the layer "
                "that gives queries, keys and values, or three layers"
            )
    else:
        query, key, value = found
        layers, width = apart(query, key, value), query.out_features
    if heads < 1 or width % heads:
        raise ModelError(
            f"heads={layout.heads}: queries of width {width} make no {heads} heads of one width; correct heads or qkv"
        )
    norms = [part(name) if name else None for name in (layout.query_norm, layout.key_norm)]
    return reading(layers, heads, layout.score_scale or (width // heads) ** -0.5, *norms)


def _scaled(scale: Any, function: RowMap) -> RowMap:
    if isinstance(scale, nn.Module):
        return lambda rows: scale(function(rows))
    return function if scale is None else scaled_by(lambda: scale, function)


def _pair(side: int | Grid) -> Grid:
    height, width = (side, side) if isinstance(side, int) else side
    return int(height), int(width)
