"""Masks with faults in their bytes, and whole ones of other modes, sizes and values."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from tools.fuzz.judge import Case
from tools.fuzz.mutate import some_bytes, with_png_sums
from tools.fuzz.subjects.folders import Folders

PLACES = {
    "voc": ("SegmentationClass", "SegmentationObject"),
    "cub": ("segmentations",),
    "imagenet_s": ("validation-segmentation",),
    "pets": ("trimaps",),
    "masks": ("masks/masks",),
}
"""Data set -> where its masks are."""


class Masks:
    """The masks of every data set that has them as files."""

    def prepare(self, folder: Path) -> None:
        """The data sets."""
        self._sets = Folders(folder)

    def case(self, chance: Random) -> Case:
        """A mask with faults, or another picture in its place."""
        kind = chance.choice(sorted(PLACES))
        of_set = [name for name in self._sets.files if name.startswith(f"{kind}/") and name.endswith(".png")]
        name = chance.choice([name for name in of_set if any(place in name for place in PLACES[kind])])
        valid = self._sets.files[name]
        if chance.random() < 0.4:
            return Case(kind, {name: other_mask(valid, chance)})
        others = [self._sets.files[other] for other in of_set]
        content = some_bytes(valid, chance, others)
        return Case(kind, {name: with_png_sums(content) if chance.random() < 0.7 else content})

    def call(self, case: Case) -> None:
        """Read the data set."""
        self._sets.call(case)


def other_mask(valid: bytes, chance: Random) -> bytes:
    """A whole picture of another mode, size, format, or of values that no class has."""
    image = Image.open(io.BytesIO(valid))
    mode = chance.choice(("1", "L", "P", "LA", "RGB", "RGBA", "I;16", "I", "CMYK", "F"))
    size = image.size if chance.random() < 0.7 else chance.choice(((1, 1), image.size[::-1], (31, 20), (30, 2000)))
    values = np.random.default_rng(chance.randrange(2**32)).integers(0, chance.choice((2, 22, 256)), size[::-1])
    if chance.random() < 0.3:
        values = np.full_like(values, chance.choice((0, 1, 21, 128, 255)))
    made = Image.fromarray(values.astype(np.uint8))
    if mode == "I;16":
        made = Image.fromarray((values * 257).astype(np.uint16))
    elif mode == "LA":
        made = Image.merge("LA", (made, made))
    elif mode == "P" and chance.random() < 0.5:
        made = made.quantize(8)
    else:
        made = made.convert(mode)
    kinds = {"CMYK": ("TIFF", "JPEG"), "F": ("TIFF",), "I": ("TIFF",)}.get(mode, ("PNG", "PNG", "TIFF"))
    out = io.BytesIO()
    made.save(out, chance.choice(kinds))
    return out.getvalue()
