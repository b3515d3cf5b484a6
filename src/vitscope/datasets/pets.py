"""Oxford-IIIT pets: cats and dogs with their outlines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from vitscope.datasets.classes import ClassMap
from vitscope.datasets.files import (
    PictureFile,
    inside,
    pictures_by_stem,
    read_levels,
    rows_by_key,
    whole_number,
)
from vitscope.datasets.mask_folder import BinaryMask
from vitscope.datasets.record import Dataset, DatasetInfo, Item, Masks, Region
from vitscope.datasets.registry import register_dataset
from vitscope.errors import DatasetError

BREEDS = (
    "Abyssinian",
    "american_bulldog",
    "american_pit_bull_terrier",
    "basset_hound",
    "beagle",
    "Bengal",
    "Birman",
    "Bombay",
    "boxer",
    "British_Shorthair",
    "chihuahua",
    "Egyptian_Mau",
    "english_cocker_spaniel",
    "english_setter",
    "german_shorthaired",
    "great_pyrenees",
    "havanese",
    "japanese_chin",
    "keeshond",
    "leonberger",
    "Maine_Coon",
    "miniature_pinscher",
    "newfoundland",
    "Persian",
    "pomeranian",
    "pug",
    "Ragdoll",
    "Russian_Blue",
    "saint_bernard",
    "samoyed",
    "scottish_terrier",
    "shiba_inu",
    "Siamese",
    "Sphynx",
    "staffordshire_bull_terrier",
    "wheaten_terrier",
    "yorkshire_terrier",
)
"""In the order of the class ids of list.txt, from 1."""
_LISTS = {"all": "list.txt", "trainval": "trainval.txt", "test": "test.txt"}
_ANIMAL, _GROUND, _RIM = 1, 2, 3


@register_dataset
@dataclass(frozen=True)
class Pets:
    """Oxford-IIIT pets; the rim of the official trimaps, of which they say nothing, is ignored.

    In the plain layout the breed is read from the file's name, and 0 is background, the rim included.

    Attributes:
        split: the list of the official layout; the plain one has "all" alone.
        classes: the model's outputs of the 37 breeds (`ClassMap.of`); "own" for a model trained on them.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="pets",
        title="Oxford-IIIT Pet",
        source="Parkhi et al., CVPR 2012; robots.ox.ac.uk/~vgg/data/pets",
        truth=("labels", "masks"),
        terms="CC BY-SA 4.0; the photographs belong to their owners",
        layout=(
            "a folder with images/*.jpg and annotations/ (list.txt, trainval.txt, test.txt and trimaps/*.png), or "
            "images/ and masks/*.png (0 and 255) of the same names"
        ),
    )

    split: Literal["all", "trainval", "test"] = "all"
    classes: str | None = None

    def open(self, root: Path) -> Dataset:
        """The pictures of the list, or of the folder images/ in the plain layout.

        Raises:
            DatasetError: another layout, or no such list.
        """
        home = root / "oxford-iiit-pet" if (root / "oxford-iiit-pet").is_dir() else root
        annotations, plain = home / "annotations", home / "masks"
        if not (home / "images").is_dir() or not (annotations.is_dir() or plain.is_dir()):
            missing = "annotations and no masks" if (home / "images").is_dir() else "images"
            raise DatasetError(f"{root} has no {missing}; expected {self.info.layout}")
        outputs = ClassMap.of(BREEDS, self.classes)
        if annotations.is_dir():
            rows = rows_by_key(annotations / _LISTS[self.split])
            official = _Official(home, annotations / _LISTS[self.split], self.split, rows, outputs)
            return Dataset(self.info, BREEDS, tuple(rows), official.read)
        if self.split != "all":
            raise DatasetError(f"{root} has no annotations/, so no split '{self.split}'; ask for split=all")
        pictures = pictures_by_stem(home / "images")
        return Dataset(self.info, BREEDS, tuple(pictures), _Plain(plain, pictures, outputs).read)


@dataclass(frozen=True)
class _Official:
    home: Path
    listed: Path
    split: str
    rows: dict[str, str]
    outputs: ClassMap

    def read(self, name: str) -> Item:
        words, where = self.rows[name].split(), f"{self.listed}, {name}"
        if len(words) != 3:
            raise DatasetError(f"{where}: '{self.rows[name]}' is no class id, species and breed id; mend that row")
        category = whole_number(words[0], 1, len(BREEDS), where) - 1
        picture = inside(self.home / "images", f"{name}.jpg", self.listed)
        trimap = self.home / "annotations" / "trimaps" / f"{name}.png"
        labels = self.outputs.labels([category])
        masks = _Trimap(trimap, category, self.outputs.label(category))
        return Item(name, self.split, picture, (category,), labels, None, PictureFile(picture), masks, self.listed)


@dataclass(frozen=True)
class _Trimap:
    path: Path
    category: int
    label: int | None

    def __call__(self, size: tuple[int, int]) -> Masks:
        values = read_levels(self.path, size)
        if not np.isin(values, (_ANIMAL, _GROUND, _RIM)).all():
            raise DatasetError(f"{self.path}: holds more than 1, 2 and 3, so it is no trimap; download it again")
        return Masks((Region(values == _ANIMAL, self.category, self.label),), values == _RIM)


@dataclass(frozen=True)
class _Plain:
    masks: Path
    pictures: dict[str, Path]
    outputs: ClassMap

    def read(self, name: str) -> Item:
        path = self.pictures[name]
        breed = name.rpartition("_")[0]
        if breed not in BREEDS:
            raise DatasetError(f"{path}: '{breed}' is no breed; expected a name such as Abyssinian_12.jpg")
        category = BREEDS.index(breed)
        mask = self.masks / f"{name}.png"
        labels = self.outputs.labels([category])
        masks = BinaryMask(mask, category, self.outputs.label(category))
        return Item(name, "all", path, (category,), labels, None, PictureFile(path), masks, mask)
