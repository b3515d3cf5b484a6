"""Anyone's pictures with masks: images/ and masks/ of the same names, labels.csv where there is one."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from vitscope.datasets.files import PictureFile, pictures_by_stem, read_levels, whole_number
from vitscope.datasets.record import Dataset, DatasetInfo, Item, Masks, Region
from vitscope.datasets.registry import register_dataset
from vitscope.errors import DatasetError

_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")
_MOST_OUTPUTS = 10_000_000


@register_dataset
@dataclass(frozen=True)
class MaskFolder:
    """A folder with masks: 0 is background, any other value the object, but for one value that may be ignored.

    Pictures are turned upright as `load_image` does it, since that is how a mask is painted on them.

    Attributes:
        ignore: the value of pixels of which the masks say nothing, or None.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="masks",
        title="A folder with masks",
        source="your own",
        truth=("labels", "masks"),
        terms="yours",
        layout=(
            "a folder with images/ and masks/ (lossless, such as PNG; 0 = background) of the same names, and "
            "perhaps labels.csv with the header 'image,label', a label being an index of the model's outputs"
        ),
    )

    ignore: int | None = None

    def open(self, root: Path) -> Dataset:
        """The pictures in images/.

        Raises:
            DatasetError: another layout, or a labels.csv that is none.
        """
        missing = [name for name in ("images", "masks") if not (root / name).is_dir()]
        if missing:
            raise DatasetError(f"{root} has no {' and no '.join(missing)}; expected {self.info.layout}")
        if self.ignore == 0:
            raise DatasetError("ignore=0 would ignore the background; give another value, or none")
        pictures = pictures_by_stem(root / "images")
        masks = pictures_by_stem(root / "masks")
        listed = root / "labels.csv"
        rows = _rows(listed) if listed.is_file() else None
        files = _Files(root / "masks", pictures, masks, listed, rows, self.ignore)
        return Dataset(self.info, (), tuple(pictures), files.read)


@dataclass(frozen=True)
class BinaryMask:
    """One object: every value but 0 and the ignored one."""

    path: Path
    category: int | None = None
    label: int | None = None
    ignore: int | None = None

    def __call__(self, size: tuple[int, int]) -> Masks:
        """The mask of a picture of (height, width); an error where it is missing, damaged or of another size."""
        values = read_levels(self.path, size)
        ignored = np.zeros(size, dtype=bool) if self.ignore is None else values == self.ignore
        return Masks((Region((values != 0) & ~ignored, self.category, self.label),), ignored)


@dataclass(frozen=True)
class _Files:
    folder: Path
    pictures: dict[str, Path]
    masks: dict[str, Path]
    listed: Path
    rows: dict[str, tuple[str, ...]] | None
    ignore: int | None

    def read(self, name: str) -> Item:
        path = self.pictures[name]
        mask = self.masks.get(name)
        if mask is None or mask.suffix.lower() not in _ENDINGS:
            found = f"only the lossy {mask.name}" if mask else "no mask"
            raise DatasetError(f"{self.folder}: has {found} for {path.name}; expected {name}.png")
        labels = self._labels(path)
        label = labels[0] if labels and len(labels) == 1 else None
        masks = BinaryMask(mask, None, label, self.ignore)
        return Item(name, "all", path, (), labels, None, PictureFile(path, upright=True), masks, mask)

    def _labels(self, path: Path) -> tuple[int, ...] | None:
        """Of the rows that name the picture's file, or its stem; None where there is no table."""
        if self.rows is None:
            return None
        texts = self.rows.get(path.name, ()) + self.rows.get(path.stem, ())
        where = f"{self.listed}, {path.name}"
        if not texts:
            raise DatasetError(f"{where}: has no row; add one")
        return tuple(sorted({whole_number(text, 0, _MOST_OUTPUTS, where) for text in texts}))


def _rows(file: Path) -> dict[str, tuple[str, ...]]:
    """Picture -> its labels as written; several rows of one picture are several labels."""
    rows: dict[str, tuple[str, ...]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.reader(lines)
            if next(table, None) != ["image", "label"]:
                raise DatasetError(f"{file}: does not begin with 'image,label'; write that as its first line")
            for row in table:
                if row:
                    rows[row[0]] = (*rows.get(row[0], ()), ",".join(row[1:]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file}: cannot be read ({error}); save it as UTF-8 CSV") from error
    return rows
