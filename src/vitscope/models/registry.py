"""The adapters, one a family; a model is shown to each until one knows it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

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


def described(model: nn.Module) -> Anatomy | None:
    """What the first adapter that knows `model` says of it; None where none does.

    Raises:
        ModelError: its adapter names a part that it cannot describe.
    """
    return next((found for adapter in _ADAPTERS.values() if (found := adapter(model)) is not None), None)
