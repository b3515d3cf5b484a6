"""Rules for another gradient: LibraGrad's, and those of layer-wise relevance propagation (LRP) that are gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.trace.backward import Function, Norm, Rules


class _Slowed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def _slowed(x: Tensor, factor: float) -> Tensor:
    found: Tensor = _Slowed.apply(x, factor)
    return found


def constant(function: Function, x: Tensor) -> Tensor:
    """f(x) as a constant: no gradient passes."""
    return function(x.detach())


def gate_constant(function: Function, x: Tensor) -> Tensor:
    """f(x) = x (f(x) / x), the quotient as a constant; in LRP the identity rule."""
    fixed = x.detach()
    return x * torch.where(fixed == 0, torch.zeros_like(fixed), function(fixed) / fixed)


def spread_constant(norm: Norm, x: Tensor) -> Tensor:
    """A norm with its spread as a constant: affine in x."""
    centred = x - x.mean(dim=-1, keepdim=True) if norm.centred else x
    fixed = centred.detach()
    normed = centred * (fixed.square().mean(dim=-1, keepdim=True) + norm.eps).rsqrt()
    if norm.weight is not None:
        normed = normed * norm.weight
    return normed if norm.bias is None else normed + norm.bias


def weights_constant(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention whose matrix is a constant: linear in the values."""
    return F.scaled_dot_product_attention(query.detach(), key.detach(), value, mask, scale=scale)


def attention_halved(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Both products of two matrices share alike between their factors; softmax by its own gradient."""
    query, key, value = _slowed(query, 0.25), _slowed(key, 0.25), _slowed(value, 0.5)
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)


def matmul_halved(first: Tensor, second: Tensor) -> Tensor:
    """A product of matrices that shares alike between its factors."""
    return torch.matmul(_slowed(first, 0.5), _slowed(second, 0.5))


def times_halved(first: Tensor, second: Tensor) -> Tensor:
    """A product, place by place, that shares alike between its factors."""
    return _slowed(first, 0.5) * _slowed(second, 0.5)


@dataclass(frozen=True)
class Gamma:
    """A linear layer by LRP's gamma rule: what speaks for an output's sign weighs 1 + gamma (arXiv 1910.09840).

    R_i = sum_j c_ij (1 + gamma [sign c_ij = sign z_j]) / z'_j * R_j, with c_ij = x_i w_ij, the bias a further input,
    and z' the sum of the numerators: Montavon's rule, for inputs and outputs of either sign.
    """

    gamma: float

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's value, (... D) -> (... E)."""
        found: Tensor = _Gamma.apply(x, weight, bias, self.gamma)
        return found


class _Gamma(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float) -> Tensor:
        value = F.linear(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, value)
        ctx.gamma = gamma
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, bias, value = ctx.saved_tensors
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        speaks_for = F.linear(x.clamp(min=0), positive) + F.linear(x.clamp(max=0), negative)  # sum of the c_ij > 0
        offset = torch.zeros_like(value[..., :1]) if bias is None else bias
        at_positive = at_negative = 0.0  # of x's signs
        for sign, part, of_positive, of_negative in (
            (1, speaks_for + offset.clamp(min=0), positive, negative),
            (-1, value - offset - speaks_for + offset.clamp(max=0), negative, positive),
        ):
            total = value + ctx.gamma * part
            share = torch.where(sign * value > 0, over(value * gradient, total), 0.0)
            at_positive = at_positive + share @ (weight + ctx.gamma * of_positive)
            at_negative = at_negative + share @ (weight + ctx.gamma * of_negative)
        return torch.where(x > 0, at_positive, at_negative), None, None, None


def plus_by_sign(first: Tensor, second: Tensor) -> Tensor:
    """A sum whose summand of the sum's own sign weighs double: ResLRP's residual rule with gamma = 1."""
    found: Tensor = _PlusBySign.apply(first, second)
    return found


class _PlusBySign(torch.autograd.Function):
    """R_a = w_a a / (w_a a + w_b b) R, w_z = 1 + [sign z = sign(a + b)]."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        total = first + second
        ctx.save_for_backward(first, second, total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        first, second, total = ctx.saved_tensors
        weights = [1.0 + (part.sign() == total.sign()).to(total.dtype) for part in (first, second)]
        each = weights[0] * first + weights[1] * second
        share = torch.where(each == 0, torch.zeros_like(each), gradient * total / each)
        return tuple(
            (weight * share).sum_to_size(part.shape) for weight, part in zip(weights, (first, second), strict=True)
        )


def over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, kept from the pole at 0 by 1e-9, and 0 there."""
    near = torch.where(denominator == -1e-9, 1e-9, denominator + 1e-9)
    return torch.where(denominator == 0, torch.zeros_like(numerator), numerator / near)


LIBRA = Rules(
    "libra",
    norm=spread_constant,
    activation=gate_constant,
    gate=constant,
    softmax=constant,
    attention=weights_constant,
    matmul=matmul_halved,
    times=times_halved,
)
"""LibraGrad (Mehri, Baghshah, Pilehvar; CVPR 2025, arXiv 2411.16760): what is left is affine in a block's tokens."""

CP_LRP = replace(LIBRA, name="cplrp", activation=Rules.activation, gate=Rules.gate)
"""Conservative propagation (Ali et al., ICML 2022, arXiv 2202.07304): attention and the norms' spread as constants."""


def attn_lrp(gamma: float) -> Rules:
    """AttnLRP (Achtibat et al., ICML 2024, arXiv 2402.05602), with the gamma rule in its linear layers."""
    return Rules(
        f"attnlrp:{gamma:g}",
        norm=spread_constant,
        activation=gate_constant,
        gate=constant,
        attention=attention_halved,
        matmul=matmul_halved,
        linear=F.linear if gamma == 0 else Gamma(gamma),
        times=times_halved,
    )


def res_lrp(gamma: float) -> Rules:
    """AttnLRP with ResLRP's rule at residual connections."""
    return replace(attn_lrp(gamma), name=f"reslrp:{gamma:g}", plus=plus_by_sign)
