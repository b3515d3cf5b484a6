"""What is where in a transformer: the record that an adapter hands to the trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitscope.activation import Activation
from vitscope.images import Placement
from vitscope.models.running import Compiled, Running
from vitscope.once import once

Grid = tuple[int, int]
"""Patch grid, (rows, cols)."""

Part = Literal["class", "patches", "all"]
"""Of what the head reads: the class token's row, the mean of the patch tokens' rows, or that of all rows."""


@dataclass(frozen=True)
class Block:
    """One transformer block, seen from its tokens `x_b` of shape (b n D). Axis r: its rows that lead to the output.

    The adapter's claim, which `vitscope.trace.verify` holds against the model's own numbers:

        t = norm(x);  q = queries(t);  k, v = keys_values(t)
        T = attention's output before `projection`, heads concatenated
        e = x + projection(T);  x_next = e + feedforward(e)

    `projection` and `feedforward` act row by row. An attention pool is a block too: its one query is learned, and it
    has no residual stream (`residual` is False: e = projection(T)).

    Attributes:
        name: dotted name in the model, for messages.
        module: the block itself; its first input is x_b, or the patch tokens of x_b.
        norm: the module from x_b, its input, to t_b, the tokens that enter the attention.
        attention: the module inside whose call queries, keys and values meet.
        heads: number of attention heads h; D = h * d.
        projection: row-wise map (b r D) -> (b r D), from T_b to what is added to the residual stream.
        feedforward: row-wise map (b r D) -> (b r D), from e_b to what is added to the residual stream.
        feedforward_site: the first module of `feedforward`; its input is e_b.
        queries: leading rows of t_b (b r D), patch grid -> their queries (b h r d), times the attention's scale. The
            grid is for positions, where queries and keys are rotated by them.
        keys_values: t_b (b n D), patch grid -> keys, values, each (b h n d).
        affine_keys: whether `keys_values` is affine in t and the same for every token, so that its derivative along t
            is f(t) - f(0).
        rows: how many leading rows of T_b lead to the output without passing a later attention: 1, the class token's;
            2 in a distilled DeiT; 1 in an attention pool. None: all rows, where the head pools the tokens.
        plain: whether x_b is the module's only input and unread rows may be left out of the attention's queries and of
            what follows them.
        residual: whether x_b's rows are added to what the attention gives.
        hands_on: whether the patch tokens that leave the block are those of the next; CaiT's class attention leaves
            them as they are.
    """

    name: str
    module: nn.Module
    norm: nn.Module
    attention: nn.Module
    heads: int
    projection: Callable[[Tensor], Tensor]
    feedforward: Callable[[Tensor], Tensor]
    feedforward_site: nn.Module
    queries: Callable[[Tensor, Grid], Tensor]
    keys_values: Callable[[Tensor, Grid], tuple[Tensor, Tensor]]
    affine_keys: bool
    rows: int | None = 1
    plain: bool = True
    residual: bool = True
    hands_on: bool = True

    def stream(self, rows: Tensor) -> Tensor:
        """What is added to the attention's output of x_b's rows (... r D)."""
        return rows if self.residual else torch.zeros_like(rows)


@dataclass(frozen=True)
class Window:
    """One attention among the tokens of a window, or over pooled keys: where what its keys receive lies in the picture.

    Attributes:
        name: dotted name in the model.
        stage: of the model, counted from 0; within one, all grids are alike.
        attention: the module inside whose call queries and keys meet.
        site: the module whose inputs tell the layout of the tokens.
        put_back: a value for every key and head, as the attention's own tensors have them without their query and
            width axes, (windows h n) or (b h windows n), and the site's inputs -> (b h rows cols).
    """

    name: str
    stage: int
    attention: nn.Module
    site: nn.Module
    put_back: Callable[[Tensor, tuple[Any, ...]], Tensor]


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
        blocks: the blocks in the order of the forward pass; where some have no row that a method could read (CaiT's
            before the class token comes in), those that have.
        final_site: the module whose input is the last block's output x_{B+1}, (b n D); None where there is none.
        features: x_{B+1} of the rows that the head reads, (b r D) -> what the classifier reads (b F); where there is no
            classifier, or it is not affine, the model's output (b c).
        classifier: the affine classifier behind the features, or None.
        patch: height and width of a patch in pixels; (1, 1) where there are windows.
        grid: picture size (height, width) in pixels -> patch grid (rows, cols).
        input_size: the picture size (height, width) that the model was built for.
        flexible_size: whether other sizes are taken.
        outputs: number of outputs c of the head, 0 where there is no head; as the adapter reads it off the layers, or,
            in an Explainer, as the model gave them when its description was verified.
        differentiable: whether the model runs all its blocks with a graph where one is asked for, unlike a linear probe
            that keeps its backbone under torch.no_grad; in an Explainer, as it was when its description was verified.
        windows: in place of blocks, where attention stays within windows or keys are pooled, so that there is no row
            of tokens that leads from a block to the output.
        reads: what the head reads of x_{B+1} where `rows_read` is None: one mean (or maximum) of rows, or several parts
            side by side, whose weights are learned; of several, `final_site` is the norm in front of them.
        note: what a reader of the maps should know of this family, e.g. which blocks are left out.
        texts: what the model's tokenizer gives -> embeddings (t F), in the space of `features`; where there is a text
            tower.
        call: images (b 3 H W) -> output (b c), where the model's own output is not such a tensor; None: the model.
        whole: whether the patch tokens meet in the attention of `blocks` alone; False where earlier ones are left out.
        placement: image size (height, width) in pixels -> how the image that is cut into patches lies on the one that
            the model is given; not the identity where a wrapper, or the model itself, flips, crops or resizes it.
            `grid` is that of the image that is cut into patches.
        running: in which precision the model is run, and how where nothing watches it.
        activation: what turns the outputs into probabilities, where the model declares it; in an Explainer, what is
            used.
        described: whether this says anything of the model; a model that no adapter knows is explained without.
    """

    family: str
    name: str
    model: nn.Module
    prefix: tuple[str, ...]
    blocks: tuple[Block, ...]
    final_site: nn.Module | None
    features: Callable[[Tensor], Tensor]
    classifier: Classifier | None
    patch: tuple[int, int]
    grid: Callable[[tuple[int, int]], tuple[int, int]]
    input_size: tuple[int, int]
    flexible_size: bool
    outputs: int
    windows: tuple[Window, ...] = ()
    differentiable: bool = True
    reads: tuple[Part, ...] = ("patches",)
    note: str = ""
    texts: Callable[[Any], Tensor] | None = None
    call: Callable[[Tensor], Tensor] | None = None
    whole: bool = True
    placement: Callable[[Grid], Placement] = Placement.identity
    running: Running = field(default_factory=Running)
    activation: Activation | None = None
    described: bool = True

    def forward(self, images: Tensor) -> Tensor:
        """The model's output (b c) of images (b 3 H W)."""
        return self.running.run(self.call or self.model, images)

    def plain(self, images: Tensor) -> Tensor:
        """The same where nothing watches the model: no hook, no function mode, no gradient."""
        if self.running.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self._compiled(images) if self.running.compiled else self.forward(images)

    @once
    def _compiled(self) -> Compiled:
        return Compiled(self.forward)

    @once
    def found_out(self) -> dict[Hashable, str]:
        """What passes have shown of the model beside this description, by question."""
        return {}

    @property
    def exact(self) -> Anatomy:
        """The same, run as the weights are."""
        return dataclasses.replace(self, running=Running()) if self.running.lowers else self

    @property
    def rows_read(self) -> int | None:
        """How many leading rows of the last block's output the head reads; None for all, or where there are no rows."""
        return self.blocks[-1].rows if self.blocks else None

    @property
    def class_row(self) -> bool:
        """Whether every block has a row of its own that leads to the output, as the class token's does."""
        return bool(self.blocks) and all(block.rows is not None for block in self.blocks)

    @property
    def rows_of_reads(self) -> tuple[slice, ...]:
        """The rows of each part that the head reads, see `reads`."""
        rows = {"class": slice(0, 1), "patches": slice(len(self.prefix), None), "all": slice(0, None)}
        return tuple(rows[part] for part in self.reads)

    def output(self, features: Tensor) -> Tensor:
        """The model's output (b c) of its features (b F)."""
        return features if self.classifier is None else self.classifier(features)


def undescribed(model: nn.Module) -> Anatomy:
    """What stands for the description of a model that no adapter knows."""
    return Anatomy(
        family="any network",
        name=type(model).__name__,
        model=model,
        prefix=(),
        blocks=(),
        final_site=None,
        features=lambda rows: rows,
        classifier=None,
        patch=(1, 1),
        grid=lambda size: size,
        input_size=(224, 224),
        flexible_size=True,
        outputs=0,
        described=False,
    )
