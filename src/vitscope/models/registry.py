"""The adapters, one a family; a model is shown to each until one knows it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy

Adapter = Callable[[nn.Module], Anatomy | None]
_ADAPTERS: dict[str, Adapter] = {}


def register_adapter(family: str) -> Callable[[Adapter], Adapter]:
    """Register a function that describes the models of one family and returns None for any other model."""

    def add(adapter: Adapter) -> Adapter:
        if family in _ADAPTERS:
            raise ValueError(f"an adapter for {family} is registered already")
        _ADAPTERS[family] = adapter
        return adapter

    return add


def families() -> list[str]:
    """The families that have an adapter."""
    return sorted(_ADAPTERS)


def anatomy_of(model: nn.Module) -> Anatomy:
    """Find out what is where in `model`.

    Raises:
        ModelError: no adapter knows the model, or its adapter names a part that it cannot describe.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"a model must be a torch.nn.Module or a name such as timm/NAME, not {type(model).__name__}")
    for adapter in _ADAPTERS.values():
        anatomy = adapter(model)
        if anatomy is not None:
            return anatomy
    raise ModelError(
        f"no adapter knows the model class {type(model).__name__}; known families: {', '.join(families())}. "
        "Register one with vitscope.models.register_adapter (docs/adapters.md)"
    )
