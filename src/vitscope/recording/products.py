"""How a tensor of attention weights travels from its softmax to the product with the values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MATMUL = frozenset({"matmul", "__matmul__", "bmm"})
_REVERSED = frozenset({"__rmatmul__"})
_SWAPS = frozenset({"transpose", "swapaxes", "swapdims"})
_SAME_LAYOUT = frozenset(
    {
        "dropout", "dropout_", "to", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "detach",
        "mul", "__mul__", "__rmul__", "mul_", "div", "__truediv__", "add", "__add__", "__radd__", "sub", "__sub__",
        "__rsub__", "masked_fill", "where", "nan_to_num", "layer_norm", "batch_norm", "conv2d", "conv1d",
    }
)  # fmt: skip
_NEW_LAYOUT = frozenset(
    {
        "reshape", "view", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as",
        "__getitem__", "select", "narrow", "cat", "repeat", "repeat_interleave", "sum", "mean",
    }
)  # fmt: skip
RESHAPES = _SWAPS | {
    "permute", "mT", "__get__", "reshape", "view", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
    "expand", "__getitem__", "select", "narrow",
}  # fmt: skip
"""Functions that change a tensor's layout alone, so that they can be applied to the scores behind it too."""


@dataclass(frozen=True)
class Product:
    """A product of attention weights with values, brought to (... r n) @ (... n d) = (... r d).

    Attributes:
        weights: the operand with the weights, as it is.
        values: (... n d).
        as_weights: a tensor of the weights' layout -> (... r n).
        as_result: (... r d) -> the layout in which the network goes on.
    """

    weights: Tensor
    values: Tensor
    as_weights: Callable[[Tensor], Tensor]
    as_result: Callable[[Tensor], Tensor]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _turned(tensor: Tensor) -> Tensor:
    return tensor.transpose(-2, -1)


def _turned_in_memory(tensor: Tensor) -> Tensor:
    """As a product's own result lies, so that the network can view it in another shape."""
    return tensor.transpose(-2, -1).contiguous()


def product_of(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], weights: Mapping[int, int]
) -> Product | None:
    """The product that a call makes of attention weights and values, or None where it makes none.

    Args:
        name: of the function.
        args, kwargs: its arguments.
        weights: the axis of the keys, counted from the end, of each tensor (by its id) that holds attention weights.
    """
    if name == "einsum":
        return _of_einsum(args, weights)
    if name == "baddbmm":
        return None
    if name in _REVERSED:
        args = (args[1], args[0])
    elif name not in _MATMUL:
        return None
    first, second = args[0], args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("mat2"))
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or first.ndim < 2 or second.ndim < 2:
        return None
    if weights.get(id(first)) == -1 and first.shape[-1] == second.shape[-2]:
        return _aligned(first, second, _same, _same)
    if weights.get(id(second)) == -2 and second.shape[-2] == first.shape[-1]:  # (values^T @ weights^T)
        return _aligned(second, _turned(first), _turned, _turned_in_memory)
    return None


def factors_of(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Queries (... r e) and keys (... n e), if a call is a product of two such tensors; or None."""
    if name == "baddbmm":
        args = args[1:]
    elif name not in _MATMUL:
        return None
    first, second = args[0], args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("mat2"))
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or first.ndim < 3 or first.ndim != second.ndim:
        return None
    return first, _turned(second)


def _aligned(
    weights: Tensor, values: Tensor, as_weights: Callable[[Tensor], Tensor], as_result: Callable[[Tensor], Tensor]
) -> Product:
    lead = torch.broadcast_shapes(weights.shape[:-2], values.shape[:-2])

    def spread(tensor: Tensor) -> Tensor:
        made = as_weights(tensor)
        return made.expand(*lead, *made.shape[-2:])

    return Product(weights, values.expand(*lead, *values.shape[-2:]), spread, as_result)


def _of_einsum(args: tuple[Any, ...], weights: Mapping[int, int]) -> Product | None:
    if not (args and isinstance(args[0], str)):
        return None
    operands = list(args[1]) if len(args) == 2 and isinstance(args[1], list | tuple) else list(args[1:])
    if len(operands) != 2 or "..." in args[0] or "->" not in args[0]:
        return None
    left, _, out = args[0].replace(" ", "").partition("->")
    letters = left.split(",")
    for which in (0, 1):
        mine, theirs, tensor, values = letters[which], letters[1 - which], operands[which], operands[1 - which]
        axis = weights.get(id(tensor))
        if axis is None:
            continue
        keys = mine[axis]
        rows = [one for one in mine if one in out and one not in theirs]
        widths = [one for one in theirs if one in out and one not in mine]
        shared = [one for one in out if one in mine and one in theirs]
        if keys not in theirs or keys in out or len(rows) != 1 or len(widths) != 1:
            return None
        if {*mine} != {*shared, keys, rows[0]} or {*theirs} != {*shared, keys, widths[0]}:
            return None
        to_weights, to_values, to_result = (
            _permutation(letters_, [*shared, *last])
            for letters_, last in ((mine, [rows[0], keys]), (theirs, [keys, widths[0]]), (out, [rows[0], widths[0]]))
        )
        back = [to_result.index(place) for place in range(len(to_result))]
        return Product(
            tensor,
            values.permute(to_values),
            lambda each, order=tuple(to_weights): each.permute(order),  # type: ignore[misc]
            lambda each, order=tuple(back): each.permute(order),  # type: ignore[misc]
        )
    return None


def _permutation(letters: str, wanted: list[str]) -> list[int]:
    return [letters.index(one) for one in wanted]


def keys_axis_after(
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    before: torch.Size,
    axis: int,
    after: torch.Size,
) -> int | None:
    """Where the keys' axis (counted from the end) lies in a function's result, or None where it is lost.

    Args:
        name: of the function.
        args, kwargs: its arguments, among them the tensor with the axis.
        before: that tensor's shape.
        axis: the axis in it.
        after: the result's shape.
    """
    if name in _SWAPS:
        one, other = (int(each) - len(before) if each >= 0 else int(each) for each in (args[1:3] or kwargs.values()))
        return {one: other, other: one}.get(axis, axis)
    if name == "permute":
        dims = args[1] if len(args) == 2 and not isinstance(args[1], int) else args[1:] or kwargs["dims"]
        order = [dim - len(before) if dim >= 0 else dim for dim in dims]
        return order.index(axis) - len(order)
    if name in ("mT", "__get__") and len(before) == len(after) >= 2 and after == (*before[:-2], before[-1], before[-2]):
        return {-1: -2, -2: -1}.get(axis, axis)
    if name == "linear":
        return axis if axis != -1 and len(before) == len(after) else None
    if name in _SAME_LAYOUT or name in _NEW_LAYOUT:
        kept = len(after) >= -axis and tuple(after[axis:]) == tuple(before[axis:])
        return axis if kept else None
    return None
