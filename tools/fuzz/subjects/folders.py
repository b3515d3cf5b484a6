"""Tiny data sets in the layouts of the published ones, of which one file at a time is broken."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tests.datasets import layouts
from tools.fuzz.judge import Case

from vitscope.datasets import mask_to_input, open_dataset
from vitscope.images import Geometry
from vitscope.metrics import boxes_on_input

SOURCES = {
    "imagenet_csv": "imagenet",
    "voc": "voc:instances=true",
    "voc_single": "voc:task=detection,classes_per_image=2",
    "cub": "cub:split=all,classes=own",
    "imagenet_s": "imagenet-s",
    "gtsegs": "imagenet-segmentation",
    "pets": "pets",
    "coco": "coco",
    "masks": "masks:ignore=128",
}
"""Folder -> how it is opened."""


class Folders:
    """All of them below one folder."""

    def __init__(self, folder: Path) -> None:
        """Written where they are not there; the same every time."""
        self.folder = folder
        if not (folder / "done").exists():
            _write(folder)
            (folder / "done").write_text("")

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Name below the folder -> content."""
        kept = [file for file in sorted(self.folder.rglob("*")) if file.is_file() and file.name != "done"]
        return {file.relative_to(self.folder).as_posix(): file.read_bytes() for file in kept}

    def call(self, case: Case) -> None:
        """Open the case's data set with its files in place, and read every item whole."""
        try:
            for name, content in case.files.items():
                (self.folder / name).write_bytes(content)
            read_all(self.folder, case.kind)
        finally:
            for name in case.files:
                (self.folder / name).write_bytes(self.files[name])


def read_all(folder: Path, kind: str) -> None:
    """Every picture, box and mask of a data set, and what a benchmark makes of them; the first refusal ends it."""
    source = SOURCES[kind]
    root = folder / kind.removesuffix("_single")
    if kind == "imagenet_s":
        source += f":categories={root / 'categories.txt'}"
    dataset = open_dataset(source, root / "gtsegs_ijcv.mat" if kind == "gtsegs" else root)
    for item in dataset:
        opened = item.open()
        width, height = opened.picture.size
        geometry = Geometry((height, width), (32, 48), (0, 8, 32, 32))
        for box in opened.boxes or ():
            assert 0 <= box.edges[0] < box.edges[2] <= width
            boxes_on_input(torch.tensor([box.edges]), geometry)
        if opened.masks is not None:
            values = opened.masks.values()
            assert values.shape == (height, width)
            assert mask_to_input(values, geometry).shape == (32, 32)


def _write(folder: Path) -> None:
    before, layouts.RNG = layouts.RNG, np.random.default_rng(0)
    try:
        for name in ("imagenet_csv", "voc", "cub", "imagenet_s", "pets", "coco", "masks"):
            getattr(layouts, name)(folder / name)
        (folder / "gtsegs").mkdir(parents=True, exist_ok=True)
        layouts.gtsegs(folder / "gtsegs" / "gtsegs_ijcv.mat")
    finally:
        layouts.RNG = before
