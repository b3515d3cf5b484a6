"""ILSVRC2012's validation pictures with their labels and boxes."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from vitscope.datasets.classes import Synsets
from vitscope.datasets.files import PictureFile, corners, pictures_by_stem, read_pascal
from vitscope.datasets.record import Box, Dataset, DatasetInfo, Edges, Item
from vitscope.datasets.registry import register_dataset
from vitscope.errors import DatasetError

CSV = "LOC_val_solution.csv"
MAPPING = "LOC_synset_mapping.txt"
_DATA = ("ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "val", ".")
_XML = ("ILSVRC/Annotations/CLS-LOC/val", "Annotations/CLS-LOC/val", "Annotations/val", "Annotations", "val", ".")
_SYNSET = re.compile(r"n\d{8}")

Object = tuple[str, Edges]


@register_dataset
@dataclass(frozen=True)
class ImageNet:
    """ILSVRC2012 val in one of three layouts.

    Attributes:
        truth: where labels and boxes are read: "csv" (LOC_val_solution.csv), "xml" (PASCAL-style), "folders" (a folder
            a synset, no boxes), or "auto", the first of these that is there.
        synsets: a file like LOC_synset_mapping.txt; None takes the root's own, else timm's list.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="imagenet",
        title="ImageNet ILSVRC2012, validation",
        source="Russakovsky et al., IJCV 2015, arXiv 1409.0575; image-net.org",
        truth=("labels", "boxes"),
        terms="research and education, by agreement with the ImageNet team",
        layout=(
            "a folder with val/*.JPEG (or Kaggle's ILSVRC/Data/CLS-LOC/val) and LOC_val_solution.csv, or XML "
            "annotations in Annotations/CLS-LOC/val, or val/n01440764/*.JPEG, a folder for each synset"
        ),
        corners="x1 y1 x2 y2, indices of pixels from 0, right and bottom inclusive",
    )

    truth: Literal["auto", "csv", "xml", "folders"] = "auto"
    synsets: str | None = None

    def open(self, root: Path) -> Dataset:
        """The pictures that are there; truth without a picture is no item.

        Raises:
            DatasetError: none of the layouts.
        """
        annotations = _annotations(root) if self.truth in ("auto", "xml") else None
        there = {
            "csv": (root / CSV).is_file(),
            "xml": annotations is not None,
            "folders": any(_SYNSET.fullmatch(each.name) for each in _pictures_folder(root).glob("n*")),
        }
        kinds = [kind for kind, found in there.items() if found and self.truth in ("auto", kind)]
        if not kinds:
            lacks = {"csv": CSV, "xml": ".xml", "folders": "class folders"}
            missing = f"{CSV}, no .xml and no class folders" if self.truth == "auto" else lacks[self.truth]
            raise DatasetError(f"{root} has no {missing}; expected {self.info.layout}")
        synsets = _synsets(root, self.synsets)
        pictures = pictures_by_stem(_pictures_folder(root))
        rows = _rows(root / CSV) if kinds[0] == "csv" else {}
        truth = _Truth(kinds[0], root, pictures, rows, annotations, synsets)
        return Dataset(self.info, synsets.names, tuple(pictures), truth.read)


@dataclass(frozen=True)
class _Truth:
    kind: str
    root: Path
    pictures: dict[str, Path]
    rows: dict[str, str]
    annotations: Path | None
    synsets: Synsets

    def read(self, name: str) -> Item:
        path = self.pictures[name]
        boxes: tuple[Box, ...] | None = None
        if self.kind == "folders":
            source = path
            categories: tuple[int, ...] = (self.synsets.index(path.parent.name, str(path)),)
        else:
            source, objects = self._objects(name)
            where = f"{source}, {name}"
            boxes = tuple(_box(written, self.synsets.index(synset, where)) for synset, written in objects)
            categories = tuple(sorted({box.category for box in boxes if box.category is not None}))
        return Item(name, "val", path, categories, categories, boxes, PictureFile(path), None, source)

    def _objects(self, name: str) -> tuple[Path, tuple[Object, ...]]:
        if self.kind == "xml" and self.annotations is not None:
            source = self.annotations / f"{name}.xml"
            found = tuple((each.name, each.written) for each in read_pascal(source))
        else:
            source = self.root / CSV
            if name not in self.rows:
                raise DatasetError(f"{source}: has no row for {name}; check that list and pictures belong together")
            found = _objects(self.rows[name], f"{source}, {name}")
        if not found:
            raise DatasetError(f"{source}: names nothing in {name}; copy or download it again")
        return source, found


def _box(written: Edges, category: int) -> Box:
    """Inclusive indices become edges: our reading, since x1 = 0 and x2 = width - 1 are frequent, x2 = width is not."""
    x1, y1, x2, y2 = written
    return Box((x1, y1, x2 + 1, y2 + 1), written, category, category)


def _objects(text: str, where: str) -> tuple[Object, ...]:
    """The objects of "n01751748 111 108 441 193 n01751748 ..."."""
    words = text.split()
    if len(words) % 5:
        raise DatasetError(f"{where}: '{text.strip()}' is not made of 'synset x1 y1 x2 y2'; mend that row")
    return tuple((words[i], corners(words[i + 1 : i + 5], where)) for i in range(0, len(words), 5))


def _rows(file: Path) -> dict[str, str]:
    """Picture -> its objects as written."""
    rows: dict[str, str] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.reader(lines)
            if next(table, None) != ["ImageId", "PredictionString"]:
                raise DatasetError(f"{file}: does not begin with 'ImageId,PredictionString'; download it again")
            for row in table:
                if row and row[0] in rows:
                    raise DatasetError(f"{file}, line {table.line_num}: {row[0]} comes twice; keep one row of it")
                if row:
                    rows[row[0]] = ",".join(row[1:])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file}: cannot be read ({error}); copy or download it again") from error
    return rows


def _pictures_folder(root: Path) -> Path:
    return next((root / place for place in _DATA if (root / place).is_dir()), root)


def _annotations(root: Path) -> Path | None:
    """The folder with .xml files."""
    places = (root / place for place in _XML)
    return next((place for place in places if place.is_dir() and next(place.glob("*.xml"), None)), None)


def _synsets(root: Path, file: str | None) -> Synsets:
    if file is not None:
        return Synsets.read(Path(file))
    return Synsets.read(root / MAPPING) if (root / MAPPING).is_file() else Synsets.of_imagenet()
