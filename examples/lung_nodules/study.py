"""A folder of scans becomes pictures with labels, split by patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.lung_nodules.annotations import annotations_below, read_annotations
from examples.lung_nodules.nodules import ROOM, Nodule, View, nodules_of, view_of, views_of
from examples.lung_nodules.scans import read_scan, series_folders
from vitscope.errors import DatasetError

TESTED = 0.25
"""The share of patients that are kept for the test."""

SYNTHETIC = ("diameter", "margin", "spiculation", "lobulation", "texture", "calcified")
"""What is regressed on the phantoms: what is drawn into them and can be seen in one slice."""

PAPER = (
    "diameter",
    "subtlety",
    "internalStructure",
    "calcified",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
)
"""What is regressed on LIDC-IDRI: the paper's eight, and the diameter. LIDC's calcification is a kind (1 to 6), not a
degree, so that the share of readers who saw calcium stands in its place."""


@dataclass(frozen=True)
class Study:
    """What was read.

    Attributes:
        views: three a nodule, in order.
        patients: of the scans that were read, sorted.
        left_out: why a nodule that was outlined is not among them, a line each.
        failures: why a scan could not be read, a line each.
    """

    views: tuple[View, ...]
    patients: tuple[str, ...]
    left_out: tuple[str, ...]
    failures: tuple[str, ...]

    def split(self) -> tuple[list[View], list[View]]:
        """Views to learn from, and views to test on, no patient in both: by the hash of the patient's name."""
        found = sorted({view.nodule.patient for view in self.views})
        ordered = sorted(found, key=lambda name: sha256(name.encode()).digest())
        tested = set(ordered[: max(1, round(TESTED * len(ordered)))])
        parts: tuple[list[View], list[View]] = ([], [])
        for view in self.views:
            parts[view.nodule.patient in tested].append(view)
        return parts


def read_study(
    root: Path, limit: int | None = None, progress: Callable[[int, int], object] = lambda d, n: None
) -> Study:
    """Read all scans below `root` with their annotations; a scan that cannot be read is named, the others are read.

    Args:
        root: a tree of scans, see `scans.LAYOUT`.
        limit: at most so many series.
        progress: called with series done, and how many there are.

    Raises:
        DatasetError: there is no scan, or none that can be read.
    """
    folders = series_folders(root)[:limit]
    files, failures = annotations_below(root)
    nodules: list[Nodule] = []
    patients: set[str] = set()
    left_out: list[str] = []
    for number, folder in enumerate(folders, 1):
        try:
            scan = read_scan(folder)
            if scan is not None:
                if scan.uid not in files:
                    raise DatasetError(
                        f"{folder}: no XML below {root} annotates its series; download the annotations too"
                    )
                found, reasons = nodules_of(scan, read_annotations(files[scan.uid]))
                known = sum(nodule.patient == scan.patient for nodule in nodules)
                nodules += [_renamed(nodule, known + place) for place, nodule in enumerate(found, 1)]
                left_out += reasons
                patients.add(scan.patient)
        except DatasetError as error:
            failures.append(str(error))
        progress(number, len(folders))
    if not patients:
        reason = failures[0] if failures else f"{root}: none of its series is CT; give the folder of the scans"
        raise DatasetError(reason if len(failures) < 2 else f"{reason} (and {len(failures) - 1} more like it)")
    views = tuple(view for nodule in nodules for view in views_of(nodule))
    return Study(views, tuple(sorted(patients)), tuple(left_out), tuple(failures))


def off_middle(views: Sequence[View], seed: int = 0) -> list[View]:
    """The same slices with the nodule `ROOM` mm off the middle, in a direction that is drawn for each."""
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(views))
    return [
        view_of(view.nodule, view.name, round(ROOM * np.sin(angle)), round(ROOM * np.cos(angle)))
        for view, angle in zip(views, angles, strict=True)
    ]


def pictures(views: Sequence[View]) -> list[NDArray[np.uint8]]:
    """Their pictures, for `Explainer`."""
    return [view.picture for view in views]


def values(views: Sequence[View], biomarkers: Sequence[str]) -> NDArray[np.float32]:
    """The biomarkers of views, (n k): the readers' means; the diameter in mm."""
    rows = [[v.nodule.diameter if name == "diameter" else v.nodule.ratings[name] for name in biomarkers] for v in views]
    return np.array(rows, dtype=np.float32).reshape(len(views), len(biomarkers))


def malignant(views: Sequence[View]) -> NDArray[np.float32]:
    """1, 0, or NaN where the readers' mean is 3, (n)."""
    said = [view.nodule.malignant for view in views]
    return np.array([np.nan if one is None else float(one) for one in said], dtype=np.float32)


def _renamed(nodule: Nodule, number: int) -> Nodule:
    """A patient with several scans has its nodules counted on."""
    return replace(nodule, id=f"{nodule.patient}-{number}")
