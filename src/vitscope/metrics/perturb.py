"""Altered pictures: what replaces pixels, which pixels come first, and plans that replace more and more of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import numpy as np
import scipy
import torch
from torch import Tensor

from vitscope.errors import MetricError
from vitscope.metrics.base import GridMaps, Pictures
from vitscope.metrics.forwards import UNALTERED, Plan, Read

Fill = Literal["zero", "black", "mean", "blur"]
"""What replaces pixels: "zero" of the normalised space, the mean colour of the model's training pictures; "black", zero
before normalisation; "mean", each picture's own mean colour; "blur", the picture under a Gaussian."""

Window = Literal["repeated", "padded"]
"""How a blur ends: "repeated", at 4 sigma, the picture going on as at its edge; "padded", RISE's: 11 pixels wide, the
tails folded back into it, and around the picture zero of the normalised space."""

Order = Literal["most", "least"]

_RISE_FAR = 5


def replacement(pictures: Pictures, fill: Fill, sigma: float = 14.0, window: Window = "repeated") -> Tensor:
    """The wholly altered pictures, (b 3 H W) normalised; made once a batch.

    Args:
        pictures: of the batch.
        fill: see `Fill`.
        sigma: of "blur", in pixels.
        window: of "blur".

    Raises:
        MetricError: an unknown fill.
    """
    if fill not in get_args(Fill):
        raise MetricError(f"nothing fills pixels with '{fill}'; use {', '.join(get_args(Fill))}")
    key = all_filled(fill, sigma, window)
    if key not in pictures.made:
        x = pictures.tensor
        if fill == "blur":
            made = blurred(x, sigma, window)
        elif fill == "mean":
            made = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
        elif fill == "black":
            mean, std = (x.new_tensor(part).view(1, 3, 1, 1) for part in (pictures.mean, pictures.std))
            made = (-mean / std).expand_as(x)
        else:
            made = torch.zeros_like(x)
        pictures.made[key] = made
    return pictures.made[key]


def all_filled(fill: Fill, sigma: float = 14.0, window: Window = "repeated") -> Hashable:
    """The key of wholly replaced pictures."""
    return ("filled", fill, sigma, window) if fill == "blur" else ("filled", fill)


def blurred(images: Tensor, sigma: float, window: Window = "repeated") -> Tensor:
    """Images (b 3 H W) under a Gaussian of this standard deviation in pixels.

    Args:
        images: of any size; the window may be larger.
        sigma: as the "radius" of Pillow's GaussianBlur.
        window: see `Window`.
    """
    far = round(4 * sigma) if window == "repeated" else _RISE_FAR
    offsets = torch.arange(-far, far + 1)
    if window == "repeated":
        weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
        weights = weights / weights.sum()
    else:
        weights = torch.from_numpy(scipy.ndimage.gaussian_filter1d((offsets == 0).numpy().astype(np.float64), sigma))
    for dim in (2, 3):
        n = images.shape[dim]
        # A matrix (n n): two products blur the batch. Weights beyond an edge are added at the edge, or left out.
        sources = torch.arange(n)[:, None] + offsets[None]
        there = (sources >= 0) & (sources < n) | (window == "repeated")
        matrix = torch.zeros(n, n, dtype=torch.float64)
        matrix.scatter_add_(1, sources.clamp(0, n - 1), weights * there)
        images = (images.transpose(dim, -1) @ matrix.T.to(images)).transpose(dim, -1)
    return images


def ranks(values: Tensor, order: Order) -> Tensor:
    """The place of every value in its map's order, from 0; equal values in reading order, whichever the order.

    So a constant map puts the same pixels first both ways, and gains nothing by the difference.

    Args:
        values: (b rows cols).
        order: "most" relevant first (MoRF), or "least" (LeRF).

    Returns:
        (b rows cols) int32.

    Raises:
        MetricError: a value is NaN.
    """
    if bool(values.isnan().any()):
        raise MetricError("a map holds NaN, which has no rank; leave that image out")
    flat = values.flatten(1)
    places = flat.argsort(dim=1, descending=order == "most", stable=True)
    counted = torch.arange(flat.shape[1], dtype=torch.int32, device=flat.device).expand(flat.shape)
    placed = torch.empty_like(counted, memory_format=torch.contiguous_format)
    return placed.scatter_(1, places, counted).view(values.shape)


def counts(fractions: Sequence[float], total: int) -> list[int]:
    """How many of `total` these shares are, rounded down; 0.7 of 10 is 7, whatever floating point says."""
    return [min(total, math.floor(fraction * total + 1e-6)) for fraction in fractions]


def order_of(maps: GridMaps, order: Order, unit: Literal["bilinear", "nearest", "patch"]) -> tuple[Tensor, int]:
    """The rank of every pixel, (b H W) int32, and how many ranks there are.

    Args:
        maps: of one method.
        order: most or least relevant first.
        unit: pixels of the map enlarged either way; or whole patches, which share a rank. Pixels that belong to none
            have the rank behind the last.
    """
    if unit == "patch":
        rank = ranks(maps.values.detach().float(), order)
        count = rank[0].numel()
        return maps.spread(rank.float(), "nearest").nan_to_num(count).to(torch.int32), count
    return ranks(maps.pixels(unit), order), maps.size[0] * maps.size[1]


def replacing(
    pictures: Pictures,
    orders: Sequence[tuple[Tensor, int]],
    fractions: Sequence[float],
    into: Tensor,
    outof: Tensor,
    ends: tuple[Hashable, Hashable],
    read: Read,
) -> Plan:
    """A plan that turns one picture into another, first ranks first; for each of the orders, all fractions.

    Args:
        pictures: of the batch.
        orders: ranks (b H W), and how many ranks there are.
        fractions: the shares of ranks that are replaced, a step each.
        into, outof: (b 3 H W): what comes in, and what it replaces.
        ends: the keys of `outof`, no rank replaced, and of `into`, all of them.
        read: what is kept of the output.
    """
    steps = [(ranking, number, total) for ranking, total in orders for number in counts(fractions, total)]
    keys = tuple(ends[0] if number == 0 else ends[1] if number == total else None for _, number, total in steps)
    device = pictures.tensor.device

    def alter(step: int, index: Tensor) -> Tensor:
        ranking, number, _ = steps[step]
        first = (ranking.to(device)[index] < number)[:, None]
        return torch.where(first, into[index], outof[index])

    return Plan(keys, alter, read)


def both_ways(
    pictures: Pictures,
    maps: GridMaps,
    fractions: Sequence[float],
    unit: Literal["bilinear", "nearest", "patch"],
    fill: Fill,
    read: Read,
    sigma: float = 14.0,
) -> Plan:
    """A plan that replaces the most relevant first (MoRF), then from the start again the least (LeRF)."""
    orders = [order_of(maps, order, unit) for order in ("most", "least")]
    into = replacement(pictures, fill, sigma)
    return replacing(pictures, orders, fractions, into, pictures.tensor, (UNALTERED, all_filled(fill, sigma)), read)


def area(curve: Tensor, fractions: Tensor, rule: Literal["mean", "trapezoid"]) -> Tensor:
    """Area under curves (b t), (b): the plain mean of the values, or by trapezoids over the fractions."""
    return curve.mean(dim=1) if rule == "mean" else torch.trapezoid(curve, fractions.to(curve), dim=1)
