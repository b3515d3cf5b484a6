"""COCO's instances: boxes and masks of every object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vitscope.datasets.classes import ClassMap
from vitscope.datasets.files import PictureFile, inside, need, numbers, read_text
from vitscope.datasets.record import Box, Dataset, DatasetInfo, Item, Masks, Region
from vitscope.datasets.registry import register_dataset
from vitscope.errors import DatasetError
from vitscope.parse import parse_json


@register_dataset
@dataclass(frozen=True)
class COCO:
    """COCO instances; crowds are no objects, their pixels are ignored.

    Attributes:
        split: of the file and the folder.
        classes_per_image: keeps the pictures with objects of so many classes.
        classes: the model's outputs of the classes (`ClassMap.of`).
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="coco",
        title="COCO instances",
        source="Lin et al., ECCV 2014, arXiv 1405.0312; cocodataset.org",
        truth=("labels", "boxes", "masks", "instances"),
        terms="CC BY 4.0 for the annotations; Flickr's terms for the pictures",
        layout="a folder with annotations/instances_SPLIT.json and SPLIT/*.jpg (or images/SPLIT/*.jpg)",
        corners="x y width height, edges from the picture's corner",
        extra="coco",
    )

    split: str = "val2017"
    classes_per_image: int | None = None
    classes: str | None = None

    def open(self, root: Path) -> Dataset:
        """The pictures of the split.

        Raises:
            DatasetError: pycocotools is missing, another layout, or a file that cannot be read.
        """
        need("pycocotools.mask", "coco", "coco")
        file = inside(root, f"annotations/instances_{self.split}.json", root)
        if not file.is_file():
            raise DatasetError(f"{root} has no {file.relative_to(root)}; expected {self.info.layout}")
        places = (root / self.split, root / "images" / self.split)
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise DatasetError(f"{root} has no {self.split} with the pictures; expected {self.info.layout}")
        index = _Index.read(file)
        objects = _Objects(folder, self.split, index, ClassMap.of(index.names, self.classes))
        ids = tuple(index.images)
        if self.classes_per_image is not None:
            ids = tuple(key for key in ids if len(index.categories(key)) == self.classes_per_image)
            if not ids:
                raise DatasetError(f"{file}: no picture has {self.classes_per_image} classes; ask for fewer")
        return Dataset(self.info, index.names, ids, objects.read)


@dataclass(frozen=True)
class _Index:
    """The file, by picture.

    Attributes:
        images: id -> its record.
        annotations: id -> the records of its objects.
        places: category id -> place among the names.
    """

    file: Path
    images: dict[str, dict[str, Any]]
    annotations: dict[str, list[dict[str, Any]]]
    names: tuple[str, ...]
    places: dict[int, int]

    @classmethod
    def read(cls, file: Path) -> _Index:
        """Read the file's outer form; an object's own fields are only understood when its picture is asked for."""
        try:
            content = parse_json(read_text(file))
            images = {str(image["id"]): dict(image) for image in content["images"]}
            kinds = sorted((int(kind["id"]), str(kind["name"])) for kind in content["categories"])
            annotations: dict[str, list[dict[str, Any]]] = {}
            for found in content["annotations"]:
                annotations.setdefault(str(found["image_id"]), []).append(dict(found))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise DatasetError(f"{file}: is no whole file of COCO instances ({reason}); download it again") from error
        places = {key: place for place, (key, _) in enumerate(kinds)}
        return cls(file, images, annotations, tuple(name for _, name in kinds), places)

    def categories(self, key: str) -> set[str]:
        """The classes of a picture's objects, crowds left out, by the file's own ids."""
        return {str(found.get("category_id")) for found in self.annotations.get(key, ()) if not found.get("iscrowd")}


@dataclass(frozen=True)
class _Objects:
    folder: Path
    split: str
    index: _Index
    outputs: ClassMap

    def read(self, key: str) -> Item:
        image, file = self.index.images[key], self.index.file
        path = inside(self.folder, str(image.get("file_name", "")), file)
        found = self.index.annotations.get(key, [])
        boxes = tuple(self._box(one, key) for one in found)
        things = {box.category for box in boxes if not box.aside and box.category is not None}
        categories = tuple(sorted(things))
        masks = _Outlines(f"{file}, picture {key}", tuple(found), boxes)
        labels = self.outputs.labels(categories)
        return Item(key, self.split, path, categories, labels, boxes, PictureFile(path), masks, file)

    def _box(self, one: dict[str, Any], key: str) -> Box:
        where = f"{self.index.file}, object {one.get('id')} of picture {key}"
        corners = one.get("bbox")
        kind = one.get("category_id")
        if (
            not isinstance(corners, list)
            or len(corners) != 4
            or not isinstance(kind, int)
            or kind not in self.index.places
        ):
            raise DatasetError(f"{where}: has no bbox of four numbers, or no known category; mend it")
        x, y, width, height = numbers([str(value) for value in corners], where)
        if width < 0 or height < 0:
            raise DatasetError(f"{where}: its bbox has a negative size; mend it")
        category = self.index.places[kind]
        edges = (x, y, x + width, y + height)
        label = self.outputs.label(category)
        return Box(edges, (x, y, width, height), category, label, aside=bool(one.get("iscrowd")))


@dataclass(frozen=True)
class _Outlines:
    """Polygons and run lengths, painted when asked for by pycocotools."""

    where: str
    objects: tuple[dict[str, Any], ...]
    boxes: tuple[Box, ...]

    def __call__(self, size: tuple[int, int]) -> Masks:
        regions, ignore = [], np.zeros(size, dtype=bool)
        for one, box in zip(self.objects, self.boxes, strict=True):
            mask = _painted(one.get("segmentation"), size, f"{self.where}, object {one.get('id')}")
            if box.aside:
                ignore |= mask
            else:
                regions.append(Region(mask, box.category, box.label))
        return Masks(tuple(regions), ignore)


def _painted(outline: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The mask of one object.

    Raises:
        DatasetError: an outline that is neither polygons nor run lengths of a picture of `size`.
    """
    coder = need("pycocotools.mask", "coco", "coco")
    height, width = size
    try:
        if isinstance(outline, list):
            polygons = [[float(value) for value in polygon] for polygon in outline]
            if not polygons or any(len(one) < 6 or len(one) % 2 or not np.isfinite(one).all() for one in polygons):
                raise ValueError("polygons take three points or more")
            if max(abs(value) for polygon in polygons for value in polygon) > 2 * max(size):
                raise ValueError("polygons that reach far out of the picture")
            return np.asarray(coder.decode(coder.merge(coder.frPyObjects(polygons, height, width))), dtype=bool)
        return _from_runs(coder, outline, size)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{where}: its outline cannot be painted ({reason}); mend it") from error


def _from_runs(coder: Any, outline: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of run lengths; ValueError where they are of another picture's size.

    The coder leaves memory unset where compressed runs end too early, so the mask is coded again for comparison.
    """
    if tuple(outline["size"]) != size:
        raise ValueError(f"run lengths of {tuple(outline['size'])} for a picture of {size}")
    counts = outline["counts"]
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != size[0] * size[1]:
            raise ValueError("run lengths that do not fill the picture")
        runs = coder.frPyObjects({"size": list(size), "counts": counts}, *size)
        return np.asarray(coder.decode(runs), dtype=bool)
    packed = counts.encode() if isinstance(counts, str) else counts
    mask = coder.decode({"size": list(size), "counts": packed})
    if coder.encode(np.asfortranarray(mask))["counts"] != packed:
        raise ValueError("run lengths that do not fill the picture")
    return np.asarray(mask, dtype=bool)
