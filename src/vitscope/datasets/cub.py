"""CUB-200-2011: one bird a picture, with its box and its mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from vitscope.datasets.classes import ClassMap
from vitscope.datasets.files import (
    PictureFile,
    first_folder,
    inside,
    numbers,
    read_levels,
    rows_by_key,
    whole_number,
)
from vitscope.datasets.record import Box, Dataset, DatasetInfo, Item, Masks, Region
from vitscope.datasets.registry import register_dataset
from vitscope.errors import DatasetError

_TABLES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt")
_SHADES = 255


@register_dataset
@dataclass(frozen=True)
class CUB:
    """CUB-200-2011.

    Attributes:
        split: by train_test_split.txt.
        classes: the model's outputs of the 200 species (`ClassMap.of`); "own" for a model trained on them.
        truth: the "boxes" alone, as AG-CAM has it, the "masks" too, or "auto", these where there is segmentations/.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="cub",
        title="Caltech-UCSD Birds-200-2011",
        source="Wah et al., CNS-TR-2011-001; vision.caltech.edu/datasets/cub_200_2011",
        truth=("labels", "boxes", "masks"),
        terms="research and education; the photographs belong to their owners",
        layout=(
            "CUB_200_2011 (or the folder above it) with images/, images.txt, image_class_labels.txt, "
            "train_test_split.txt, bounding_boxes.txt and classes.txt; segmentations/ in it or beside it"
        ),
        corners="x y width height; read as edges from the picture's corner",
    )

    split: Literal["test", "train", "all"] = "test"
    classes: str | None = None
    truth: Literal["auto", "boxes", "masks"] = "auto"

    def open(self, root: Path) -> Dataset:
        """The pictures of the split.

        Raises:
            DatasetError: another layout, or a table that cannot be read.
        """
        home = first_folder((root, root / "CUB_200_2011"), _TABLES)
        if home is None:
            missing = next(name for name in _TABLES if not (root / name).exists())
            raise DatasetError(f"{root} has no {missing}; expected {self.info.layout}")
        tables = {name: rows_by_key(home / name) for name in _TABLES}
        species = tables["classes.txt"]
        if list(species) != [str(index) for index in range(1, len(species) + 1)]:
            raise DatasetError(f"{home / 'classes.txt'}: its ids are not 1, 2, 3 and so on; download it again")
        names = tuple(species.values())
        birds = _Birds(home, tables, self._segmentations(home), len(names), self._map(names))
        # A picture whose part is unknown is kept, to fail when it is read.
        parts = {"test": ("0",), "train": ("1",)}.get(self.split, ("0", "1"))
        others = {"0", "1"}.difference(parts)
        wanted = tuple(key for key in tables["images.txt"] if tables["train_test_split.txt"].get(key) not in others)
        return Dataset(self.info, names, wanted, birds.read)

    def _segmentations(self, home: Path) -> Path | None:
        beside = None if self.truth == "boxes" else first_folder((home, home.parent), ("segmentations",))
        if beside is None and self.truth == "masks":
            raise DatasetError(f"{home} has no segmentations/, in it or beside it; download them, or use truth=boxes")
        return beside and beside / "segmentations"

    def _map(self, names: tuple[str, ...]) -> ClassMap:
        return ClassMap.of(names, self.classes)


@dataclass(frozen=True)
class _Birds:
    home: Path
    tables: dict[str, dict[str, str]]
    segmentations: Path | None
    species: int
    outputs: ClassMap

    def read(self, key: str) -> Item:
        name = self.tables["images.txt"][key]
        path = inside(self.home / "images", name, self.home / "images.txt")
        text, where = self._row("image_class_labels.txt", key)
        category = whole_number(text, 1, self.species, where) - 1
        text, where = self._row("train_test_split.txt", key)
        split = ("test", "train")[whole_number(text, 0, 1, where)]
        text, where = self._row("bounding_boxes.txt", key)
        written = numbers(text.split(), where)
        if len(written) != 4 or min(written[2:]) <= 0:
            raise DatasetError(f"{where}: '{text}' is no x y width height; mend that row")
        x, y, width, height = written
        label = self.outputs.label(category)
        box = Box((x, y, x + width, y + height), (x, y, width, height), category, label)
        masks = None
        if self.segmentations is not None:
            masks = _BirdMask((self.segmentations / name).with_suffix(".png"), category, label)
        source = self.home / "bounding_boxes.txt"
        labels = self.outputs.labels([category])
        return Item(key, split, path, (category,), labels, (box,), PictureFile(path), masks, source)

    def _row(self, table: str, key: str) -> tuple[str, str]:
        if key not in self.tables[table]:
            raise DatasetError(f"{self.home / table}: has no row for picture {key}; download it again")
        return self.tables[table][key], f"{self.home / table}, picture {key}"


@dataclass(frozen=True)
class _BirdMask:
    """The bird's pixels: those that more than half of the annotators painted.

    A shade is the share of five annotators; the threshold is our reading.
    """

    path: Path
    category: int
    label: int | None

    def __call__(self, size: tuple[int, int]) -> Masks:
        shades = read_levels(self.path, size)
        mask = shades > _SHADES / 2
        return Masks((Region(mask, self.category, self.label),), np.zeros(size, dtype=bool))
