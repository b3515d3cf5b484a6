"""DAAM, AG-CAM and CDAM by hand: whole matrices, replaced functions of torch, plain autograd and loops.

Nothing of the package is used here. Where tokens lie is written down for each model.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

KERNEL = F.scaled_dot_product_attention
SOFTMAXES = [(torch, "softmax"), (F, "softmax"), (Tensor, "softmax")]
PRODUCTS = [(torch, "matmul"), (Tensor, "matmul"), (Tensor, "__matmul__"), (torch, "bmm")]


@dataclass
class Seen:
    """One attention: scores and weights (... r n), values (... n d), output (... r d)."""

    scores: Tensor
    weights: Tensor
    values: Tensor
    output: Tensor


@dataclass
class Watch:
    """Replaces torch's kernel, and its softmaxes with the products that follow them."""

    skip: bool
    seen: list[Seen] = field(default_factory=list)
    waiting: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def kernel(self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        assert not enable_gqa
        scores = torch.einsum("...rd,...nd->...rn", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores + torch.full(scores.shape[-2:], float("-inf"), dtype=scores.dtype).triu(1)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = torch.where(attn_mask, scores, torch.full_like(scores, float("-inf")))
        elif attn_mask is not None:
            scores = scores + attn_mask
        exponents = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        return self.keep(scores, exponents / exponents.sum(dim=-1, keepdim=True), v)

    def keep(self, scores, weights, v):
        if self.skip:
            scores, weights, v = scores.detach(), weights.detach(), v.detach()
        output = torch.einsum("...rn,...nd->...rd", weights, v)
        if not output.requires_grad:
            output.requires_grad_()
        self.seen.append(Seen(scores.detach(), weights.detach(), v.detach(), output))
        return output.clone()

    def softmax(self, plain):
        def call(scores, *args, **kwargs):
            weights = plain(scores, *args, **kwargs)
            if isinstance(scores, Tensor):
                self.waiting.append((scores, weights))
            return weights

        return call

    def product(self, plain):
        def call(first, second, *args, **kwargs):
            for scores, weights in self.waiting:
                if first.shape == weights.shape and torch.equal(first, weights):
                    self.waiting.clear()
                    return self.keep(scores, first, second)
                if first.numel() == weights.numel() and torch.equal(first, weights.reshape(first.shape)):
                    self.waiting.clear()
                    return self.keep(scores.reshape(first.shape), first, second)
            return plain(first, second, *args, **kwargs)

        return call


@contextlib.contextmanager
def watched(skip):
    watch = Watch(skip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", watch.kernel)
        for place, name in SOFTMAXES:
            patch.setattr(place, name, watch.softmax(getattr(place, name)))
        for place, name in PRODUCTS:
            patch.setattr(place, name, watch.product(getattr(place, name)))
        yield watch


def on_grid(values, cells, grid, samples):
    """Values of keys (b * windows, ... n) or (b ... n) summed by cell, one key after the other: (b grid)."""
    total = torch.zeros(samples, math.prod(grid), dtype=values.dtype)
    each = values.reshape(samples, -1)
    where = cells.reshape(-1).repeat(each.shape[1] // cells.numel())
    for index, cell in enumerate(where.tolist()):
        if cell >= 0:
            total[:, cell] += each[:, index]
    return total.view(samples, *grid)


def spread(maps, grid):
    """Maps (b coarse) on a finer grid, each cell's value shared by the area it covers."""
    coarse = maps.shape[1:]
    if tuple(coarse) == tuple(grid):
        return maps
    result = torch.zeros(len(maps), *grid, dtype=maps.dtype)
    for old in itertools.product(*map(range, coarse)):
        for new in itertools.product(*map(range, grid)):
            share = 1.0
            for o, n, before, after in zip(old, new, coarse, grid, strict=True):
                low, high = max(o / before, n / after), min((o + 1) / before, (n + 1) / after)
                share *= max(0.0, high - low) * before
            if share > 0:
                result[(slice(None), *new)] += share * maps[(slice(None), *old)]
    return result


@dataclass
class Literal:
    """Maps of one target, (b grid)."""

    daam: Tensor
    agcam: Tensor
    cdam: Tensor | None


def explain(call, images, target, layouts, module=None, located=None):
    """The three maps.

    Args:
        call: runs the model.
        images: (b ...).
        target: output -> (b).
        layouts: the number of an attention and what was seen of it -> (cells, grid), or None without a place.
        module: whose input CDAM reads, or None.
        located: of that input (b n D) or (b * windows n D) -> (cells, grid).
    """
    samples = len(images)
    entered = []

    def enter(_, args, kwargs):
        first = args[0] if args else next(iter(kwargs.values()))
        mine = first.clone()
        mine.retain_grad()
        entered.append(mine)
        return tuple(mine if each is first else each for each in args), {
            name: mine if each is first else each for name, each in kwargs.items()
        }

    passes = {}
    for skip in (False, True):
        handle = module.register_forward_pre_hook(enter, with_kwargs=True) if module is not None and not skip else None
        with watched(skip) as watch, torch.enable_grad():
            value = target(call(images.clone().requires_grad_()))
        sought = [one.output for one in watch.seen] + ([] if skip else entered)
        gradients = torch.autograd.grad(value.sum(), sought, allow_unused=True, materialize_grads=True)
        passes[skip] = (watch.seen, gradients)
        if handle is not None:
            handle.remove()
    (seen, full), (_, skipped) = passes[False], passes[True]
    found = [layouts(number, one) for number, one in enumerate(seen)]
    used = [
        number for number, one in enumerate(found)
        if one is not None and bool(full[number].any() | skipped[number].any())
    ]  # fmt: skip
    grid = max((found[number][1] for number in used), key=math.prod)
    nothing_read = not any(bool(skipped[number].any()) for number in used)
    daam = agcam = torch.zeros(samples, *grid, dtype=torch.float64)
    for number in used:
        cells, own = found[number]
        one, gradient, direct = seen[number], full[number], skipped[number]
        if bool(direct.any()):
            gradient = gradient * direct.any(dim=-1, keepdim=True)
        at_values = torch.einsum("...rn,...rd->...nd", one.weights, gradient.relu())
        daam = daam + spread(on_grid((at_values * one.values).sum(dim=-1), cells, own, samples).relu(), grid)
        alpha = torch.einsum("...rd,...nd->...rn", full[number] if nothing_read else direct, one.values)
        agcam = agcam + spread(on_grid((alpha.relu() * one.scores.sigmoid()).sum(dim=-2), cells, own, samples), grid)
    cdam = None
    if entered:
        tokens, at_tokens = entered[-1], full[len(seen) :][-1]
        cells, own = located(tokens)
        cdam = on_grid((tokens * at_tokens).sum(dim=-1), cells, own, samples)
    return Literal(daam, agcam, cdam)
