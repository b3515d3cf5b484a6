"""Jacobian products: J^T along many cotangents, J along many tangents, of the model's own modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.func import jvp, vmap
from torch.overrides import TorchFunctionMode

RowMap = Callable[[Tensor], Tensor]

_BACK_IS_CHEAPER = 2  # a direction back costs about half of one forth, benchmarks/cost.py on a CPU


def pull_back(function: RowMap, at: Tensor, cotangents: Tensor) -> Tensor:
    """J^T products: the gradients of <cotangent_m, function(x)> at x = `at` (...), stacked (m ...)."""
    with torch.enable_grad(), batchable(len(cotangents) > 1):
        point = at.detach().requires_grad_()
        (gradients,) = gradients_of([function(point)], [point], [cotangents])
    return gradients


def push_forward(function: RowMap, at: Tensor, tangents: Tensor) -> Tensor:
    """J product: directional derivatives of `function` at `at` (...), along `tangents` (m ...), stacked (m ...)."""
    with torch.no_grad():
        derivative: Tensor = vmap(lambda tangent: jvp(function, (at,), (tangent,))[1])(tangents)
    return derivative


def pushed(function: RowMap, at: Tensor, tangents: Tensor, width: int) -> Tensor:
    """J products as `push_forward`'s, by the way that costs less: along the tangents, or back along each output.

    Args:
        function: (b r D) -> (b F), image by image.
        at: (b r D).
        tangents: (m b r D).
        width: F.

    Returns:
        (m b F).
    """
    if width > _BACK_IS_CHEAPER * len(tangents):
        return push_forward(function, at, tangents)
    basis = torch.eye(width, dtype=at.dtype, device=at.device)[:, None].expand(-1, len(at), -1)
    rows = pull_back(function, at, basis)  # F b r D
    return torch.einsum("mbrd,fbrd->mbf", tangents, rows)


def gradients_of(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], at_once: int | None = None
) -> list[Tensor]:
    """Gradients of sum_i <cotangent_i,m, output_i> at every input, stacked over m.

    Args:
        outputs: with their graph.
        inputs: of that graph.
        cotangents: of every output, (m ...).
        at_once: so many m make a backward pass; None for one pass of all.

    Returns:
        Of every input, (m ...), in the cotangents' dtype.
    """
    kind, count = cotangents[0].dtype, len(cotangents[0])
    each = [cotangent.to(output.dtype) for cotangent, output in zip(cotangents, outputs, strict=True)]
    parts = []
    for start in range(0, count, at_once or count):
        stop = min(start + (at_once or count), count)
        some, more = [cotangent[start:stop] for cotangent in each], stop < count
        if stop - start == 1:  # one target: no batching rule is needed
            found = torch.autograd.grad(outputs, inputs, [cotangent[0] for cotangent in some], retain_graph=more)
            parts.append([gradient[None].to(kind) for gradient in found])
        else:
            found = torch.autograd.grad(outputs, inputs, some, is_grads_batched=True, retain_graph=more)
            parts.append([gradient.to(kind) for gradient in found])
    return parts[0] if len(parts) == 1 else [torch.cat(gradients) for gradients in zip(*parts, strict=True)]


class _Pointwise(torch.autograd.Function):
    """A pointwise function whose backward is one product, which batches over cotangents."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: RowMap) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = function(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        ctx.save_for_backward(slope)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


class _LayerNorm(torch.autograd.Function):
    """Layer norm over the last axis whose backward is written in products and means, which batch over cotangents."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        scale = (x.var(dim=-1, keepdim=True, unbiased=False) + eps).rsqrt()
        ctx.save_for_backward((x - x.mean(dim=-1, keepdim=True)) * scale, scale, weight)
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        normed, scale, weight = ctx.saved_tensors
        inner = gradient if weight is None else gradient * weight
        share = 1 / normed.shape[-1]  # sums, since means do not batch
        level, along = inner.sum(dim=-1, keepdim=True) * share, (inner * normed).sum(dim=-1, keepdim=True) * share
        return scale * (inner - level - normed * along), None, None, None


class _Batchable(TorchFunctionMode):
    """Gives GELU and layer norm a backward that batches; torch's own runs them one cotangent after the other."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.gelu and len(args) == 1:
            return _Pointwise.apply(args[0], lambda x: F.gelu(x, **kwargs))
        if func is F.layer_norm:
            return self._layer_norm(*args, **kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _layer_norm(
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Any:
        """As F.layer_norm, by its own signature; over several axes it is torch's own."""
        if len(normalized_shape) != 1:
            return F.layer_norm(input, list(normalized_shape), weight, bias, eps)
        frozen = (None if part is None else part.detach() for part in (weight, bias))
        return _LayerNorm.apply(input, *frozen, eps)


@contextmanager
def batchable(wanted: bool) -> Iterator[None]:
    """Within it, where `wanted`, a graph is built whose backward pass takes many cotangents at once."""
    if not wanted:
        yield
        return
    with _Batchable():
        yield
