"""What is where in a transformer: adapters describe a model, one file a family; they never re-implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitscope.defaults import PRECISIONS, Precision
from vitscope.models.adapt import Layout, adapt
from vitscope.models.anatomy import Anatomy, Block, Classifier, Grid, Window
from vitscope.models.find import anatomy_of
from vitscope.models.loaded import Loaded
from vitscope.models.registry import families, register_adapter
from vitscope.models.resolve import list_models, load, load_model, of_module
from vitscope.models.running import Running

if TYPE_CHECKING:
    from vitscope.models.t2t import t2t_vit

__all__ = [
    "PRECISIONS",
    "Anatomy",
    "Block",
    "Classifier",
    "Grid",
    "Layout",
    "Loaded",
    "Precision",
    "Running",
    "Window",
    "adapt",
    "anatomy_of",
    "families",
    "list_models",
    "load",
    "load_model",
    "of_module",
    "register_adapter",
    "t2t_vit",
]


def __getattr__(name: str) -> Any:
    """Import `t2t_vit`, whose module needs timm, when it is used."""
    if name != "t2t_vit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vitscope.models.t2t import t2t_vit

    return t2t_vit
