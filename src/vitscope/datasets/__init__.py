"""Pictures with known truth: published data sets, your own folder, and drawn scenes."""

from vitscope.datasets.carry import mask_to_input
from vitscope.datasets.classes import ClassMap, Synsets
from vitscope.datasets.coco import COCO
from vitscope.datasets.cub import CUB
from vitscope.datasets.drawn import DrawnScenes
from vitscope.datasets.imagenet import ImageNet
from vitscope.datasets.imagenet_s import ImageNetS
from vitscope.datasets.imagenet_segmentation import ImageNetSegmentation
from vitscope.datasets.mask_folder import MaskFolder
from vitscope.datasets.pets import Pets
from vitscope.datasets.record import (
    BACKGROUND,
    IGNORE,
    OBJECT,
    Box,
    Dataset,
    DatasetInfo,
    Item,
    Masks,
    Opened,
    Region,
)
from vitscope.datasets.registry import (
    Reader,
    as_reader,
    dataset_options,
    list_datasets,
    open_dataset,
    register_dataset,
)
from vitscope.datasets.scenes import CLASSES, Individual, Instance, Knobs, Scene, Scenes, with_mark
from vitscope.datasets.voc import VOC

__all__ = [
    "BACKGROUND",
    "CLASSES",
    "COCO",
    "CUB",
    "IGNORE",
    "OBJECT",
    "VOC",
    "Box",
    "ClassMap",
    "Dataset",
    "DatasetInfo",
    "DrawnScenes",
    "ImageNet",
    "ImageNetS",
    "ImageNetSegmentation",
    "Individual",
    "Instance",
    "Item",
    "Knobs",
    "MaskFolder",
    "Masks",
    "Opened",
    "Pets",
    "Reader",
    "Region",
    "Scene",
    "Scenes",
    "Synsets",
    "as_reader",
    "dataset_options",
    "list_datasets",
    "mask_to_input",
    "open_dataset",
    "register_dataset",
    "with_mark",
]
