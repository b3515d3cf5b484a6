"""What methods read of a network's attention calls: queries, keys, values, and gradients at their outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vitscope.errors import MethodError
from vitscope.network.spec import Fold, Site, TokenLayout
from vitscope.recording.calls import AttentionCall
from vitscope.trace.budget import cut_down

FEW = 16
"""Up to so many rows are multiplied by themselves; the kernel's backward pass takes all."""


@dataclass(frozen=True)
class AttentionRecord:
    """One attention call of a pass, with the gradients of all targets at its output.

    Tensors keep the network's own layout: any leading axes, in which samples, windows and heads lie, then r queries or
    n keys, and a width d. `on_grid` brings what was computed for each key to the image.

    Attributes:
        site: the call, as the probe knows it.
        samples: how many there are.
        call: queries, keys and values, without a graph.
        gradients: of every target at the output (... r d), by path: "full", "skip", or the name of the rules that
            another backward pass follows, such as "libra".
        rows: the queries that are read, (k), where that is known without the skip path.
        without: why there is no gradient of some rules, by their name.
    """

    site: Site
    samples: int
    call: AttentionCall
    gradients: dict[str, list[Tensor]] = field(default_factory=dict)
    rows: Tensor | None = None
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> TokenLayout:
        """Where the keys lie."""
        assert self.site.layout is not None
        return self.site.layout

    @property
    def heads(self) -> int:
        """How many heads there are: keys in the same cell."""
        return max(1, int(self.layout.counts().max()))

    def gradient(self, path: str) -> list[Tensor]:
        """Every target's gradient at the output (... r d).

        Raises:
            MethodError: no method asked for this path, or a layer has no rule for it.
        """
        if path in self.without:
            raise MethodError(self.without[path])
        if path not in self.gradients:
            raise MethodError(f"path={path} is defined for the models that `vitscope models` lists; use path=full")
        return self.gradients[path]

    def read(self) -> Tensor:
        """The queries of any sample and head that lead to any target without passing a later attention, (k) indices.

        These rows are the readout: the class token's where a class token is read, all where tokens are pooled, and all
        where a target reads none of them but through a later attention, as of an encoder under a decoder.
        """
        if self.rows is not None:
            rows = self.rows.to(self.call.value.device)
        else:
            read = [gradient.any(dim=-1).flatten(0, -2).any(dim=0) for gradient in self.gradient("skip")]
            rows = torch.stack([each | ~each.any() for each in read]).any(dim=0).nonzero()[:, 0]
        return rows if len(rows) else torch.arange(self.call.queries, device=rows.device)

    def shares(self, rows: Tensor) -> Tensor:
        """How much each of these rows counts in its sample, window and head, (... k): all that are read there alike."""
        shape = (*self.call.lead, len(rows))
        if self.rows is not None:
            return self.call.value.new_full(shape, 1 / len(rows))
        read = torch.stack([gradient.any(dim=-1) for gradient in self.gradient("skip")]).any(dim=0)
        counted = (read | ~read.any()).index_select(-1, rows).to(self.call.value)
        return counted / counted.sum(dim=-1, keepdim=True).clamp_min(1)

    def at_read(self, path: str) -> list[Tensor]:
        """Every target's gradient at the rows that are read (... k d), zero where a row leads to another target."""
        rows = self.read()
        gradients = [gradient.index_select(-2, rows) for gradient in self.gradient(path)]
        if self.rows is not None or path == "skip":
            return gradients
        masks = [each.index_select(-2, rows).any(dim=-1, keepdim=True) for each in self.gradient("skip")]
        return [gradient * (mask | ~mask.any()) for gradient, mask in zip(gradients, masks, strict=True)]

    def scores(self, rows: Tensor, limit: int = 2**24) -> Iterator[tuple[Tensor, Tensor]]:
        """The scores z of some queries, with the mask: a few of them (k) and their scores (... k n) at a time."""
        call = self.call
        size = max(1, cut_down(limit) // max(1, math.prod(call.lead) * call.value.shape[-2]))
        for some in rows.split(size) if len(rows) else ():
            if call.scores is not None:
                yield some, call.scores.index_select(-2, some)
                continue
            if call.probabilities is not None or call.query is None or call.key is None:
                raise MethodError(f"{self.site.name}: the scores before its softmax were not seen")
            products = call.query.index_select(-2, some) @ call.key.transpose(-2, -1) * call.scale
            yield some, _masked(products, call, some)

    def attention(self, rows: Tensor, limit: int = 2**24) -> Iterator[tuple[Tensor, Tensor]]:
        """The attention of some queries, likewise: (k) and (... k n)."""
        call = self.call
        if call.probabilities is not None:
            size = max(1, cut_down(limit) // max(1, math.prod(call.lead) * call.value.shape[-2]))
            for some in rows.split(size) if len(rows) else ():
                yield some, call.probabilities.index_select(-2, some)
            return
        for some, scores in self.scores(rows, limit):
            yield some, scores.softmax(dim=-1).nan_to_num(0.0)  # a query that sees no key

    def at_values(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """A^T G: what a gradient G at the outputs of these rows (... k d) is at the values (... n d).

        The matrix A is made a few rows at a time, or never, by the backward pass of torch's own kernel.
        """
        if len(rows) == 0:
            return torch.zeros_like(self.call.value)
        if self.call.probabilities is not None:
            return self.call.probabilities.index_select(-2, rows).transpose(-2, -1) @ gradient
        if len(rows) <= FEW:
            parts = [
                part.transpose(-2, -1) @ gradient[..., _places(some, rows), :] for some, part in self.attention(rows)
            ]
            total: Tensor = torch.stack(parts).sum(dim=0)
            return total
        assert self.call.query is not None
        assert self.call.key is not None
        whole = gradient.new_zeros(*gradient.shape[:-2], self.call.queries, gradient.shape[-1])
        whole = whole.index_copy(-2, rows, gradient)
        with torch.enable_grad():
            value = self.call.value.detach().requires_grad_()
            output = F.scaled_dot_product_attention(
                self.call.query, self.call.key, value, self.call.mask, is_causal=self.call.causal, scale=self.call.scale
            )
            (found,) = torch.autograd.grad(output, value, whole)
        return found

    def by_sample(self, values: Tensor) -> Tensor:
        """(... n) -> (b, one sample's leading axes and n)."""
        return by_sample(values, self.site.fold, self.samples)

    def on_grid(self, values: Tensor) -> Tensor:
        """What was computed for each key (... n) -> its sum over heads and windows in each cell (b, grid), float32."""
        return self.layout.to_grid(self.by_sample(values).float())


def by_sample(values: Tensor, fold: Fold | None, samples: int) -> Tensor:
    """A tensor with the samples in front; one that does not depend on the sample is the same for all."""
    if fold is None:
        return values[None].expand(samples, *values.shape)
    return fold.split(values, samples)


def _places(some: Tensor, rows: Tensor) -> slice:
    """Where consecutive ones of the rows stand among them."""
    start = int((rows == some[0]).nonzero()[0, 0])
    return slice(start, start + len(some))


def _masked(scores: Tensor, call: AttentionCall, rows: Tensor) -> Tensor:
    if call.causal:
        seen = torch.arange(scores.shape[-1], device=scores.device)[None] <= rows[:, None]
        scores = scores.masked_fill(~seen, float("-inf"))
    if call.mask is None:
        return scores
    some = call.mask if call.mask.shape[-2] == 1 else call.mask.index_select(-2, rows)
    return scores.masked_fill(~some, float("-inf")) if some.dtype == torch.bool else scores + some


def resized(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Maps (... grid) on another grid; each cell's value is shared by overlap, so that the sum stays."""
    axes = len(grid)
    for axis, size in enumerate(grid, start=-axes):
        if maps.shape[axis] != size:
            maps = (maps.movedim(axis, -1) @ _overlap(maps.shape[axis], size).to(maps)).movedim(-1, axis)
    return maps


def _overlap(before: int, after: int) -> Tensor:
    """The share of each old cell that lies in each new one, (before after)."""
    old, new = (torch.arange(size + 1, dtype=torch.float64) / size for size in (before, after))
    low = torch.maximum(old[:-1, None], new[None, :-1])
    high = torch.minimum(old[1:, None], new[None, 1:])
    return (high - low).clamp_min(0) * before
