"""A network's raw output: its tensors, its logits, and what a target gives of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from vitscope.errors import TargetError, VitscopeError, text_of
from vitscope.trace.chunks import out_of_memory

Score = Callable[[Any], Tensor]
"""A target: the network's raw output, with its graph -> a value for each sample (b)."""


def scored(score: Score, raw: Any, samples: int) -> Tensor:
    """What a target gives of a raw output, (samples).

    Raises:
        TargetError: it fails, or gives another number of values.
    """
    try:
        value = score(raw)
    except Exception as error:  # a function of the user's may raise anything
        if isinstance(error, VitscopeError) or out_of_memory(error):
            raise
        raise TargetError(
            f"the target fails on the model's output ({described(raw)}): {text_of(error)}; return one value for each "
            "image, such as output[:, 0]"
        ) from error
    if not isinstance(value, Tensor) or value.shape != (samples,):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TargetError(
            f"a target must give one value for each image, ({samples},), got {found}, of {described(raw)}"
        )
    return value


def leaves(output: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """Every tensor of a raw output, with its path, such as `logits` or `[0]`."""
    if isinstance(output, Tensor):
        return [(path or "output", output)]
    if isinstance(output, Mapping):
        items = [(f"{path}.{key}" if path else str(key), value) for key, value in output.items()]
    elif isinstance(output, tuple | list):
        items = [(f"{path}[{index}]", value) for index, value in enumerate(output)]
    elif hasattr(output, "__dataclass_fields__"):
        items = [(f"{path}.{key}" if path else key, getattr(output, key)) for key in output.__dataclass_fields__]
    else:
        return []
    return [leaf for name, value in items for leaf in leaves(value, name)]


def described(output: Any) -> str:
    """The tensors of a raw output with their shapes, in words."""
    found = [f"{name} {tuple(tensor.shape)}" for name, tensor in leaves(output)]
    return ", ".join(found) or f"a {type(output).__name__} without tensors"


def detached(output: Any) -> Any:
    """A raw output without its graph."""
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, Mapping):
        return {key: detached(value) for key, value in output.items()}
    if isinstance(output, tuple | list):
        return type(output)(detached(value) for value in output) if not hasattr(output, "_fields") else output
    return output


def joined(outputs: Sequence[Any]) -> Any:
    """The raw output of a batch from those of its parts: tensors one after another, in what holds them.

    A tuple of the parts' outputs where they are of a type that torch's pytrees do not know.
    """
    if len(outputs) == 1:
        return outputs[0]
    (leaves, spec), *others = [tree_flatten(output) for output in outputs]
    if any(other != spec for _, other in others) or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves):
        return tuple(outputs)
    return tree_unflatten([torch.cat(parts) for parts in zip(leaves, *(each for each, _ in others), strict=True)], spec)


def rows_of(output: Any, start: int, stop: int) -> Any:
    """The raw output of some samples; what holds the tensors has to be known to torch's pytrees."""
    return tree_map(lambda leaf: leaf[start:stop] if isinstance(leaf, Tensor) and leaf.ndim else leaf, output)


def logits_of(output: Any) -> Tensor | None:
    """The (b c) logits of a raw output: itself, or its `.logits`; None where it has none."""
    if isinstance(output, Tensor):
        return output if output.ndim == 2 else None
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return found if isinstance(found, Tensor) and found.ndim == 2 else None
