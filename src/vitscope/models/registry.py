"""The adapters, one a family; a model is shown to each until one knows it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from torch import nn

from vitscope.models.anatomy import Anatomy

Adapter = Callable[[nn.Module], Anatomy | None]
_ADAPTERS: dict[str, Adapter] = {}
_OWN = (
    "dino_hub",
    "hf",
    "open_clip_vit",
    "timm_beit_eva",
    "timm_class_attention",
    "timm_vit",
    "torchvision_vit",
    "windowed",
)
"""The modules of `vitscope.models` with adapters, in the order of their use; timm and torchvision come with them."""


def register_adapter(family: str) -> Callable[[Adapter], Adapter]:
    """Register a function that describes the models of one family and returns None for any other model.

    Adapters are tried in the order of registration, vitscope's own first.
    """

    def add(adapter: Adapter) -> Adapter:
        if not adapter.__module__.startswith(f"{__package__}."):
            _import_own()
        if family in _ADAPTERS:
            raise ValueError(f"an adapter for {family} is registered already")
        _ADAPTERS[family] = adapter
        return adapter

    return add


def families() -> list[str]:
    """The families that have an adapter."""
    _import_own()
    return sorted(_ADAPTERS)


def described(model: nn.Module) -> Anatomy | None:
    """What the first adapter that knows `model` says of it; None where none does.

    Raises:
        ModelError: its adapter names a part that it cannot describe.
    """
    _import_own()
    return next((found for adapter in _ADAPTERS.values() if (found := adapter(model)) is not None), None)


def _import_own() -> None:
    """Register vitscope's own adapters, at their first use; later calls find the modules imported."""
    for module in _OWN:
        importlib.import_module(f"{__package__}.{module}")
