"""Every attention call of a forward pass, whatever module makes it and however it is written."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from vitscope.recording.products import RESHAPES, Product, factors_of, keys_axis_after, product_of
from vitscope.trace.frozen import Frozen
from vitscope.trace.guard import depth
from vitscope.trace.hold import at_least_float32

SOFTMAX = frozenset({"softmax", "_softmax", "special_softmax"})
FUSED = frozenset({"scaled_dot_product_attention"})


@dataclass(frozen=True)
class AttentionCall:
    """One attention call: output = probabilities @ value. Axes: any leading ones, r queries, n keys, d width.

    A fused call has `query` and `key`, and its matrix (... r n) is never made as a whole. A call that is written out
    has `probabilities` and `scores`, as the network made them.

    Attributes:
        value: (... n d).
        query: (... r e), or None.
        key: (... n e), or None.
        mask: added to the scores, or False where a key is not seen; or None.
        scale: of the products of queries and keys.
        causal: whether a query sees only keys up to its own place.
        scores: before the softmax, (... r n), or None.
        probabilities: what multiplies the values, (... r n), or None.

    Of a call that is written out, `query` and `key` are the factors of the product that its scores come from.
    """

    value: Tensor
    query: Tensor | None = None
    key: Tensor | None = None
    mask: Tensor | None = None
    scale: float = 1.0
    causal: bool = False
    scores: Tensor | None = None
    probabilities: Tensor | None = None

    @classmethod
    def of_kernel(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> AttentionCall:
        """By the signature of torch's `scaled_dot_product_attention`; grouped queries get their own copy of a key."""
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], dim=-3) for each in (key, value))
        lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
        query, key, value = (each.expand(*lead, *each.shape[-2:]) for each in (query, key, value))
        return cls(value, query, key, attn_mask, query.shape[-1] ** -0.5 if scale is None else float(scale), is_causal)

    @property
    def queries(self) -> int:
        """How many rows r there are."""
        rows = self.query if self.probabilities is None else self.probabilities
        assert rows is not None
        return rows.shape[-2]

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading axes, such as images and heads."""
        return tuple(self.value.shape[:-2])

    def detached(self) -> AttentionCall:
        """The same without its graph."""
        parts: dict[str, Any] = {name: one.detach() for name, one in vars(self).items() if isinstance(one, Tensor)}
        return replace(self, **parts)

    def kept(self) -> AttentionCall:
        """The same without its graph, in float32 where it was computed in half precision."""
        parts: dict[str, Any] = {
            name: at_least_float32(one) for name, one in vars(self.detached()).items() if isinstance(one, Tensor)
        }
        return replace(self, **parts)

    def __call__(self) -> Tensor:
        """Run it, (... r d)."""
        if self.probabilities is not None:
            return self.probabilities @ self.value
        assert self.query is not None
        assert self.key is not None
        return F.scaled_dot_product_attention(
            self.query, self.key, self.value, self.mask, is_causal=self.causal, scale=self.scale
        )


Answer = Callable[[int, AttentionCall, Callable[[AttentionCall], Tensor]], Tensor]
"""The number of a call, the call, and what runs it (or a changed one) -> its output (... r d), with which to go on."""


def go_on(number: int, call: AttentionCall, run: Callable[[AttentionCall], Tensor]) -> Tensor:
    """Run the call as it is."""
    return run(call)


@dataclass
class _Pending:
    """A softmax, or what was made of it, on its way to a product with values; its scores are in the same layout."""

    softmax: Tensor
    tensor: Tensor
    axis: int
    scores: Tensor
    factors: tuple[Tensor, Tensor] | None


@dataclass
class _Scores:
    """A product that may be one of queries and keys, or what was made of it, on its way to a softmax."""

    tensor: Tensor
    factors: tuple[Tensor, Tensor]


class AttentionCalls(TorchFunctionMode):
    """Within it, in this thread, every attention call of the present pass is handed to `answer`.

    A call is torch's kernel, or a softmax followed by a product with values, also where a dropout, a cast, a change of
    shape, or a mixing of heads lies between them.

    Args:
        model: whose weights enter the graph as views without a gradient.
        answer: what becomes of a call.
        intercept: likewise of any other function, before it is run: its name, it, and its arguments -> a result, or
            NotImplemented where it is to be run as it is.
    """

    def __init__(
        self, model: nn.Module, answer: Answer, intercept: Callable[..., Any] = lambda *_: NotImplemented
    ) -> None:
        super().__init__()
        self._answer, self._intercept = answer, intercept
        self._frozen = Frozen(model)
        self._depth = depth()
        self._pending: list[_Pending] = []
        self._scores: _Scores | None = None
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if depth() != self._depth:  # a pass within this one, as a hook of the user's may make
            return func(*args, **kwargs)
        args, kwargs = self._frozen.all(args, kwargs)
        name = name_of(func)
        if name in FUSED:
            return self._handed_on(AttentionCall.of_kernel(*args, **kwargs), AttentionCall.__call__)
        if func is F.multi_head_attention_forward:
            with self:
                return _multi_head_attention(*args, **kwargs)
        if self._pending and (product := product_of(name, args, kwargs, self._weights())) is not None:
            return self._written_out(product)
        if (result := self._intercept(name, func, args, kwargs)) is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor):
            self._follow(name, func, args, kwargs, result)
        return result

    def _weights(self) -> dict[int, int]:
        return {id(each.tensor): each.axis for each in self._pending}

    def _follow(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> None:
        if name in SOFTMAX and result.ndim >= 2:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if isinstance(axis, int):
                axis = axis - result.ndim if axis >= 0 else axis
                scores = self._scores
                factors = scores.factors if scores is not None and args[0] is scores.tensor else None
                self._pending = [*self._pending[-3:], _Pending(result, result, axis, args[0], factors)]
            self._scores = None
            return
        for each in self._pending:
            if any(arg is each.tensor for arg in (*args, *kwargs.values())):
                after = keys_axis_after(name, args, kwargs, each.tensor.shape, each.axis, result.shape)
                if after is not None and result is not each.tensor:
                    before = each.scores
                    if name in RESHAPES and args[0] is each.tensor and before.shape == each.tensor.shape:
                        before = func(before.contiguous(), *args[1:], **kwargs)
                    self._pending = [*self._pending[-3:], replace(each, tensor=result, axis=after, scores=before)]
                return
        if (factors := factors_of(name, args, kwargs)) is not None:
            self._scores = _Scores(result, factors)
        elif self._scores is not None and any(arg is self._scores.tensor for arg in args):
            kept = result.shape[-2:] == self._scores.tensor.shape[-2:]
            self._scores = _Scores(result, self._scores.factors) if kept else None

    def _written_out(self, product: Product) -> Tensor:
        pending = next(each for each in self._pending if each.tensor is product.weights)
        self._pending = [each for each in self._pending if each.softmax is not pending.softmax]
        scores = product.as_weights(pending.scores) if pending.scores.shape == pending.tensor.shape else None
        query, key = pending.factors or (None, None)
        call = AttentionCall(
            product.values, query, key, scores=scores, probabilities=product.as_weights(product.weights)
        )
        return product.as_result(self._handed_on(call, AttentionCall.__call__))

    def _handed_on(self, call: AttentionCall, run: Callable[[AttentionCall], Tensor]) -> Tensor:
        number, self.count = self.count, self.count + 1
        return self._answer(number, call, run)


def name_of(func: Callable[..., Any]) -> str:
    """A torch function's name, as `softmax` of torch.softmax, Tensor.softmax, and aten's operator alike."""
    schema = getattr(func, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema is not None else getattr(func, "__name__", "")


def _unchecked() -> Callable[..., Any]:
    """Torch's own multi_head_attention_forward without its first lines, which would end at a function mode."""
    own = F.multi_head_attention_forward
    made = types.FunctionType(
        own.__code__, {**vars(F), "has_torch_function": lambda _: False}, own.__name__, own.__defaults__
    )
    made.__kwdefaults__ = own.__kwdefaults__
    return made


_multi_head_attention = _unchecked()
