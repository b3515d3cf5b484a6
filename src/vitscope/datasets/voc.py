"""PASCAL VOC 2012: boxes, and masks of classes and objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from vitscope.datasets.classes import ClassMap
from vitscope.datasets.files import PascalObject, PictureFile, first_folder, inside, read_levels, read_pascal, read_text
from vitscope.datasets.record import Box, Dataset, DatasetInfo, Item, Masks, Region
from vitscope.datasets.registry import register_dataset
from vitscope.errors import DatasetError, nearest

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOID = 255
_PLACES = (".", "VOC2012", "VOCdevkit/VOC2012")
_PARTS = ("JPEGImages", "Annotations", "ImageSets")


@register_dataset
@dataclass(frozen=True)
class VOC:
    """VOC 2012.

    Attributes:
        task: whose lists are read: "segmentation", whose pictures have masks, or "detection".
        split: the list.
        classes_per_image: keeps the pictures with so many classes of things, difficult ones included; 1 is AG-CAM's
            choice. By the boxes' names, which is our reading of it.
        instances: masks of objects, not of classes.
        classes: the model's outputs of the classes (`ClassMap.of`).
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="voc",
        title="PASCAL VOC 2012",
        source="Everingham et al., IJCV 2015; host.robots.ox.ac.uk/pascal/VOC/voc2012",
        truth=("labels", "boxes", "masks", "instances"),
        terms="Flickr's terms of use",
        layout=(
            "VOCdevkit/VOC2012 (or a folder above it) with JPEGImages, Annotations/*.xml, "
            "ImageSets/{Main,Segmentation}/SPLIT.txt, SegmentationClass and SegmentationObject"
        ),
        corners="x1 y1 x2 y2, indices of pixels from 1, right and bottom inclusive",
    )

    task: Literal["segmentation", "detection"] = "segmentation"
    split: Literal["train", "val", "trainval", "test"] = "val"
    classes_per_image: int | None = None
    instances: bool = False
    classes: str | None = None

    def open(self, root: Path) -> Dataset:
        """The pictures of the list.

        Raises:
            DatasetError: another layout, or no such list.
        """
        home = first_folder((root / place for place in _PLACES), _PARTS)
        if home is None:
            raise DatasetError(f"{root} has no {', '.join(_PARTS)}; expected {self.info.layout}")
        listed = home / "ImageSets" / ("Main" if self.task == "detection" else "Segmentation") / f"{self.split}.txt"
        ids = tuple(words[0] for line in read_text(listed).splitlines() if (words := line.split()))
        if len(set(ids)) < len(ids):
            raise DatasetError(f"{listed}: names a picture twice; download it again")
        for name in ids:
            inside(home, name, listed)
        files = _Files(home, self.split, self.instances, ClassMap.of(CLASSES, self.classes))
        if self.classes_per_image is not None:
            ids = tuple(name for name in ids if files.count(name) in (None, self.classes_per_image))
            if not ids:
                raise DatasetError(f"{listed}: no picture has {self.classes_per_image} classes; ask for fewer")
        return Dataset(self.info, CLASSES, ids, files.read)


@dataclass(frozen=True)
class _Files:
    home: Path
    split: str
    instances: bool
    outputs: ClassMap

    def count(self, name: str) -> int | None:
        """Classes in a picture; None where its annotation is damaged, so that it is kept, to fail when it is read."""
        try:
            return len({found.name for found in self._objects(name)})
        except DatasetError:
            return None

    def read(self, name: str) -> Item:
        boxes = tuple(self._box(found, name) for found in self._objects(name))
        categories = tuple(sorted({box.category for box in boxes if box.category is not None}))
        picture = self.home / "JPEGImages" / f"{name}.jpg"
        masked = (self.home / "SegmentationClass" / f"{name}.png").is_file()
        return Item(
            name,
            self.split,
            picture,
            categories,
            self.outputs.labels(categories),
            boxes,
            PictureFile(picture),
            _VOCMasks(self.home, name, self.instances, self.outputs) if masked else None,
            self._annotation(name),
        )

    def _annotation(self, name: str) -> Path:
        return self.home / "Annotations" / f"{name}.xml"

    def _objects(self, name: str) -> tuple[PascalObject, ...]:
        return read_pascal(self._annotation(name))

    def _box(self, found: PascalObject, name: str) -> Box:
        if found.name not in CLASSES:
            hint = nearest(found.name, CLASSES) or f"; the classes are {', '.join(CLASSES)}"
            raise DatasetError(f"{self._annotation(name)}: no class is called '{found.name}'{hint}")
        category = CLASSES.index(found.name)
        x1, y1, x2, y2 = found.written
        edges = (x1 - 1, y1 - 1, x2, y2)
        return Box(edges, found.written, category, self.outputs.label(category), found.difficult)


@dataclass(frozen=True)
class _VOCMasks:
    home: Path
    name: str
    instances: bool
    outputs: ClassMap

    def __call__(self, size: tuple[int, int]) -> Masks:
        file = self.home / "SegmentationClass" / f"{self.name}.png"
        classes = read_levels(file, size)
        present = [int(value) for value in np.unique(classes) if value not in (0, VOID)]
        if present and present[-1] > len(CLASSES):
            raise DatasetError(f"{file}: holds the value {present[-1]}, which is no class; expected VOC's palette PNG")
        if not self.instances:
            return Masks(tuple(self._region(classes == value, value) for value in present), classes == VOID)
        file = self.home / "SegmentationObject" / f"{self.name}.png"
        objects = read_levels(file, size)
        regions = []
        for value in (int(value) for value in np.unique(objects) if value not in (0, VOID)):
            mask = objects == value
            inner = classes[mask & (classes != 0) & (classes != VOID)]
            if not inner.size:
                raise DatasetError(f"{file}: its object {value} has no class in SegmentationClass; download both again")
            regions.append(self._region(mask, int(np.bincount(inner).argmax())))
        return Masks(tuple(regions), (objects == VOID) | (classes == VOID))

    def _region(self, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], value: int) -> Region:
        return Region(mask, value - 1, self.outputs.label(value - 1))
