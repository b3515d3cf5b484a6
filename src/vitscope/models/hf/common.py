"""What the adapters for transformers share: classes known by name, blocks described by the roles of their parts.

Names of modules changed between versions of transformers and differ between families, so that each role is looked up
under all of its names; what is found is held against the model's own numbers by `vitscope.trace.verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.errors import ModelError, RefusedError
from vitscope.models.anatomy import Anatomy, Block, Classifier, Part
from vitscope.models.parts import Rotate, RowMap, apart, reading, scaled_by

Size = tuple[int, int]
_SEEN_KERNELS = (None, "sdpa", "eager")


def class_in(model: nn.Module, packages: Collection[str], classes: Collection[str]) -> str:
    """The name of the transformers class that the model is, or derives from; "" where it is not of these packages.

    Args:
        model: any module.
        packages: of `transformers.models`.
        classes: those of their classes that the adapter knows.

    Raises:
        ModelError: another class of these packages.
    """
    names = [
        kind.__name__
        for kind in type(model).__mro__
        if kind.__module__.startswith("transformers.models.") and kind.__module__.split(".")[2] in packages
    ]
    if not names:
        return ""
    for name in names:
        if name in classes:
            return name
    prefix = getattr(model, "base_model_prefix", "")
    inside = type(getattr(model, prefix, None)).__name__ in classes
    way = f"explain its encoder, model.{prefix}" if inside else f"use a {' or '.join(classes)}"
    raise ModelError(f"a {names[0]} does not give one output a picture; {way}")


def role(module: Any, *names: str) -> Any:
    """The first of `names` (dotted) that the module has.

    Raises:
        ModelError: it has none of them.
    """
    for name in names:
        found = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise ModelError(f"{type(module).__name__} has no {' or '.join(names)}; vitscope does not know this version of it")


def pair(size: Any) -> Size:
    """A configuration's size, one number or (height, width), as (height, width)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def encoder_of(model: Any) -> Any:
    """The module with embeddings and layers: the model itself, or the part of it that its class names."""
    return getattr(model, model.base_model_prefix, model)


def encoder_blocks(model: nn.Module, encoder: Any, rows: int | None, rotate: Rotate | None = None) -> tuple[Block, ...]:
    """Describe every layer of `encoder`, a part of `model`; `rows` lead to the output.

    Raises:
        ModelError: a layer has no part of a role, or an attention kernel that torch does not show.
    """
    layers = role(encoder, "layers", "layer", "encoder.layers", "encoder.layer", "model.layer")
    names = {id(module): name for name, module in model.named_modules()}
    return tuple(_block(names[id(layer)], layer, rows, rotate) for layer in layers)


def _block(name: str, layer: Any, rows: int | None, rotate: Rotate | None) -> Block:
    """One pre-norm layer."""
    outer = role(layer, "attention", "self_attn")
    attention = getattr(outer, "attention", outer)  # older classes keep the output layer in a module around it
    kernel = getattr(getattr(attention, "config", None), "_attn_implementation", None)
    if kernel not in _SEEN_KERNELS:
        raise RefusedError(
            f"{name} computes its attention by {kernel}, which torch does not show; load it with "
            'attn_implementation="sdpa"'
        )
    query, key, value = (role(attention, f"{part[0]}_proj", part) for part in ("query", "key", "value"))
    heads = int(role(attention, "num_attention_heads", "num_heads"))
    scale = float(getattr(attention, "scaling", getattr(attention, "scale", (query.out_features // heads) ** -0.5)))
    read = reading(apart(query, key, value), heads, scale, rotate=rotate)
    second_norm = role(layer, "layernorm_after", "norm2", "layer_norm2")
    mlp: RowMap = layer.mlp if hasattr(layer, "mlp") else nn.Sequential(layer.intermediate, layer.output.dense)
    return Block(
        name=name,
        module=layer,
        norm=role(layer, "layernorm_before", "norm1", "layer_norm1"),
        attention=outer,
        heads=heads,
        projection=_layer_scaled(layer, 1, role(outer, "o_proj", "out_proj", "output.dense")),
        feedforward=_layer_scaled(layer, 2, lambda rows: mlp(second_norm(rows))),
        feedforward_site=second_norm,
        queries=read.queries,
        keys_values=read.keys_values,
        affine_keys=read.affine_keys,
        rows=rows,
    )


def _layer_scaled(layer: Any, which: int, function: RowMap) -> RowMap:
    """`function` with the layer's first or second LayerScale behind it, a module or a parameter, where it has one."""
    module = getattr(layer, f"layer_scale{which}", None)
    if module is None:
        return scaled_by(lambda: getattr(layer, f"lambda_{which}", None), function)

    def scaled(rows: Tensor) -> Tensor:
        added: Tensor = module(function(rows))
        return added

    return scaled


def grid_of(patch: Size, built_for: Size, interpolates: bool) -> Callable[[Size], Size]:
    """Picture size -> patch grid, as a convolution makes it: pixels beyond the last whole patch are not seen."""

    def grid(size: Size) -> Size:
        if size != built_for and not interpolates:
            raise ModelError(
                f"the model takes pictures of {built_for[0]} x {built_for[1]} pixels, got {size[0]} x {size[1]}; "
                "resize them"
            )
        rows, cols = size[0] // patch[0], size[1] // patch[1]
        if not rows or not cols:
            raise ModelError(f"pictures of {size[0]} x {size[1]} pixels hold no patch of {patch[0]} x {patch[1]}")
        return rows, cols

    return grid


def at_size(model: Any, built_for: Size) -> Callable[..., Any]:
    """The model, with its positions interpolated where a picture is of another size than it was built for."""

    def call(images: Tensor, **options: Any) -> Any:
        if tuple(images.shape[-2:]) != built_for:
            options["interpolate_pos_encoding"] = True
        return model(images, return_dict=True, **options)

    return call


@dataclass(frozen=True)
class Tail:
    """What lies behind the last block: the `features`, `classifier` and `outputs` of an `Anatomy`."""

    features: RowMap
    classifier: Classifier | None = None
    outputs: int = 0


def headed(read: RowMap, labels: int, *heads: nn.Module) -> Tail:
    """The tail of a model whose heads each read their own part of the features; the output is their mean.

    Args:
        read: rows of the last block's output (b r D) -> features (b F).
        labels: number of outputs, where a head does not tell it.
        heads: linear, another module, or an Identity, which is no head.
    """
    if all(type(head) is nn.Linear for head in heads):
        classifier = Classifier(heads)  # type: ignore[arg-type]
        return Tail(read, classifier, classifier.heads[0].out_features)

    def output(rows: Tensor) -> Tensor:
        parts = read(rows).chunk(len(heads), dim=-1)
        return torch.stack([head(part) for head, part in zip(heads, parts, strict=True)]).mean(dim=0)

    return Tail(output, outputs=0 if all(isinstance(head, nn.Identity) for head in heads) else labels)


def describe(
    family: str,
    model: Any,
    config: Any,
    *,
    prefix: Iterable[str],
    blocks: tuple[Block, ...],
    final_site: nn.Module | None,
    tail: Tail,
    call: Callable[[Tensor], Tensor],
    interpolates: bool = True,
    reads: tuple[Part, ...] = ("patches",),
    note: str = "",
) -> Anatomy:
    """The anatomy, with sizes and name as `config`, the image tower's, has them.

    Args:
        family, model, prefix, blocks, final_site, call, reads, note: as in `Anatomy`.
        config: of the image tower.
        tail: what lies behind the last block.
        interpolates: whether the model takes pictures of other sizes than it was built for.
    """
    patch, built_for = pair(config.patch_size), pair(config.image_size)
    return Anatomy(
        family=family,
        name=str(getattr(model.config, "_name_or_path", "") or type(model).__name__),
        model=model,
        prefix=tuple(prefix),
        blocks=blocks,
        final_site=final_site,
        features=tail.features,
        classifier=tail.classifier,
        patch=patch,
        grid=grid_of(patch, built_for, interpolates),
        input_size=built_for,
        flexible_size=interpolates,
        outputs=tail.outputs,
        reads=reads,
        note=note,
        texts=text_embeddings(model),
        call=call,
    )


def text_embeddings(model: Any) -> Callable[[Any], Tensor] | None:
    """The text tower of a model that has one: what its tokenizer gives -> embeddings (t F)."""
    if not hasattr(model, "get_text_features"):
        return None

    def texts(tokens: Any) -> Tensor:
        found = model.get_text_features(**tokens) if hasattr(tokens, "keys") else model.get_text_features(tokens)
        embedded: Tensor = getattr(found, "pooler_output", found)
        return embedded

    return texts
