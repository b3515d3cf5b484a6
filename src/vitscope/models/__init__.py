"""What is where in a transformer: adapters describe a model, one file a family; they never re-implement it."""

from vitscope.models import (  # noqa: F401  (register their adapters)
    dino_hub,
    hf,
    open_clip_vit,
    timm_beit_eva,
    timm_class_attention,
    timm_vit,
    torchvision_vit,
    windowed,
)
from vitscope.models.adapt import Layout, adapt
from vitscope.models.anatomy import Anatomy, Block, Classifier, Grid, Window
from vitscope.models.find import anatomy_of
from vitscope.models.loaded import Loaded
from vitscope.models.registry import families, register_adapter
from vitscope.models.resolve import list_models, load, load_model, of_module
from vitscope.models.running import PRECISIONS, Precision, Running
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
