"""What a data set knows of a picture, on the pixels of the model's input, for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitscope.datasets import BACKGROUND, OBJECT, Dataset, Opened, mask_to_input
from vitscope.errors import DatasetError, ImageError, text_of
from vitscope.images import Geometry
from vitscope.metrics import Truth, boxes_on_input, painted

OF_MASKS = ("mask", "two masks")
"""The kinds of truth for which masks are read."""

LOOKED_AT = 50
"""Pictures whose annotations tell what a data set knows."""


def kinds_of_truth(dataset: Dataset) -> tuple[str, ...]:
    """What the metrics can be told: "mask", "boxes", "two masks", "label".

    By the first pictures' annotations, since one layout of a data set may lack what another has. No picture is read.

    Raises:
        DatasetError: none of them can be read.
    """
    found: set[str] = set()
    failed: list[DatasetError] = []
    for name in islice(dataset.ids, LOOKED_AT):
        try:
            item = dataset.read(name)
        except DatasetError as error:
            failed.append(error)
            continue
        if item.labels:
            found.add("label")
            if len(item.labels) == 2 and item.load_masks is not None:
                found.add("two masks")
        if item.boxes:
            found |= {"boxes", "mask"}
        if item.load_masks is not None:
            found.add("mask")
    if len(failed) == min(len(dataset), LOOKED_AT):
        raise failed[0]
    return tuple(kind for kind in ("mask", "boxes", "two masks", "label") if kind in found)


@dataclass(frozen=True)
class Known:
    """What is known of one picture on the input's pixels (H W); None where the data set does not know it.

    Attributes:
        mask: of the explained class where some of it is there, else of all things.
        boxes: (k 4), both ends included.
        first, second: of the two classes of a picture of two.
        ignored: pixels that are not counted.
        why_no_masks: why its masks cannot be read, or None.
    """

    mask: Tensor | None = None
    boxes: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None
    ignored: Tensor | None = None
    why_no_masks: str | None = None


def known_of(opened: Opened, geometry: Geometry, explained: int) -> Known:
    """Of one picture, whose map explains this class.

    Boxes are passed on as indices of pixels, both ends included. Those that the data set's own evaluation leaves aside
    are left out where others remain. Where there are no masks, the boxes are painted.
    """
    size = round(geometry.crop[2]), round(geometry.crop[3])
    boxes = None
    if opened.boxes:
        counted = [box for box in opened.boxes if not box.aside] or list(opened.boxes)
        counted = [box for box in counted if box.label == explained] or counted
        edges = torch.tensor([box.edges for box in counted], dtype=torch.float64)
        boxes = boxes_on_input(edges - torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), geometry)
    try:
        masks = opened.masks
    except (ImageError, DatasetError) as error:
        return Known(boxes=boxes, why_no_masks=text_of(error))
    if masks is None:
        return Known(None if boxes is None else painted(boxes, size), boxes)
    mine = explained if any(region.label == explained for region in masks.regions) else None
    labels = opened.item.labels or ()
    first, second = (
        (_carried(masks.values(label=label) == OBJECT, geometry) for label in labels)
        if len(labels) == 2
        else (None, None)
    )
    mask = _carried(masks.values(label=mine) == OBJECT, geometry)
    return Known(mask, boxes, first, second, _carried(masks.ignore, geometry))


@dataclass(frozen=True)
class BatchTruth:
    """A batch's truth.

    Attributes:
        one: for metrics of one thing.
        two: for metrics of two things; its masks are the first one's.
        there: kind of truth -> of which pictures it is known, (b) bool. What is not known of a picture, or is nothing
            on the input, is filled in by the whole frame; what is computed of that is to be thrown away.
        why_no_masks: a picture each, why its masks cannot be read, or None.
    """

    one: Truth
    two: Truth
    there: Mapping[str, Tensor]
    why_no_masks: Sequence[str | None]

    def why_not(self, kind: str, image: int) -> str | None:
        """Why a picture's truth of this kind cannot be read; None where it can, or is not known at all."""
        return self.why_no_masks[image] if kind in OF_MASKS else None

    def of(self, kind: str) -> Truth:
        """For metrics that need this kind."""
        return self.two if kind == "two masks" else self.one


def joined(known: Sequence[Known], labels: Sequence[int | None], size: tuple[int, int]) -> BatchTruth:
    """The truth of a batch of pictures with these true classes, on an input of this size."""
    frame = torch.ones(size, dtype=torch.bool)
    whole = torch.tensor([[0, 0, size[1] - 1, size[0] - 1]])

    def of(masks: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        there = [mask is not None and bool(mask.any()) for mask in masks]
        filled = [mask if mask is not None and ok else frame for mask, ok in zip(masks, there, strict=True)]
        return torch.stack(filled), torch.tensor(there)

    masks, has_mask = of([one.mask for one in known])
    first, has_first = of([one.first for one in known])
    second, has_second = of([one.second for one in known])
    boxes = [whole if one.boxes is None or not len(one.boxes) else one.boxes for one in known]
    truth = Truth(
        masks=masks,
        boxes=boxes,
        labels=torch.tensor([0 if label is None else label for label in labels]),
        ignored=torch.stack([~frame if one.ignored is None else one.ignored for one in known]),
    )
    there = {
        "none": torch.ones(len(known), dtype=torch.bool),
        "mask": has_mask,
        "boxes": torch.tensor([one.boxes is not None and len(one.boxes) > 0 for one in known]),
        "two masks": has_first & has_second,
        "label": torch.tensor([label is not None for label in labels]),
    }
    unread = [one.why_no_masks for one in known]
    return BatchTruth(truth, replace(truth, masks=first, others=second), there, unread)


def _carried(mask: NDArray[np.bool_], geometry: Geometry) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask_to_input(mask, geometry, BACKGROUND).astype(bool)))
