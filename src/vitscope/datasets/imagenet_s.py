"""ImageNet-S: masks of classes on ImageNet's pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from vitscope.datasets.classes import Synsets
from vitscope.datasets.files import PictureFile, first_folder, pictures_by_stem, read_colours, read_text
from vitscope.datasets.record import Dataset, DatasetInfo, Item, Masks, Region
from vitscope.datasets.registry import register_dataset
from vitscope.errors import DatasetError

UNSURE = 1000
SIZES = (50, 300, 919)


@register_dataset
@dataclass(frozen=True)
class ImageNetS:
    """ImageNet-S with 50, 300 or 919 classes; a mask's id is R + 256 G, 0 = other, 1000 = unsure.

    Attributes:
        variant: number of classes; None takes the one that is there.
        split: whose pictures and masks are read.
        categories: a file with the synsets in the order of the masks' ids, from 1; None takes the class folders in the
            order of their names, and asks that they be 50, 300 or 919.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="imagenet-s",
        title="ImageNet-S",
        source="Gao et al., TPAMI 2022, arXiv 2106.03149; github.com/LUSSeg/ImageNet-S",
        truth=("labels", "masks"),
        terms="ImageNet's terms for the pictures; see the project's page for the masks",
        layout=(
            "ImageNetS919 (or ImageNetS300, ImageNetS50, or the folder above it) with validation/n01440764/*.JPEG and "
            "validation-segmentation/n01440764/*.png"
        ),
    )

    variant: Literal[50, 300, 919] | None = None
    split: Literal["validation", "train-semi"] = "validation"
    categories: str | None = None

    def open(self, root: Path) -> Dataset:
        """The pictures of the split.

        Raises:
            DatasetError: another layout, or class folders that do not tell the masks' ids.
        """
        parts = (self.split, f"{self.split}-segmentation")
        places = [root / f"ImageNetS{size}" for size in SIZES if self.variant in (None, size)]
        homes = [place for place in (root, *places) if first_folder([place], parts)]
        if not homes:
            raise DatasetError(f"{root} has no {parts[0]} with {parts[1]}; expected {self.info.layout}")
        if len(homes) > 1:
            names = ", ".join(home.name for home in homes)
            raise DatasetError(f"{root} has several of ImageNet-S ({names}); choose one by variant=50, 300 or 919")
        home = homes[0]
        pictures = pictures_by_stem(home / parts[0])
        order = self._order(home / parts[0])
        synsets = Synsets.of_imagenet()
        outputs = tuple(synsets.index(synset, f"{home}, class folder") for synset in order)
        titles = tuple(synsets.names[output] for output in outputs)
        files = _Files(self.split, pictures, home / parts[1], order, outputs)
        return Dataset(self.info, titles, tuple(pictures), files.read)

    def _order(self, folder: Path) -> tuple[str, ...]:
        if self.categories is not None:
            order = tuple(words[0] for line in read_text(Path(self.categories)).splitlines() if (words := line.split()))
            if not order or len(set(order)) < len(order) or len(order) not in (self.variant or len(order),):
                raise DatasetError(
                    f"{self.categories}: is no list of {self.variant or 'the'} synsets, each once; mend it"
                )
            return order
        order = tuple(sorted(each.name for each in folder.iterdir() if each.is_dir()))
        if len(order) not in ((self.variant,) if self.variant else SIZES):
            raise DatasetError(
                f"{folder} has {len(order)} class folders, not {self.variant or '50, 300 or 919'}, so they do not tell "
                "the masks' ids; complete them, or give categories=FILE with the synsets in the order of the ids"
            )
        return order


@dataclass(frozen=True)
class _Files:
    split: str
    pictures: dict[str, Path]
    masks: Path
    order: tuple[str, ...]
    outputs: tuple[int, ...]

    def read(self, name: str) -> Item:
        path = self.pictures[name]
        synset = path.parent.name
        if synset not in self.order:
            raise DatasetError(f"{path}: lies in no folder of a known class; expected a folder named by its synset")
        category = self.order.index(synset)
        file = self.masks / synset / f"{name}.png"
        labels = (self.outputs[category],)
        masks = _ClassMasks(file, self.outputs)
        return Item(name, self.split, path, (category,), labels, None, PictureFile(path), masks, file)


@dataclass(frozen=True)
class _ClassMasks:
    path: Path
    outputs: tuple[int, ...]

    def __call__(self, size: tuple[int, int]) -> Masks:
        colours = read_colours(self.path, size).astype(np.int64)
        ids = colours[..., 0] + 256 * colours[..., 1]
        present = [int(value) for value in np.unique(ids) if value not in (0, UNSURE)]
        if present and present[-1] > len(self.outputs):
            raise DatasetError(
                f"{self.path}: holds the class id {present[-1]}, of {len(self.outputs)} classes; check the variant"
            )
        regions = tuple(Region(ids == value, value - 1, self.outputs[value - 1]) for value in present)
        return Masks(regions, ids == UNSURE)
