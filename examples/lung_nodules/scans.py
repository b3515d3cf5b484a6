"""Reading CT: a folder of DICOM slices becomes one volume in Hounsfield units that knows where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitscope.datasets.files import need
from vitscope.errors import DatasetError

LAYOUT = "patient/study/series/*.dcm with the readers' XML beside them or elsewhere below, as TCIA lays out LIDC-IDRI"

_AXIAL = 1e-3
"""How far the cosines of an axial image may be from 0 and 1."""

_GAP = 1.5
"""A step between slices of so many times the usual one means that a slice is missing."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A CT series.

    Attributes:
        uid: its SeriesInstanceUID.
        patient: PatientID.
        folder: where it lies.
        volume: attenuation in HU, (z y x) int16 or float32, feet to head, rows and columns as stored.
        z: position of every slice in mm, ascending.
        spacing: of rows and of columns, in mm.
        turned: whether rows, and columns, run against the patient's axes; `upright` turns them.
        slices: SOPInstanceUID -> index of the slice.
    """

    uid: str
    patient: str
    folder: Path
    volume: NDArray[Any]
    z: NDArray[np.float64]
    spacing: tuple[float, float]
    turned: tuple[bool, bool]
    slices: Mapping[str, int]

    def upright(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array (z y x) with rows towards the patient's back and columns towards the left side."""
        axes = [axis for axis, turn in zip((1, 2), self.turned, strict=True) if turn]
        return np.flip(array, axes) if axes else array


def series_folders(root: Path) -> list[Path]:
    """The folders below `root` that hold DICOM slices, sorted.

    Raises:
        DatasetError: there is no such folder, or none with slices in it.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give the one that holds {LAYOUT}")
    folders = sorted({file.parent for file in root.rglob("*.dcm")})
    if not folders:
        raise DatasetError(f"{root}: no DICOM file (*.dcm) in it; expected {LAYOUT}")
    return folders


def read_scan(folder: Path) -> Scan | None:
    """Read a folder of slices; None where it holds no CT (LIDC-IDRI has chest radiographs too).

    Slices are ordered by their position in space, never by file name.

    Raises:
        DatasetError: a file is damaged, says too little (spacing, position, rescaling), the slices are not of one axial
            series, or one is missing or there twice; extra `medical` is missing.
    """
    files = sorted(folder.glob("*.dcm"))
    first = _read(files[0])
    if str(first.get("Modality", "")) != "CT":
        return None
    found = [first, *(_read(file) for file in files[1:])]
    slices = [_slice(one, file) for one, file in zip(found, files, strict=True)]
    uids = {str(_need(one, "SeriesInstanceUID", file)) for one, file in zip(found, files, strict=True)}
    if len(uids) > 1:
        raise DatasetError(f"{folder}: slices of {len(uids)} series in one folder; give each series its own")
    slices.sort(key=lambda one: one.z)
    z = np.array([one.z for one in slices])
    _evenly(z, folder)
    head = slices[0]
    for one in slices:
        if (one.pixels.shape, one.spacing, one.turned) != (head.pixels.shape, head.spacing, head.turned):
            raise DatasetError(f"{one.file}: of another size, spacing or orientation than {head.file.name}; one series")
    return Scan(
        uid=uids.pop(),
        patient=str(_need(first, "PatientID", files[0])),
        folder=folder,
        volume=np.stack([one.pixels for one in slices]),
        z=z,
        spacing=head.spacing,
        turned=head.turned,
        slices={one.uid: index for index, one in enumerate(slices)},
    )


@dataclass(frozen=True, eq=False)
class _Slice:
    file: Path
    uid: str
    z: float
    spacing: tuple[float, float]
    turned: tuple[bool, bool]
    pixels: NDArray[np.float32]


def _read(file: Path) -> Any:
    """A whole DICOM file; pydicom's own words where it is none."""
    pydicom = need("pydicom", "medical", "CT scans")
    try:
        return pydicom.dcmread(file)
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise DatasetError(f"{file}: is no readable DICOM file ({_line(error)}); copy or download it again") from error


def _slice(found: Any, file: Path) -> _Slice:
    spacing = _numbers(found, "PixelSpacing", 2, file)
    position = _numbers(found, "ImagePositionPatient", 3, file)
    if min(spacing) <= 0:
        raise DatasetError(f"{file}: PixelSpacing {spacing} is impossible; check how the file was made")
    slope, intercept = (_numbers(found, name, 1, file)[0] for name in ("RescaleSlope", "RescaleIntercept"))
    try:
        stored = found.pixel_array
    except Exception as error:  # as above, also for a missing decoder
        raise DatasetError(f"{file}: its pixels cannot be read ({_line(error)}); copy or download it again") from error
    if stored.ndim != 2:
        raise DatasetError(f"{file}: holds pixels of shape {stored.shape}; one grey slice a file is expected")
    return _Slice(
        file=file,
        uid=str(_need(found, "SOPInstanceUID", file)),
        z=position[2],
        spacing=(spacing[0], spacing[1]),
        turned=_turned(_numbers(found, "ImageOrientationPatient", 6, file), file),
        pixels=stored.astype(np.float32) * slope + intercept,
    )


def _turned(cosines: Sequence[float], file: Path) -> tuple[bool, bool]:
    """Whether rows (y) and columns (x) run against the patient's axes; of an axial image."""
    across, down = np.array(cosines[:3]), np.array(cosines[3:])
    if np.abs(np.abs(across) - (1, 0, 0)).max() > _AXIAL or np.abs(np.abs(down) - (0, 1, 0)).max() > _AXIAL:
        raise DatasetError(
            f"{file}: ImageOrientationPatient {list(cosines)} is not axial; resample the scan to axial first"
        )
    return bool(down[1] < 0), bool(across[0] < 0)


def _evenly(z: NDArray[np.float64], folder: Path) -> None:
    if len(z) < 2:
        raise DatasetError(f"{folder}: one slice is no volume; copy or download the whole series")
    steps = np.diff(z)
    usual = float(np.median(steps))
    if steps.min() < 1e-3:
        raise DatasetError(f"{folder}: two slices at z = {z[steps.argmin()]:g} mm; keep one of them")
    if steps.max() > _GAP * usual:
        raise DatasetError(
            f"{folder}: no slice between z = {z[steps.argmax()]:g} and {z[steps.argmax() + 1]:g} mm, where the others "
            f"are {usual:g} mm apart; copy or download the whole series"
        )


def _need(found: Any, name: str, file: Path) -> Any:
    value = found.get(name)
    if value is None or value == "":
        raise DatasetError(f"{file}: has no {name}, so the scan cannot be measured; use the original DICOM files")
    return value


def _numbers(found: Any, name: str, count: int, file: Path) -> tuple[float, ...]:
    value = _need(found, name, file)
    try:
        numbers = tuple(float(each) for each in (value if count > 1 else [value]))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise DatasetError(f"{file}: {name} is {value!s}, not {count} numbers; use the original DICOM files")
    return numbers


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return words[:160] or type(error).__name__
