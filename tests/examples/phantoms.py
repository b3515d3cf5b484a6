"""Small phantoms on disk for the tests of the lung example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from examples.lung_nodules.phantom import Nodule, Scan
from examples.lung_nodules.tree import write_scan

BALL = Nodule((20.0, 24.0, 24.0), 14.0, 0.0, 0.0, 1.0, 1.0, False, 1)


def ball_scan(*nodules: Nodule, spacing=(2.0, 0.8, 0.8), seed: int = 5) -> Scan:
    """A slab of 40 x 48 x 48 mm with these nodules, or one ball in its middle."""
    shape = tuple(int(side / step) for side, step in zip((40, 48, 48), spacing, strict=True))
    return Scan(shape, spacing, nodules or (BALL,), seed)


def written(root: Path, *nodules: Nodule, number: int = 1, **options) -> Path:
    """The folder of a written series."""
    return write_scan(root, number, ball_scan(*nodules, **options))


def change(folder: Path, every: bool = True, **tags) -> None:
    """Set tags of a series' slices (None removes one), of all or of the first by name."""
    files = sorted(folder.glob("*.dcm"))
    for file in files if every else files[:1]:
        slice_ = pydicom.dcmread(file)
        for name, value in tags.items():
            if value is None:
                delattr(slice_, name)
            else:
                setattr(slice_, name, value)
        slice_.save_as(file)


def by_position(folder: Path) -> list[Path]:
    """The slices' files from the lowest z to the highest."""
    files = sorted(folder.glob("*.dcm"))
    z = [pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient[2] for file in files]
    return [files[index] for index in np.argsort(z)]
