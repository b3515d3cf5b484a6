"""From scans and readings to what a model sees: nodules, their masks, and three slices of 32 mm through each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from examples.lung_nodules.annotations import CHARACTERISTICS, Contour, Reading
from examples.lung_nodules.scans import Scan
from vitscope.errors import DatasetError

WINDOW = (-1000.0, 400.0)
"""The attenuation in HU that becomes black and white; what lies beyond is clipped (the paper's window)."""

SIDE = 32
"""Of a view, in mm and in voxels of 1 mm."""

ROOM = 8
"""What a crop keeps around its views, in mm: so far the nodule may lie off a view's middle."""

VIEWS = ("axial", "coronal", "sagittal")
"""The slices through a crop's middle across z, y and x."""

AGREED = 2
"""A voxel belongs to a nodule where so many readers outline it; a nodule needs as many readings."""

CALCIUM = 200.0
"""Inside of a nodule, what is brighter than this many HU is taken for calcium."""


@dataclass(frozen=True, eq=False)
class Nodule:
    """A nodule on which readers agree, cut out of its scan.

    Attributes:
        id: patient and number, unique.
        patient: whose it is; splits are made by it.
        ratings: characteristic -> mean over the readers, and "calcified": the share of readers who saw calcium.
        readers: how many.
        diameter: of the ball of the mask's volume, in mm.
        crop: attenuation in HU, float32 z y x, a cube of `SIDE` mm with `ROOM` around it, 1 mm, the mask's middle in
            the middle.
        mask: of the same shape, bool, where `AGREED` readers outline it.
    """

    id: str
    patient: str
    ratings: Mapping[str, float]
    readers: int
    diameter: float
    crop: NDArray[np.float32]
    mask: NDArray[np.bool_]

    @property
    def malignant(self) -> bool | None:
        """By the readers' mean: above 3 or below; None at 3, which the paper leaves out."""
        mean = self.ratings["malignancy"]
        return None if mean == 3 else mean > 3


@dataclass(frozen=True, eq=False)
class View:
    """One slice through a nodule.

    Attributes:
        nodule: what it is of.
        name: "axial", "coronal" or "sagittal".
        picture: (SIDE SIDE 3) uint8: the windowed slice, repeated to three channels.
        mask: (SIDE SIDE) bool.
        calcium: (SIDE SIDE) bool, what of the mask is brighter than `CALCIUM`.
    """

    nodule: Nodule
    name: str
    picture: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    calcium: NDArray[np.bool_]


def nodules_of(scan: Scan, readings: Sequence[Reading]) -> tuple[list[Nodule], list[str]]:
    """The nodules of a scan that at least `AGREED` readers outlined, and why others are left out, a line each.

    Readings are of one nodule where their outlines share a voxel, directly or by way of a third one. A nodule of which
    one reader has two outlines is left out, since it is not clear which of them the others mean.

    Raises:
        DatasetError: an outline lies in a slice that the scan does not have, or outside of the picture.
    """
    masks = [painted(scan, reading.contours) for reading in readings]
    nodules, left_out = [], []
    for number, group in enumerate(_groups(masks)):
        name = f"{scan.patient}-{number + 1}"
        readers = [readings[index].reader for index in group]
        if len(set(readers)) < len(readers):
            left_out.append(f"{name}: a reader outlined it in two parts")
        elif len(readers) < AGREED:
            left_out.append(f"{name}: {len(readers)} reader of the {AGREED} that are asked for")
        else:
            votes = _votes([masks[index] for index in group])
            ratings = [readings[index].ratings for index in group]
            nodule = _cut(scan, name, votes, ratings)
            if nodule is None:
                left_out.append(f"{name}: its readers' outlines share too little")
            else:
                nodules.append(nodule)
    return nodules, left_out


def views_of(nodule: Nodule) -> list[View]:
    """The three slices through the middle of a nodule's crop."""
    return [view_of(nodule, name) for name in VIEWS]


def view_of(nodule: Nodule, name: str, down: int = 0, right: int = 0) -> View:
    """One slice through the middle of a nodule.

    Args:
        nodule: it.
        name: which slice, one of `VIEWS`.
        down, right: where the nodule's middle lies, from the view's middle in mm, at most `ROOM` either way.
    """
    axis = VIEWS.index(name)
    # Rows from head to feet in slices along the patient, as they are read.
    place: list[slice | int] = [slice(None, None, -1) if axis else slice(None), slice(None), slice(None)]
    place[axis] = nodule.crop.shape[axis] // 2
    whole, outlined = nodule.crop[tuple(place)], nodule.mask[tuple(place)]
    rows, columns = (
        slice(start, start + SIDE)
        for start in ((size - SIDE) // 2 - move for size, move in zip(whole.shape, (down, right), strict=True))
    )
    hu, mask = whole[rows, columns], outlined[rows, columns]
    grey = windowed(hu)
    return View(nodule, name, np.repeat(grey[..., None], 3, axis=2), mask.copy(), mask & (hu > CALCIUM))


def windowed(hu: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Attenuation as grey levels, `WINDOW` from 0 to 255."""
    low, high = WINDOW
    return np.round((np.clip(hu, low, high) - low) / (high - low) * 255).astype(np.uint8)


Patch = tuple[tuple[int, int, int], NDArray[np.bool_]]
"""The voxel where a part of a volume begins, and a mask of that part."""


def painted(scan: Scan, contours: Sequence[Contour]) -> Patch:
    """What a reader's outlines enclose: where it begins in the volume (z y x), and a mask of that part.

    An outline runs over the first pixels outside, so it does not belong to what it encloses. Several outlines in a
    slice are joined; what an excluding one encloses is taken out.

    Raises:
        DatasetError: a slice that the scan does not have, or a point outside of the picture.
    """
    rows, columns = scan.volume.shape[1:]
    by_slice: dict[int, list[Contour]] = {}
    for contour in contours:
        if contour.slice not in scan.slices:
            raise DatasetError(f"{scan.folder}: an outline is on image {contour.slice}, which is not in the series")
        if any(not (0 <= x < columns and 0 <= y < rows) for x, y in contour.points):
            raise DatasetError(f"{scan.folder}: an outline leaves its picture of {columns} x {rows} pixels")
        by_slice.setdefault(scan.slices[contour.slice], []).append(contour)
    points = np.array([point for contour in contours for point in contour.points])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    first, last = min(by_slice), max(by_slice)
    mask = np.zeros((last - first + 1, bottom - top + 1, right - left + 1), dtype=bool)
    for index, outlines in by_slice.items():
        for outline in sorted(outlines, key=lambda one: not one.inclusion):
            inside = _enclosed([(x - left, y - top) for x, y in outline.points], mask.shape[1:])
            mask[index - first] = mask[index - first] | inside if outline.inclusion else mask[index - first] & ~inside
    return (first, int(top), int(left)), mask


def _enclosed(points: list[tuple[int, int]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    picture = Image.new("1", (shape[1], shape[0]))
    draw = ImageDraw.Draw(picture)
    draw.polygon(points, fill=1)
    draw.line([*points, points[0]], fill=0)
    return np.array(picture, dtype=bool)


def _groups(masks: Sequence[Patch]) -> list[list[int]]:
    """Which masks belong together: chains of those that share a voxel, in the order of their first one."""
    group = list(range(len(masks)))
    for one in range(len(masks)):
        for other in range(one):
            if group[one] != group[other] and _share(masks[one], masks[other]):
                joined = {group[one], group[other]}
                group = [min(joined) if name in joined else name for name in group]
    return [[index for index, name in enumerate(group) if name == first] for first in dict.fromkeys(group)]


def _share(one: Patch, other: Patch) -> bool:
    low = np.maximum(one[0], other[0])
    high = np.minimum(np.add(one[0], one[1].shape), np.add(other[0], other[1].shape))
    if (high <= low).any():
        return False
    parts = [mask[tuple(slice(a, b) for a, b in zip(low - at, high - at, strict=True))] for at, mask in (one, other)]
    return bool((parts[0] & parts[1]).any())


def _votes(masks: Sequence[Patch]) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """How many masks have a voxel: where that part begins, and the counts, with a free voxel all around."""
    low = np.min([at for at, _ in masks], axis=0) - 1
    high = np.max([np.add(at, mask.shape) for at, mask in masks], axis=0) + 1
    votes = np.zeros(high - low, dtype=np.int8)
    for at, mask in masks:
        votes[tuple(slice(a, a + n) for a, n in zip(at - low, mask.shape, strict=True))] += mask
    return low, votes


def _cut(
    scan: Scan,
    name: str,
    votes: tuple[NDArray[np.int64], NDArray[np.int8]],
    ratings: Sequence[Mapping[str, int]],
) -> Nodule | None:
    """The crop around what `AGREED` readers outline; None where they share fewer than two voxels.

    Slices are interpolated linearly at 1 mm, at the positions that the files give; beyond the scan is air.
    """
    low, count = votes
    agreed = count >= AGREED
    if agreed.sum() < 2:
        return None
    within = np.argwhere(agreed)
    middle = (within.min(axis=0) + within.max(axis=0)) / 2 + low
    steps = np.arange(SIDE + 2 * ROOM) - SIDE // 2 - ROOM
    index = np.arange(len(scan.z))
    step = float(np.median(np.diff(scan.z)))
    z = np.interp(middle[0], index, scan.z) + steps
    # Where a millimetre grid lies among the slices, running on evenly beyond the first and the last.
    along = np.interp(z, scan.z, index) + np.minimum(z - scan.z[0], 0) / step + np.maximum(z - scan.z[-1], 0) / step
    ticks = [along, middle[1] + steps / scan.spacing[0], middle[2] + steps / scan.spacing[1]]
    grid = np.stack(np.meshgrid(*ticks, indexing="ij"))
    crop = ndimage.map_coordinates(scan.volume, grid, order=1, mode="constant", cval=WINDOW[0], output=np.float32)
    local = grid - low[:, None, None, None]
    mask = ndimage.map_coordinates(agreed.astype(np.float32), local, order=1, mode="constant", cval=0.0) >= 0.5
    volume = float(agreed.sum()) * step * scan.spacing[0] * scan.spacing[1]
    means = {key: float(np.mean([one[key] for one in ratings])) for key in CHARACTERISTICS}
    means["calcified"] = float(np.mean([one["calcification"] != 6 for one in ratings]))
    return Nodule(
        id=name,
        patient=scan.patient,
        ratings=means,
        readers=len(ratings),
        diameter=(6 * volume / np.pi) ** (1 / 3),
        crop=scan.upright(crop),
        mask=scan.upright(mask),
    )
