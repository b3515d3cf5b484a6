"""The files that data sets are made of: lists, tables, PASCAL's XML and masks; each fault names its file."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree  # nosec B405  # see _Plain

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitscope.datasets.record import Edges
from vitscope.errors import DatasetError
from vitscope.images.load import load_image, load_levels

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
"""The endings of files that are taken for pictures."""


@dataclass(frozen=True)
class PictureFile:
    """A picture's file, to be read when called: RGB.

    Attributes:
        path: the file.
        upright: whether a camera's turn is applied; published truth is drawn on the pixels as stored.
    """

    path: Path
    upright: bool = False

    def __call__(self) -> Image.Image:
        """The picture; ImageError where it is missing or damaged."""
        return load_image(self.path, upright=self.upright)


def need(module: str, extra: str, name: str) -> ModuleType:
    """Import a library of an extra; DatasetError that names it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise DatasetError(f'{name}: needs {package} ({error}); pip install "vitscope[{extra}]"') from error


def first_folder(candidates: Iterable[Path], having: Sequence[str]) -> Path | None:
    """The first of the folders that has all these files or folders in it."""
    return next((each for each in candidates if all((each / name).exists() for name in having)), None)


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures in a folder and its folders by their stem, sorted.

    Raises:
        DatasetError: two of one stem, or a folder that cannot be read.
    """
    found: dict[str, Path] = {}
    try:
        files = sorted(
            Path(place, name)
            for place, _, names in os.walk(folder, onerror=_raise)
            for name in names
            if os.path.splitext(name)[1].lower() in PICTURES and not name.startswith(".")
        )
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    for file in files:
        if file.stem in found:
            raise DatasetError(f"{file} and {found[file.stem]} share one name; keep one of them")
        found[file.stem] = file
    return dict(sorted(found.items()))


def _raise(error: OSError) -> None:
    raise error


def inside(folder: Path, name: str, source: Path) -> Path:
    """The file that a list names; DatasetError where its name leads out of the folder."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise DatasetError(f"{source}: names the file '{name}', which is not below {folder}; mend that row")
    return folder / name


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        DatasetError: it is missing, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; check that the data set is complete") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text ({type(error).__name__}); copy it again") from error


def rows_by_key(path: Path) -> dict[str, str]:
    """Lines "key rest" -> the rest by its key; a key's rest is only understood when it is asked for.

    Raises:
        DatasetError: no file, or one key twice.
    """
    rows: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        key, _, rest = line.strip().partition(" ")
        if not key or key.startswith("#"):
            continue
        if key in rows:
            raise DatasetError(f"{path}, line {number}: {key} comes twice; keep one row of it")
        rows[key] = rest.strip()
    return rows


def whole_number(text: str, low: int, high: int, where: str) -> int:
    """A number from `low` to `high`; DatasetError at `where` otherwise."""
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise DatasetError(f"{where}: '{text}' is no number from {low} to {high}; mend that row")
    return number


def numbers(texts: Sequence[str], where: str) -> tuple[float, ...]:
    """Finite numbers; DatasetError at `where` otherwise."""
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise DatasetError(f"{where}: '{' '.join(texts)}' are not all numbers; mend that row")
    return values


def corners(texts: Sequence[str], where: str) -> Edges:
    """x1 y1 x2 y2, in order; DatasetError at `where` otherwise."""
    if len(texts) != 4:
        raise DatasetError(f"{where}: a box has {len(texts)} corners, not x1 y1 x2 y2; mend that row")
    x1, y1, x2, y2 = numbers(texts, where)
    if x2 < x1 or y2 < y1:
        raise DatasetError(f"{where}: the box {' '.join(texts)} ends before it begins; mend that row")
    return x1, y1, x2, y2


@dataclass(frozen=True)
class PascalObject:
    """A thing in PASCAL's XML: its name, its corners as written, and whether it is marked as difficult."""

    name: str
    written: Edges
    difficult: bool


class _Plain(ElementTree.TreeBuilder):
    """Refuses a document type, which is where entities that grow without end are declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DatasetError("declares a document type; annotations have none, so this file is not trusted")


def read_pascal(path: Path) -> tuple[PascalObject, ...]:
    """The things of a PASCAL-style annotation.

    Raises:
        DatasetError: no such file, not such a file, or one that declares a document type.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Plain()))  # nosec B314  # without a document type
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such annotation; check that the data set is complete") from error
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: is no complete XML ({reason}); copy or download it again") from error
    if root.tag != "annotation":
        raise DatasetError(f"{path}: begins with <{root.tag}>, not <annotation>; expected PASCAL's XML")
    return tuple(_pascal_object(found, path) for found in root.findall("object"))


def _pascal_object(found: ElementTree.Element, path: Path) -> PascalObject:
    name = (found.findtext("name") or "").strip()
    texts = [(found.findtext(f"bndbox/{corner}") or "").strip() for corner in ("xmin", "ymin", "xmax", "ymax")]
    if not name or not all(texts):
        raise DatasetError(f"{path}: an <object> has no <name> or no whole <bndbox>; copy or download it again")
    return PascalObject(name, corners(texts, str(path)), (found.findtext("difficult") or "0").strip() == "1")


def read_levels(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    """A mask's values (H, W) as stored: palette indices or greys; of grey RGB the one band.

    Raises:
        ImageError: missing or damaged.
        DatasetError: coloured, or not of `size` (height, width).
    """
    values = _sized(path, size)
    if values.ndim == 3:
        colours = values[..., : 3 if values.shape[2] > 2 else 1]
        if (colours != colours[..., :1]).any():
            raise DatasetError(f"{path}: is coloured, so it is no mask; expected a grey or palette PNG")
        values = colours[..., 0]
    return values


def read_colours(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    """A mask's values (H, W, 3) as stored; the same errors, and one where it is not RGB."""
    values = _sized(path, size)
    if values.ndim != 3 or values.shape[2] < 3:
        raise DatasetError(f"{path}: is not RGB, so it holds no class ids; copy or download it again")
    return values[..., :3]


def _sized(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    values = np.asarray(load_levels(path))
    if values.dtype.kind == "f":
        raise DatasetError(f"{path}: holds fractions, so it is no mask; expected a grey or palette PNG")
    if values.shape[:2] != size:
        (rows, cols), (height, width) = values.shape[:2], size
        raise DatasetError(
            f"{path}: a mask of {cols} x {rows} pixels for a picture of {width} x {height}; "
            "check that picture and mask belong together"
        )
    return values
