"""vitscope shows where and how a vision transformer looks, and how far each picture of that can be trusted.

Nothing heavy is imported with the package: each public name, and each module of it, is imported at its first use.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitscope import methods, targets
    from vitscope.attribution import Attribution, Explanation
    from vitscope.datasets import list_datasets, open_dataset
    from vitscope.description import Description, describe
    from vitscope.errors import (
        DatasetError,
        FlatMapError,
        ImageError,
        MethodError,
        MetricError,
        ModelError,
        TargetError,
        VitscopeError,
    )
    from vitscope.explainer import Explainer, explain
    from vitscope.images import Preprocessing
    from vitscope.methods import list_methods
    from vitscope.metrics import list_metrics
    from vitscope.models import Layout, Running, adapt, list_models
    from vitscope.targets import ClassNames

    __version__: str

__all__ = [
    "Attribution",
    "ClassNames",
    "DatasetError",
    "Description",
    "Explainer",
    "Explanation",
    "FlatMapError",
    "ImageError",
    "Layout",
    "MethodError",
    "MetricError",
    "ModelError",
    "Preprocessing",
    "Running",
    "TargetError",
    "VitscopeError",
    "adapt",
    "describe",
    "explain",
    "list_datasets",
    "list_methods",
    "list_metrics",
    "list_models",
    "methods",
    "open_dataset",
    "targets",
]

_MODULES = {
    "attribution": ("Attribution", "Explanation"),
    "datasets": ("list_datasets", "open_dataset"),
    "description": ("Description", "describe"),
    "errors": (
        "DatasetError",
        "FlatMapError",
        "ImageError",
        "MethodError",
        "MetricError",
        "ModelError",
        "TargetError",
        "VitscopeError",
    ),
    "explainer": ("Explainer", "explain"),
    "images": ("Preprocessing",),
    "methods": ("list_methods",),
    "metrics": ("list_metrics",),
    "models": ("Layout", "Running", "adapt", "list_models"),
    "targets": ("ClassNames",),
}
"""Module -> the public names that it defines."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name or a module of the package at its first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("vitscope")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(f"vitscope.{_MODULE_OF[name]}"), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"vitscope.{name}") is not None:
        value = importlib.import_module(f"vitscope.{name}")
    else:
        raise AttributeError(f"module 'vitscope' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return [*__all__, "__version__"]
