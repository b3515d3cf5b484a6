"""What is where in a transformer: adapters describe a model, one file a family; they never re-implement it."""

from vitscope.models import timm_vit  # noqa: F401  (registers its adapter)
from vitscope.models.anatomy import Anatomy, Block
from vitscope.models.loaded import Loaded
from vitscope.models.registry import anatomy_of, families, register_adapter
from vitscope.models.resolve import list_models, load, load_model, of_module

__all__ = [
    "Anatomy",
    "Block",
    "Loaded",
    "anatomy_of",
    "families",
    "list_models",
    "load",
    "load_model",
    "of_module",
    "register_adapter",
]
