"""What is where in a transformer: the record that an adapter hands to the trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """One transformer block, seen from its tokens `x_b` of shape (b n D). Axis r: the rows that the head reads.

    The adapter's claim, which `vitscope.trace.verify` holds against the model's own numbers:

        t = norm(x);  k, v = keys_values(t);  T = attention's output before `projection`, heads concatenated
        e = x + projection(T);  x_next = e + feedforward(e)

    Attributes:
        name: dotted name in the model, for messages.
        module: the block itself; its first input is x_b.
        norm: the module from x_b, its input, to t_b, the tokens that enter the attention.
        attention: the module inside whose call queries, keys and values meet.
        heads: number of attention heads h; D = h * d.
        projection: row-wise map (b r D) -> (b r D), from T_b to what is added to the residual stream.
        feedforward: row-wise map (b r D) -> (b r D), from e_b to what is added to the residual stream.
        feedforward_site: the first module of `feedforward`; its input is e_b.
        queries: rows of t_b (b r D) -> their queries (b h r d), times the attention's scale.
        keys_values: t_b (b n D) -> keys, values, each (b h n d).
        affine_keys: whether `keys_values` is affine in t, so that its derivative along t is f(t) - f(0).
    """

    name: str
    module: nn.Module
    norm: nn.Module
    attention: nn.Module
    heads: int
    projection: Callable[[Tensor], Tensor]
    feedforward: Callable[[Tensor], Tensor]
    feedforward_site: nn.Module
    queries: Callable[[Tensor], Tensor]
    keys_values: Callable[[Tensor], tuple[Tensor, Tensor]]
    affine_keys: bool


@dataclass(frozen=True)
class Classifier:
    """y = W f + bias, the mean of one or several linear layers that each read their own part of f.

    Attributes:
        heads: the layers, in the order of their parts; a distilled DeiT has two, on the class and distillation token.
    """

    heads: tuple[nn.Linear, ...]

    @property
    def weight(self) -> Tensor:
        """W as it is now, (c F)."""
        if len(self.heads) == 1:
            return self.heads[0].weight
        return torch.cat([head.weight for head in self.heads], dim=1) / len(self.heads)

    def __call__(self, features: Tensor) -> Tensor:
        """(... F) -> (... c)."""
        parts = features.split([head.in_features for head in self.heads], dim=-1)
        outputs = [head(part) for head, part in zip(self.heads, parts, strict=True)]
        return torch.stack(outputs).mean(dim=0) if len(outputs) > 1 else outputs[0]


@dataclass(frozen=True)
class Anatomy:
    """A vision transformer as vitscope sees it.

    Attributes:
        family: the adapter's name, e.g. "timm VisionTransformer".
        name: the model's name for people.
        model: the model itself, never changed.
        prefix: names of the tokens before the patch tokens, in order; the class token is first where there is one.
        blocks: the blocks in the order of the forward pass.
        final_site: the module whose input is the last block's output x_{B+1}, (b n D).
        rows_read: how many leading prefix tokens the head reads: 1, the class token, or 2 in a distilled DeiT.
        features: x_{B+1} of these rows only, (b r D) -> what the classifier reads (b F); where there is no classifier,
            or it is not affine, the model's output (b c).
        classifier: the affine classifier behind the features, or None.
        patch: height and width of a patch in pixels.
        grid: picture size (height, width) in pixels -> patch grid (rows, cols).
        input_size: the picture size (height, width) that the model was built for.
        flexible_size: whether other sizes are taken.
        outputs: number of outputs c of the head, 0 where there is no head.
        no_class_row: why class-row methods are not defined, or "" where they are.
    """

    family: str
    name: str
    model: nn.Module
    prefix: tuple[str, ...]
    blocks: tuple[Block, ...]
    final_site: nn.Module
    rows_read: int
    features: Callable[[Tensor], Tensor]
    classifier: Classifier | None
    patch: tuple[int, int]
    grid: Callable[[tuple[int, int]], tuple[int, int]]
    input_size: tuple[int, int]
    flexible_size: bool
    outputs: int
    no_class_row: str = ""

    def output(self, features: Tensor) -> Tensor:
        """The model's output (b c) of its features (b F)."""
        return features if self.classifier is None else self.classifier(features)
