"""Rules for relevance itself, which travels in the gradient's place: the LRP of Chefer et al."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.trace.backward import Function, Rules
from vitscope.trace.gradient_rules import constant, over
from vitscope.trace.kernel import masked, row_chunks


def passed_on(function: Function, x: Tensor) -> Tensor:
    """The relevance passes as it is, place by place."""
    found: Tensor = _PassedOn.apply(x, function)
    return found


class _PassedOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Function) -> Tensor:
        return function(x).view_as(x)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance, None


def shared(function: Function, x: Tensor) -> Tensor:
    """A linear function, whose relevance goes to each input by its share of the output: LRP-0."""
    found: Tensor = _Shared.apply(x, function)
    return found


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Function) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = ctx.function(leaf)
            (at_x,) = torch.autograd.grad(value, leaf, over(relevance, value.detach()))
        return x * at_x, None


def positive_shares(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    """A linear layer whose positive contributions x_i w_ij alone receive relevance: the alpha-beta rule, alpha = 1."""
    value = F.linear(x.detach(), weight, _)
    found: Tensor = _PositiveShares.apply(x, weight, value)
    return found


class _PositiveShares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        x, weight = ctx.saved_tensors
        parts = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
        share = over(relevance, sum(F.linear(*part) for part in parts))  # type: ignore[arg-type]
        return sum(some * (share @ signed) for some, signed in parts), None, None


def plus_normed(first: Tensor, second: Tensor) -> Tensor:
    """A sum that shares by value, place by place, then so that each summand has its part of the picture's whole.

    Chefer et al., CVPR 2021, Eqs. 9 and 10: the parts are as the absolute values of the summands' own sums.
    """
    found: Tensor = _PlusNormed.apply(first, second)
    return found


class _PlusNormed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        return first + second

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        first, second = ctx.saved_tensors
        share = over(relevance, first + second)
        each = [first * share, second * share]
        sums = [part.flatten(1).sum(dim=1) for part in each]
        whole = relevance.flatten(1).sum(dim=1) / (sums[0].abs() + sums[1].abs())
        return tuple(
            part * over(total.abs() * whole, total).view(-1, *[1] * (part.ndim - 1))
            for part, total in zip(each, sums, strict=True)
        )


def product_shares(product: Any, first: Tensor, second: Tensor) -> Tensor:
    """A product of two that carry: each takes half of the relevance, by its entries' shares of the output."""
    found: Tensor = _ProductShares.apply(first, second, product)
    return found


class _ProductShares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, product: Any) -> Tensor:
        ctx.product = product
        ctx.save_for_backward(first, second)
        value: Tensor = product(first, second)
        return value

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor, None]:
        with torch.enable_grad():
            factors = [factor.detach().requires_grad_() for factor in ctx.saved_tensors]
            value = ctx.product(*factors)
            at_first, at_second = torch.autograd.grad(value, factors, over(relevance, value.detach()))
        first, second = ctx.saved_tensors
        return first * at_first / 2, second * at_second / 2, None


def attention_shares(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention by the same: half to the values, half to the matrix, and of this half to queries and half to keys."""
    with torch.no_grad():
        output = F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    found: Tensor = _AttentionShares.apply(query, key, value, output, mask, scale)
    return found


class _AttentionShares(torch.autograd.Function):
    """Some rows of the matrix at a time, so that it is never held."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, output: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, output)
        ctx.mask, ctx.scale = mask, scale
        ctx.rows = tuple(row_chunks(query, key))  # here, since a GPU's backward pass runs in another context
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, output = ctx.saved_tensors
        share = over(relevance, output)
        at_query, at_key, at_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for rows in ctx.rows:
            products = query[..., rows, :] @ key.transpose(-1, -2)
            attention = masked(products * ctx.scale, ctx.mask, rows).softmax(dim=-1)
            some = share[..., rows, :]
            at_value += attention.transpose(-1, -2) @ some
            at_products = over(attention * (some @ value.transpose(-1, -2)) / 2, products)
            at_query[..., rows, :] = at_products @ key
            at_key += at_products.transpose(-1, -2) @ query[..., rows, :]
        return query * at_query / 2, key * at_key / 2, value * at_value / 2, None, None, None


CHEFER_LRP = Rules(
    "chefer_lrp",
    norm=passed_on,
    activation=passed_on,
    gate=constant,
    softmax=passed_on,
    attention=attention_shares,
    matmul=lambda first, second: product_shares(torch.matmul, first, second),
    linear=positive_shares,
    times=lambda first, second: product_shares(torch.mul, first, second),
    plus=plus_normed,
    scale=passed_on,
    pool=shared,
    relevance=True,
)
"""The LRP of Chefer, Gur, Wolf ("Transformer Interpretability Beyond Attention Visualization", CVPR 2021)."""
