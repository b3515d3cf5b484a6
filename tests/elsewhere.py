"""A device of pretence: tensors that say that they lie elsewhere, computed on the CPU, where a mixture is an error.

No GPU is needed to find a tensor that was made on the wrong device. A `Far` tensor reports the device "meta" and keeps
its numbers on the CPU; `pretending()` makes every operation on it obey what CUDA asks: all tensors on one device, but
for numbers without dimension and for indices on the CPU; a generator of the CPU draws nothing for another device; no
`.numpy()`. Values and gradients are those of the CPU, so that maps can be compared to the last digit.

What it cannot find: a kernel that CUDA lacks, its own rounding, memory, and streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

FAR = torch.device("meta")
"""A type of its own: torch follows gradients on it without a GPU, and has no kernels that would hide a mistake."""

MOVES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default, torch.ops.aten.copy.default}
INDEXED = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
    torch.ops.aten._unsafe_index.Tensor,
    torch.ops.aten._unsafe_index_put.default,
}


class Far(Tensor):
    """A tensor elsewhere; `near` holds its numbers."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made: Far = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            layout=near.layout,
            device=FAR,
            requires_grad=near.requires_grad,
        )
        made.near = near
        return made

    def __init__(self, near: Tensor) -> None:
        pass

    def __repr__(self) -> str:
        return f"Far({self.near!r})"

    def tolist(self) -> Any:
        return self.near.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = Far(self.near.detach().clone())
        made = torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        return memo.setdefault(id(self), made)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return obey(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """What makes a tensor of numbers, which on this type of device would forget them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None:
            where = kwargs.pop("device")
            return func(*args, **kwargs).to(where)
        if func is Tensor.new_tensor and args[0].device == FAR:
            dtype, numbers = kwargs.get("dtype", args[0].dtype), kwargs.get("data", *args[1:])
            return torch.tensor(numbers, dtype=dtype).to(FAR)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == FAR:
            tensor, index, *value = args
            parts = index if isinstance(index, tuple) else (index,)
            parts = tuple(torch.tensor(part).to(FAR) if isinstance(part, list) else part for part in parts)
            args = (tensor, parts if isinstance(index, tuple) else parts[0], *value)
        return func(*args, **kwargs)


class _Pretend(TorchDispatchMode):
    """Makes tensors where they are asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return obey(func, args, kwargs or {})


def obey(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation, after it was seen that its tensors lie where CUDA would have them.

    Raises:
        RuntimeError: they do not.
    """
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    if any(one.is_meta and not isinstance(one, Far) for one in tensors):
        raise NotImplementedError(f"{func}: a tensor on {FAR} without numbers; see where it was made")
    asked = kwargs.get("device")
    where = torch.device(asked) if asked is not None else _place(func, args, tensors)
    generator = kwargs.get("generator")
    if generator is not None and where.type != generator.device.type:
        raise RuntimeError(f"{func}: a generator on {generator.device} draws for {where}")
    if "device" in kwargs:
        kwargs = {**kwargs, "device": None if asked is None else torch.device("cpu")}
    if not any(isinstance(one, Far) for one in tensors) and where != FAR:
        return func(*args, **kwargs)
    args_, kwargs_ = tree_map_only(Far, _near, (args, kwargs))
    if where == FAR and torch.Tag.nondeterministic_seeded in func.tags:
        with _own_numbers():
            out = func(*args_, **kwargs_)
    else:
        out = func(*args_, **kwargs_)
    if where != FAR:
        return out
    out = tree_map_only(Tensor, lambda one: Far(torch.zeros_like(one) if one._is_zerotensor() else one), out)
    return return_and_correct_aliasing(func, args, kwargs, out) if tensors else out


@contextmanager
def _own_numbers() -> Iterator[None]:
    """Random numbers of the other device, whose state is another than the CPU's and which no seed has set."""
    before = torch.get_rng_state()
    torch.default_generator.seed()
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _near(tensor: Far) -> Tensor:
    return tensor.near


def _place(func: Any, args: Any, tensors: list[Tensor]) -> torch.device:
    """Where the result lies."""
    if func in MOVES:
        return tensors[0].device
    if func in INDEXED:
        first, rest = args[0], [one for one in tree_leaves(args[1:]) if isinstance(one, Tensor)]
        if first.device != FAR and any(one.device == FAR and one.dim() for one in rest):
            raise RuntimeError(f"{func}: indices or values on {FAR} of a tensor on the CPU")
        return first.device
    sized = {one.device for one in tensors if one.dim()}
    if len(sized) > 1:
        shapes = [(str(one.device), tuple(one.shape)) for one in tensors]
        raise RuntimeError(f"{func}: tensors on two devices: {shapes}")
    if sized:
        return sized.pop()
    return FAR if any(one.device == FAR for one in tensors) else torch.device("cpu")


@contextmanager
def pretending() -> Iterator[torch.device]:
    """Within it, torch has another device; gives its name."""
    with _Pretend(), _FromNumbers():
        yield FAR
