"""vitscope shows where and how a vision transformer looks, and how far each picture of that can be trusted."""

from importlib.metadata import version

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

__version__ = version("vitscope")

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
