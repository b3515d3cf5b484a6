"""ImageNet-Segmentation: Guillaumin's foreground masks, the set of Chefer's tables, in one MATLAB file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitscope.datasets.classes import Synsets
from vitscope.datasets.files import need
from vitscope.datasets.record import Dataset, DatasetInfo, Item, Masks, Region
from vitscope.datasets.registry import register_dataset
from vitscope.errors import DatasetError

FILE = "gtsegs_ijcv.mat"
_FAULTS = (OSError, RuntimeError, KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError)


@register_dataset
@dataclass(frozen=True)
class ImageNetSegmentation:
    """gtsegs_ijcv.mat: a MATLAB 7.3 file, which is HDF5.

    /value/img, /value/gt, /value/id and /value/target are (n, 1) references: to a picture (3 W H) uint8; to a cell
    (1, 1) of a mask (W H), 1 = object; to the letters of a name such as n01440764_10040 and of its synset. Where a cell
    holds several masks the first is taken, as in Chefer's tables.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="imagenet-segmentation",
        title="ImageNet-Segmentation (gtsegs_ijcv)",
        source="Guillaumin, Küttel, Ferrari, IJCV 2014; calvin-vision.net/bigstuff/proj-imagenet",
        truth=("labels", "masks"),
        terms="ImageNet's terms for the pictures",
        layout=f"the file {FILE}, or a folder that holds it",
        extra="mat",
    )

    def open(self, root: Path) -> Dataset:
        """The pictures in the file.

        Raises:
            DatasetError: no such file, h5py is missing, or another kind of file.
        """
        file = root if root.is_file() else root / FILE
        if not file.is_file():
            raise DatasetError(f"{root} has no {FILE}; expected {self.info.layout}")
        synsets = Synsets.of_imagenet()
        cells = _Cells(file)
        names = cells.names()
        positions = {name: index for index, name in enumerate(names)}
        if len(positions) < len(names):  # names are no key where one comes twice
            positions = {f"{name}-{index}": index for index, name in enumerate(names)}
        return Dataset(self.info, synsets.names, tuple(positions), _Named(cells, positions, synsets.ids).read)


@dataclass(frozen=True)
class _Named:
    cells: _Cells
    positions: dict[str, int]
    synsets: tuple[str, ...]

    def read(self, name: str) -> Item:
        index = self.positions[name]
        synset = self.cells.synset(index, name)
        label = self.synsets.index(synset) if synset in self.synsets else None  # not all are of ILSVRC2012
        labels = None if label is None else (label,)
        cell = _Cell(self.cells, index)
        return Item(
            name, "all", None, labels or (), labels, None, cell.picture, _CellMask(cell, label), self.cells.file
        )


@dataclass(frozen=True)
class _Cell:
    """One picture's place in the file."""

    cells: _Cells
    index: int

    def picture(self) -> Image.Image:
        pixels = self.cells.array("img", self.index)
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[0] != 3):
            raise DatasetError(
                f"{self.cells.where(self.index)} is no picture (3 W H) of 8 bits; download the file again"
            )
        upright = pixels.transpose(2, 1, 0) if pixels.ndim == 3 else pixels.T
        return Image.fromarray(np.ascontiguousarray(upright)).convert("RGB")


@dataclass(frozen=True)
class _CellMask:
    cell: _Cell
    label: int | None

    def __call__(self, size: tuple[int, int]) -> Masks:
        where = self.cell.cells.where(self.cell.index)
        values = self.cell.cells.array("gt", self.cell.index).T
        if values.shape != size:
            raise DatasetError(f"{where}: its mask is {values.shape}, its picture {size}; download the file again")
        if not np.isin(values, (0, 1)).all():
            raise DatasetError(f"{where}: its mask holds more than 0 and 1; download the file again")
        return Masks((Region(values == 1, self.label, self.label),), np.zeros(size, dtype=bool))


@dataclass(frozen=True)
class _Cells:
    """The file; it is opened anew for each reading, so that it can be handed to other processes."""

    file: Path

    def where(self, index: int) -> str:
        return f"{self.file}, picture {index}"

    def names(self) -> tuple[str, ...]:
        """The pictures' names; "picture-0" where the file gives none."""
        with self._opened() as value:
            try:
                count, masks = len(value["img"]), len(value["gt"])
            except _FAULTS as error:
                reason = " ".join(str(error).split())
                raise DatasetError(f"{self.file}: cannot be read ({reason}); download it again") from error
            if masks != count:
                raise DatasetError(f"{self.file}: has {count} pictures and {masks} masks; download it again")
            return tuple(_name(value, index) for index in range(count))

    def synset(self, index: int, name: str) -> str:
        """A picture's synset; by its name where the file does not hold it by itself."""
        with self._opened() as value:
            try:
                return _text(value, "target", index) or name.partition("_")[0]
            except _FAULTS as error:
                raise DatasetError(
                    f"{self.where(index)}: its synset cannot be read; download the file again"
                ) from error

    def array(self, field: str, index: int) -> NDArray[Any]:
        """The array behind a reference; of a mask, the first in the cell that it leads to."""
        with self._opened() as value:
            try:
                found = value.file[value[field][index, 0]]
                if field == "gt" and found.dtype.kind == "O":
                    found = value.file[found[0, 0]]
                return np.asarray(found[()])
            except _FAULTS as error:
                reason = " ".join(str(error).split())
                raise DatasetError(
                    f"{self.where(index)}: cannot be read ({reason}); download the file again"
                ) from error

    def _opened(self) -> Any:
        h5py = need("h5py", "mat", "imagenet-segmentation")
        try:
            return _Value(h5py.File(self.file, "r"), self.file)
        except OSError as error:
            reason = " ".join(str(error).split())
            raise DatasetError(f"{self.file}: is no whole MATLAB 7.3 file ({reason}); download it again") from error


class _Value:
    """The file's struct `value`, closed at the end of a `with`."""

    def __init__(self, file: Any, path: Path) -> None:
        self.file = file
        try:
            missing = [name for name in ("img", "gt") if f"value/{name}" not in file]
        except _FAULTS as error:
            file.close()
            raise DatasetError(f"{path}: cannot be read ({' '.join(str(error).split())}); download it again") from error
        if missing:
            file.close()
            raise DatasetError(f"{path}: has no /value/{missing[0]}; expected {FILE}")

    def __enter__(self) -> _Value:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __contains__(self, name: str) -> bool:
        return f"value/{name}" in self.file

    def __getitem__(self, name: str) -> Any:
        return self.file[f"value/{name}"]


def _name(value: _Value, index: int) -> str:
    """A picture's own name; one by its place where it has none, or none that can be read."""
    try:
        return _text(value, "id", index) or f"picture-{index}"
    except _FAULTS:
        return f"picture-{index}"


def _text(value: _Value, field: str, index: int) -> str:
    """The letters behind a reference; "" where the file has no such field."""
    if field not in value:
        return ""
    codes = np.asarray(value.file[value[field][index, 0]][()]).ravel()
    return "".join(chr(int(code)) for code in codes).strip("\0 ")
