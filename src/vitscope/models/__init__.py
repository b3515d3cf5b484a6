"""What is where in a transformer: adapters describe a model, one file a family; they never re-implement it."""

from vitscope.models import timm_beit_eva, timm_class_attention, timm_vit  # noqa: F401  (register their adapters)
from vitscope.models.anatomy import Anatomy, Block, Classifier, Grid
from vitscope.models.registry import anatomy_of, families, register_adapter
from vitscope.models.resolve import list_models, load_model

__all__ = [
    "Anatomy",
    "Block",
    "Classifier",
    "Grid",
    "anatomy_of",
    "families",
    "list_models",
    "load_model",
    "register_adapter",
]
