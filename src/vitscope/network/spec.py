"""What is known of a network: its input, its attention sites, and where their tokens lie in the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["self", "cross", "pool", "channel"]
"""Of an attention site: among tokens of one sequence, from one to another, from learned queries, among channels."""

CELLS = 14
"""Along each axis, for maps of a network in which no token has a place."""


@dataclass(frozen=True)
class InputSpec:
    """The input that is attributed.

    Attributes:
        shape: of one sample, without the batch axis.
        spatial: its axes of places, counted from the batch axis (0): rows and columns; frames or depth before them.
    """

    shape: tuple[int, ...]
    spatial: tuple[int, ...]

    @classmethod
    def of(cls, sample: Tensor) -> InputSpec:
        """By the shape of a batch of one, channels being the axis of 1, 3 or 4, or else the first.

        (b C H W), (b H W C), (b C T H W), (b T C H W), (b n f), (b n).
        """
        shape = tuple(sample.shape)
        axes = list(range(1, len(shape)))
        if len(axes) <= 1:
            return cls(shape[1:], tuple(axes))
        if len(axes) == 2:
            return cls(shape[1:], (2,) if shape[1] in (1, 2, 3) and shape[2] > shape[1] else (1,))
        few = [axis for axis in axes if shape[axis] in (1, 3, 4)]
        channel = next((axis for axis in few if axis != axes[0] or shape[axis] == 3), axes[0]) if few else axes[0]
        if len(axes) == 3 and channel == 2:
            channel = 1
        if channel == axes[0] or channel in few:
            return cls(shape[1:], tuple(axis for axis in axes if axis != channel))
        return cls(shape[1:], tuple(axes[-2:]))

    @property
    def size(self) -> tuple[int, ...]:
        """The extent of the spatial axes, such as (height, width)."""
        return tuple(self.shape[axis - 1] for axis in self.spatial)


@dataclass(frozen=True)
class Fold:
    """How the samples of a batch lie on one axis of a tensor, perhaps together with windows or heads.

    Attributes:
        axis: counted from the front.
        outer: whether a sample's entries are neighbours; otherwise samples are the faster index.
    """

    axis: int
    outer: bool = True

    def split(self, tensor: Tensor, samples: int) -> Tensor:
        """The tensor with the samples in front, (b ...)."""
        each = tensor.shape[self.axis] // samples
        sizes = (samples, each) if self.outer else (each, samples)
        found: Tensor = tensor.unflatten(self.axis, sizes).movedim(self.axis + (0 if self.outer else 1), 0)
        return found


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of one axis lie.

    Attributes:
        grid: cells along each spatial axis, such as (rows, cols).
        cells: flat index of each token's cell, -1 of a token without a place, of the shape of one sample's tokens.
        quality: how clearly lines of the grid are separated, in spreads.
    """

    grid: tuple[int, ...]
    cells: Tensor
    quality: float

    @property
    def located(self) -> int:
        """How many tokens have a place."""
        return int((self.cells >= 0).sum())

    def to_grid(self, values: Tensor) -> Tensor:
        """The sum of the values of each cell's tokens: (... tokens) -> (... grid)."""
        flat, cells = values.flatten(values.ndim - self.cells.ndim), self.cells.flatten().to(values.device)
        kept = (cells >= 0).nonzero()[:, 0]
        count = int(torch.tensor(self.grid).prod())
        summed = values.new_zeros(*flat.shape[:-1], count).index_add(-1, cells[kept], flat[..., kept])
        found: Tensor = summed.unflatten(-1, self.grid)
        return found

    def counts(self) -> Tensor:
        """How many tokens each cell has, (grid)."""
        return self.to_grid(torch.ones(self.cells.shape))


@dataclass(frozen=True)
class Site:
    """One attention call of a forward pass.

    Attributes:
        number: its place in the order of the calls.
        name: dotted name of the innermost module that makes it.
        kind: what meets there.
        queries, keys: how many, in one head and window.
        layout: where its keys lie, or None.
        reason: why its keys have no place, or "".
        fold: how samples lie in queries, keys and values; None where they do not depend on the sample.
        tokens: where the tokens of its module's first input lie, or None.
        token_channel: the axis of the channels in that input.
        token_fold: how samples lie in that input.
    """

    number: int
    name: str
    kind: Kind
    queries: int
    keys: int
    layout: TokenLayout | None
    reason: str
    fold: Fold | None
    tokens: TokenLayout | None = None
    token_channel: int = -1
    token_fold: Fold | None = None


@dataclass(frozen=True)
class Tokens:
    """The located output of a module, at which class activation maps are read.

    Attributes:
        name: dotted name of the module.
        layout: where its tokens lie, of the shape of the output for one sample without the channel axis.
        channel: the axis of the channels.
        fold: how samples lie in it.
    """

    name: str
    layout: TokenLayout
    channel: int
    fold: Fold | None


@dataclass(frozen=True)
class NetworkSpec:
    """What the probe found of a network at one size of its input.

    Attributes:
        input: what is attributed.
        sites: the attention calls, in order.
        tokens: located outputs of modules after the last located site, in order; the last is the default layer of
            class activation maps.
        in_batches: whether the network takes several samples at once.
    """

    input: InputSpec
    sites: tuple[Site, ...]
    tokens: tuple[Tokens, ...] = ()
    in_batches: bool = True

    @property
    def located(self) -> tuple[Site, ...]:
        """The sites whose keys have a place."""
        return tuple(site for site in self.sites if site.layout is not None)

    @property
    def grid(self) -> tuple[int, ...]:
        """Of maps that are read from no token: a site's finest, the last located tokens', or up to 14 cells an axis."""
        layouts = [site.layout.grid for site in self.sites if site.layout is not None]
        if layouts:
            return max(layouts, key=math.prod)
        return self.tokens[-1].layout.grid if self.tokens else tuple(min(side, CELLS) for side in self.input.size)
