"""The same forward pass with another backward pass: a function mode that hands each layer to a rule.

Relevance propagation and its relatives change how a gradient passes softmax, activations, norms, products and sums,
and leave the output as it is. `Rules` says how; `AnotherBackward` makes the model's own call follow it, without a
change of the model, and refuses by name what it has no rule for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from vitscope.errors import MethodError
from vitscope.trace.frozen import Frozen
from vitscope.trace.guard import depth
from vitscope.trace.kernel import Attend

Function = Callable[[Tensor], Tensor]
OneWay = Callable[[Function, Tensor], Tensor]
"""A function and its one input that carries a gradient -> its value, with the rule's own backward pass."""


def as_it_is(function: Function, x: Tensor) -> Tensor:
    """The function with its own gradient."""
    return function(x)


@dataclass(frozen=True)
class Norm:
    """A norm of each token: (x - mean(x)) / spread * weight + bias, or without the mean.

    Attributes:
        weight, bias: (D), or None.
        eps: added to the mean square.
        centred: whether the mean is subtracted, as layer norm does and RMS norm does not.
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    centred: bool

    def __call__(self, x: Tensor) -> Tensor:
        """By torch's own kernel."""
        if self.centred:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


@dataclass(frozen=True)
class Rules:
    """How a backward pass goes through each kind of layer; every rule returns the layer's own value.

    What travels backward is a gradient, g, whose relevance is x * g; or, with `relevance`, the relevance itself.
    By default all of it is the ordinary gradient.

    Attributes:
        name: under which the trace keeps what it gives.
        norm: (norm, x), of layer norm and RMS norm.
        activation: of GELU, SiLU, ReLU ... (f(0) = 0).
        gate: of a sigmoid, by which something else is multiplied.
        softmax: where attention is written out.
        attention: torch's scaled_dot_product_attention(query, key, value, mask, scale).
        matmul: of two matrices that both carry, as where attention is written out.
        linear: (x, weight, bias).
        times: of two factors that both carry.
        plus: of two summands that both carry, as at a residual connection.
        scale: (function, x), a product with a constant.
        pool: (function, x), a mean over tokens or outputs, or another mixture of tokens by constants.
        relevance: whether relevance travels, not a gradient.
    """

    name: str
    norm: Callable[[Norm, Tensor], Tensor] = as_it_is
    activation: OneWay = as_it_is
    gate: OneWay = as_it_is
    softmax: OneWay = as_it_is
    attention: Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor] = (
        lambda query, key, value, mask, scale: F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    )
    matmul: Callable[[Tensor, Tensor], Tensor] = torch.matmul
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] = F.linear
    times: Callable[[Tensor, Tensor], Tensor] = torch.mul
    plus: Callable[[Tensor, Tensor], Tensor] = torch.add
    scale: OneWay = as_it_is
    pool: OneWay = as_it_is
    relevance: bool = False


PLAIN = Rules("plain")
"""The ordinary gradient."""


class AnotherBackward(TorchFunctionMode):
    """Within this context, in this thread, every layer that carries a gradient follows `rules`.

    The model's weights are constants. A layer for which there is no rule is a MethodError that names it; `where` is
    then the module's name.
    """

    def __init__(self, rules: Rules, model: nn.Module) -> None:
        super().__init__()
        self._depth = depth()
        self._rules = rules
        self._frozen = Frozen(model)
        self.where = ""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if depth() != self._depth:  # a pass within this one, as a hook of the user's may make
            return func(*args, **(kwargs or {}))
        args, kwargs = self._frozen.all(args, kwargs or {})
        if self._rules is PLAIN or not torch.is_grad_enabled() or not any(map(_carries, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            call = Attend.of(*args, **kwargs)
            return self._rules.attention(call.query, call.key, call.value, call.mask, call.scale)
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func in _NORMS:
            return self._norm(func, *args, **kwargs)
        rule = self._of_one(func)
        if rule is not None:
            args, kwargs = _placed(1, args, kwargs)
            if func in _ACTIVATIONS | _GATES:  # in place they would change what the rule reads
                args = (args[0], *(False if part is True else part for part in args[1:]))
                kwargs = {**kwargs, "inplace": False} if "inplace" in kwargs else kwargs
            return rule(lambda x: func(x, *args[1:], **kwargs), args[0])
        if func in _PRODUCTS | _MATRIX_PRODUCTS | _SUMS | _QUOTIENTS:
            args, kwargs = _placed(2, args, kwargs)
            return self._of_two(func, args, kwargs)
        result = func(*args, **kwargs)
        known = func in _SHAPES or (func in _SIGNS and not self._rules.relevance)
        known = known or (
            self._rules.linear is F.linear and not self._rules.relevance and _is_affine(func, args, kwargs)
        )
        if not known and _carries(result):
            where = f", which {self.where} uses" if self.where else ""
            raise MethodError(
                f"its backward pass has no rule for {getattr(func, '__name__', func)}{where}; use attention, rollout"
            )
        return result

    def _of_one(self, func: Callable[..., Any]) -> OneWay | None:
        rules = self._rules
        for functions, rule in (
            (_ACTIVATIONS, rules.activation),
            (_GATES, rules.gate),
            (_SOFTMAXES, rules.softmax),
            (_POOLS, rules.pool),
        ):
            if func in functions:
                return rule
        return None

    def _of_two(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A product, quotient or sum: with a constant, or of two that carry."""
        first, second = args[0], args[1]
        both = _carries(first) and _carries(second)
        if func in _QUOTIENTS and _carries(second):
            where = self.where and f" in {self.where}"
            raise MethodError(f"its backward pass has no rule for a quotient{where}; use attention, rollout")
        if func in _SUMS:
            return self._rules.plus(first, second) if both and not kwargs else func(*args, **kwargs)
        if both:
            return (self._rules.times if func in _PRODUCTS else self._rules.matmul)(first, second)
        at_first = _carries(first)
        if func in _MATRIX_PRODUCTS and at_first and second.ndim == 2:
            return self._rules.linear(first, second.T, None)
        rule = self._rules.pool if func in _MATRIX_PRODUCTS else self._rules.scale
        if at_first:
            return rule(lambda x: func(x, second, **kwargs), first)
        return rule(lambda x: func(first, x, **kwargs), second)

    def _norm(
        self,
        func: Callable[..., Any],
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | float | None = None,
        eps: float | None = None,
        cudnn_enable: bool = True,
    ) -> Tensor:
        """By the own signatures of torch's layer norm and RMS norm, which has no bias."""
        if len(normalized_shape) != 1:
            raise MethodError("its backward pass has no rule for a norm over several axes; use attention, rollout")
        if func in (F.layer_norm, torch.layer_norm):
            assert not isinstance(bias, float)
            return self._rules.norm(Norm(weight, bias, 1e-5 if eps is None else eps, centred=True), input)
        assert not isinstance(bias, Tensor)
        eps = bias if eps is None else eps
        least = torch.finfo(input.dtype).eps
        return self._rules.norm(Norm(weight, None, least if eps is None else eps, centred=False), input)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """By torch's own signature."""
        return self._rules.linear(input, weight, bias)


def _carries(part: Any) -> bool:
    if isinstance(part, Tensor):
        return part.requires_grad
    return isinstance(part, Sequence) and not isinstance(part, str) and any(map(_carries, part))


def _is_affine(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether it is a convolution, a sum, or a batch norm by its kept statistics, whose rule is a linear layer's."""
    if func in _CONVOLUTIONS or func in _TOTALS:
        return True
    return func is F.batch_norm and not (args[5] if len(args) > 5 else kwargs.get("training", False))


def _placed(count: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments with the first `count` by their places, where they came by torch's names for them."""
    for names in (("input", "self"), ("other", "mat2"))[len(args) : count]:
        for name in names:
            if name in kwargs:
                args, kwargs = (*args, kwargs[name]), {key: kwargs[key] for key in kwargs if key != name}
    return args, kwargs


def _both(*names: str) -> set[Callable[..., Any]]:
    """The functions of these names in torch, of its tensors, and in torch.nn.functional, as far as there are."""
    return {getattr(home, name) for home in (torch, Tensor, F) for name in names if hasattr(home, name)}


_NORMS = {F.layer_norm, F.rms_norm, torch.layer_norm, torch.rms_norm}
_ACTIVATIONS = _both("gelu", "relu", "silu", "hardswish", "leaky_relu", "relu6", "mish", "tanh", "selu", "elu")
_GATES = _both("sigmoid", "hardsigmoid")
_SOFTMAXES = _both("softmax")
_POOLS = _both("mean", "avg_pool2d", "adaptive_avg_pool2d", "interpolate")
_CONVOLUTIONS = _both("conv1d", "conv2d", "conv3d")
_PRODUCTS = _both("mul", "multiply") | {Tensor.__mul__, Tensor.__rmul__}
_MATRIX_PRODUCTS = _both("matmul", "bmm") | {Tensor.__matmul__}
_SUMS = _both("add") | {Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
_TOTALS = _both("sum")
_SIGNS = _both("neg") | {Tensor.__neg__}  # in a rotation of queries and keys by their positions
_QUOTIENTS = _both("div", "divide") | {Tensor.__truediv__}
_SHAPES = _both(
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "swapaxes", "squeeze", "unsqueeze",
    "expand", "expand_as", "view_as", "contiguous", "clone", "chunk", "split", "unbind", "cat", "concat", "stack",
    "narrow", "select", "index_select", "gather", "roll", "repeat", "to", "float", "type_as", "dropout", "amax",
    "detach", "requires_grad_", "pad", "reshape_as", "amin", "max_pool2d", "masked_fill", "where", "unfold",
    "register_hook", "broadcast_to", "repeat_interleave",
) | {Tensor.__getitem__}  # fmt: skip
"""They move values, or pick some; of those that are picked the gradient, and the relevance, is as it was."""
