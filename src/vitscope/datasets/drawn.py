"""The package's own scenes, read as any other data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from vitscope.datasets.record import Box, Dataset, DatasetInfo, Item, Masks, Region
from vitscope.datasets.registry import register_dataset
from vitscope.datasets.scenes import CLASSES, Scene, SceneKind, Scenes
from vitscope.errors import DatasetError


@register_dataset
@dataclass(frozen=True)
class DrawnScenes:
    """Drawn scenes, whose truth is exact; the bundled models know their classes.

    Attributes:
        count: how many.
        kind: "one" thing, "several" of one class, "two" of two classes, or "none".
        drawing: the seed of the drawing.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="scenes",
        title="Drawn scenes",
        source="vitscope.datasets.Scenes",
        truth=("labels", "boxes", "masks", "instances"),
        terms="Apache-2.0, as the package",
        layout="no folder: they are drawn",
        corners="x1 y1 x2 y2, edges from the picture's corner",
        needs_root=False,
    )

    count: int = 500
    kind: SceneKind = "one"
    drawing: int = 0

    def open(self, root: Path) -> Dataset:
        """Draws nothing yet; `root` is not looked at.

        Raises:
            DatasetError: a count or a seed below zero.
        """
        if self.count < 1 or self.drawing < 0:
            raise DatasetError(
                f"count={self.count}, drawing={self.drawing}: give a count of 1 or more, and 0 or more for drawing"
            )
        scenes = _Drawn(Scenes(self.count, self.kind, seed=self.drawing))
        return Dataset(self.info, CLASSES, tuple(str(index) for index in range(self.count)), scenes.read)


@dataclass(frozen=True)
class _Drawn:
    scenes: Scenes

    def read(self, key: str) -> Item:
        scene = self.scenes[int(key)]
        boxes = []
        for thing in scene.instances:
            x1, y1, x2, y2 = map(float, thing.box)
            boxes.append(Box((x1, y1, x2, y2), (x1, y1, x2, y2), thing.label, thing.label))
        held = _Held(scene)
        return Item(key, "drawn", None, scene.labels, scene.labels, tuple(boxes), held.picture, held.masks)


@dataclass(frozen=True)
class _Held:
    scene: Scene

    def picture(self) -> Image.Image:
        return Image.fromarray(self.scene.image)

    def masks(self, size: tuple[int, int]) -> Masks:
        regions = tuple(Region(thing.mask, thing.label, thing.label) for thing in self.scene.instances)
        return Masks(regions, np.zeros(size, dtype=bool))
