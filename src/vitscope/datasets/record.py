"""What every data set is read as: items with a picture and its truth, so that a benchmark treats all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitscope.errors import DatasetError, ImageError

BACKGROUND, OBJECT, IGNORE = 0, 1, 255
"""The values of a mask's map."""

Truth = Literal["labels", "boxes", "masks", "instances"]
Edges = tuple[float, float, float, float]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is opened.

    Attributes:
        name: the name that users type.
        title: the name in full.
        source: who made it, and where.
        truth: what it can tell; "masks" are one a class, "instances" one an object.
        terms: a hint at the owners' terms; read theirs.
        layout: the folder that is expected, in words.
        corners: how its files write a box; "" where it has none.
        extra: the extra of the package that it needs, or None.
        needs_root: whether it lies in a folder.
    """

    name: str
    title: str
    source: str
    truth: tuple[Truth, ...]
    terms: str
    layout: str
    corners: str = ""
    extra: str | None = None
    needs_root: bool = True


@dataclass(frozen=True)
class Box:
    """A box on the stored pixels of the original picture.

    Attributes:
        edges: x1 y1 x2 y2 between the pixels, from the top left corner of the picture: pixel k reaches from k to k + 1,
            so right and bottom are exclusive, and x2 - x1 is the width.
        written: x1 y1 x2 y2 as the data set's file writes them (`DatasetInfo.corners`), for protocols to the letter.
        category: index in the data set's own classes, or None.
        label: index in the model's outputs, or None.
        aside: whether the data set's own evaluation leaves it out (VOC: difficult; COCO: crowd).
    """

    edges: Edges
    written: Edges
    category: int | None = None
    label: int | None = None
    aside: bool = False

    @property
    def empty(self) -> bool:
        """Whether it has no pixel, as some of COCO's crowds."""
        x1, y1, x2, y2 = self.edges
        return x2 <= x1 or y2 <= y1


@dataclass(frozen=True)
class Region:
    """The pixels (H, W) bool of one class, or of one object where the data set tells objects apart."""

    mask: NDArray[np.bool_]
    category: int | None = None
    label: int | None = None


@dataclass(frozen=True)
class Masks:
    """The regions of a picture, and the pixels (H, W) bool of which the truth says nothing."""

    regions: tuple[Region, ...]
    ignore: NDArray[np.bool_]

    def values(self, *, category: int | None = None, label: int | None = None) -> NDArray[np.uint8]:
        """The map (H, W): OBJECT, BACKGROUND or IGNORE; of one class where one is named, else of all things."""
        out = np.where(self.ignore, IGNORE, BACKGROUND).astype(np.uint8)
        for region in self.regions:
            if category in (None, region.category) and label in (None, region.label):
                out[region.mask] = OBJECT
        return out


@dataclass(frozen=True)
class Item:
    """One picture with its truth as the data set's files write it; nothing of it is decoded yet.

    Attributes:
        id: its name, unique in the data set.
        split: the part of the data set that it belongs to.
        path: the picture's file, or None where it is no file of its own.
        categories: what is in it, each once, ascending, by index in the data set's own classes.
        labels: the same by index in the model's outputs, or None where the data set does not know these.
        boxes: or None where it has none to tell.
        load: the picture, RGB, its pixels as stored.
        load_masks: the masks of a picture of (height, width), or None where there are none.
        source: the file that the truth is from, for error messages.
    """

    id: str
    split: str
    path: Path | None
    categories: tuple[int, ...]
    labels: tuple[int, ...] | None
    boxes: tuple[Box, ...] | None
    load: Callable[[], Image.Image] = field(repr=False)
    load_masks: Callable[[tuple[int, int]], Masks] | None = field(repr=False)
    source: Path | None = None

    @property
    def label(self) -> int | None:
        """The one label that it has; None where it has several, none, or unknown ones."""
        return self.labels[0] if self.labels and len(self.labels) == 1 else None

    def open(self) -> Opened:
        """Read the picture and hold the boxes against it.

        Raises:
            ImageError: the picture is missing or damaged.
            DatasetError: a box lies outside of it.
        """
        picture = self.load()
        boxes = self.boxes and tuple(
            self._within(box, picture.size) for box in self.boxes if not (box.aside and box.empty)
        )
        return Opened(self, picture, boxes)

    def _within(self, box: Box, size: tuple[int, int]) -> Box:
        """The box, cut at the picture's rim; a pixel beyond it is a matter of how corners are counted."""
        (x1, y1, x2, y2), (width, height) = box.edges, size
        cut = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if any(abs(a - b) > 1 for a, b in zip(cut, box.edges, strict=True)) or cut[2] <= cut[0] or cut[3] <= cut[1]:
            written = " ".join(f"{value:g}" for value in box.written)
            raise DatasetError(
                f"{self.source or self.id}: the box {written} of {self.id} reaches out of its picture of "
                f"{width} x {height} pixels; check that picture and annotation belong together"
            )
        return replace(box, edges=cut)


@dataclass(frozen=True)
class Opened:
    """An item with its picture read: RGB, and its boxes, cut at the picture's rim."""

    item: Item
    picture: Image.Image
    boxes: tuple[Box, ...] | None

    @cached_property
    def masks(self) -> Masks | None:
        """Read when first asked for; None where the data set has none.

        Raises:
            ImageError: a mask's file is missing or damaged.
            DatasetError: a mask is of another size than the picture, or holds what no mask of this data set holds.
        """
        if self.item.load_masks is None:
            return None
        return self.item.load_masks((self.picture.height, self.picture.width))

    def without_picture(self, needed: bool) -> Opened:
        """With a blank in the picture's place and its masks read, to be kept or sent to another process.

        Args:
            needed: whether masks that cannot be read are an error now; otherwise they are when they are asked for.

        Raises:
            ImageError, DatasetError: masks that are needed cannot be read.
        """
        load: Callable[[tuple[int, int]], Masks] | None = None
        try:
            found = self.masks
            load = None if found is None else partial(_known, found)
        except (ImageError, DatasetError) as error:
            if needed:
                raise
            load = partial(_refused, error)
        item = replace(self.item, load=partial(Image.new, "1", self.picture.size), load_masks=load)
        return Opened(item, item.load(), self.boxes)


def _known(masks: Masks, size: tuple[int, int]) -> Masks:
    return masks


def _refused(error: Exception, size: tuple[int, int]) -> Masks:
    raise error


@dataclass(frozen=True)
class Dataset:
    """A sequence of items, of which nothing is read before it is asked for.

    Attributes:
        info: what it is.
        names: of its own classes; empty where it has none.
        ids: of its items, in order.
        read: the item of an id.
        provenance: what makes it the same again, ready for JSON.
    """

    info: DatasetInfo
    names: tuple[str, ...]
    ids: tuple[str, ...]
    read: Callable[[str], Item] = field(repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int, /) -> Item:
        """One item.

        Raises:
            DatasetError: its annotation is missing or malformed; the others are not touched by that.
        """
        return self.read(self.ids[index])

    def __iter__(self) -> Iterator[Item]:
        return (self.read(name) for name in self.ids)

    def subset(self, limit: int | None = None, seed: int | None = None) -> Dataset:
        """At most `limit` items: the first ones, or with a seed a random choice, in random order.

        The order hangs on the seed and the ids alone (the SHA-256 of both), so that it is the same on every machine and
        a larger choice of the same seed begins with the smaller one.

        Raises:
            DatasetError: a limit below 1.
        """
        if limit is not None and limit < 1:
            raise DatasetError(f"limit={limit} leaves nothing; give 1 or more")
        ids = self.ids
        if seed is not None:
            ids = tuple(sorted(ids, key=lambda name: sha256(f"{seed}:{name}".encode()).digest()))
        return replace(self, ids=ids[:limit])
