"""Masks on the input's pixels, against resizing and cutting by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitscope.datasets import IGNORE, mask_to_input, open_dataset
from vitscope.errors import DatasetError
from vitscope.images import Geometry, Preprocessing, load_image

MODES = st.sampled_from(["center", "squash", "border"])
SIDES = st.integers(8, 40)


def geometry_of(height, width, size, mode, crop_pct, start="even") -> Geometry:
    preprocessing = Preprocessing.of_fields(
        size=size, interpolation="bilinear", crop_pct=crop_pct, crop_mode=mode, mean=(0.5,) * 3, std=(0.5,) * 3,
        crop_start=start,
    )  # fmt: skip
    _, geometry = preprocessing(Image.new("RGB", (width, height)))
    return geometry


def source_pixels(original: int, resized: int, start: int, length: int) -> list[int | None]:
    """Which pixel of the original each of the input's shows, in exact arithmetic; None beyond the picture."""
    found: list[int | None] = []
    for i in range(length):
        at = Fraction(2 * (i + start) + 1, 2) * Fraction(original, resized)
        found.append(at.numerator // at.denominator if 0 <= i + start < resized else None)
    return found


def by_hand(mask: np.ndarray, geometry: Geometry, outside: int) -> np.ndarray:
    top, left, height, width = geometry.crop
    rows = source_pixels(geometry.original[0], geometry.resized[0], top, height)
    cols = source_pixels(geometry.original[1], geometry.resized[1], left, width)
    return np.array([[outside if r is None or c is None else mask[r, c] for c in cols] for r in rows], dtype=mask.dtype)


def test_a_mask_goes_where_the_preprocessing_puts_the_picture():
    @given(SIDES, SIDES, SIDES, SIDES, MODES, st.sampled_from([0.6, 0.875, 1.0]), st.integers(0, 2**32))
    @settings(deadline=None, max_examples=80)
    def check(height, width, rows, cols, mode, crop_pct, seed):
        geometry = geometry_of(height, width, (rows, cols), mode, crop_pct)
        mask = np.random.default_rng(seed).integers(0, 3, (height, width), dtype=np.uint8)
        carried = mask_to_input(mask, geometry, outside=IGNORE)
        expected = by_hand(mask, geometry, IGNORE)
        assert carried.shape == (rows, cols)
        # On a tie, a centre that falls on the rim between two of the original's pixels, either may be shown.
        tie_rows = ties(geometry.original[0], geometry.resized[0], geometry.crop[0], rows)
        tie_cols = ties(geometry.original[1], geometry.resized[1], geometry.crop[1], cols)
        clear = ~(tie_rows[:, None] | tie_cols[None, :])
        assert np.array_equal(carried[clear], expected[clear])

    check()


def ties(original: int, resized: int, start: int, length: int) -> np.ndarray:
    centres = [Fraction(2 * (i + start) + 1, 2) * Fraction(original, resized) for i in range(length)]
    return np.array([centre.denominator == 1 for centre in centres])


def test_other_shapes_are_refused():
    geometry = Geometry.identity(4, 6)
    with pytest.raises(DatasetError, match=r"\(4, 6\)"):
        mask_to_input(np.zeros((6, 4), dtype=bool), geometry)
    with pytest.raises(DatasetError, match="float64"):
        mask_to_input(np.zeros((4, 6)), geometry)


def test_a_real_picture_and_its_mask_move_together(shared):
    """The mask, drawn into the picture, is found where the carried mask says."""
    for item in open_dataset("pets", shared / "pets", limit=4, seed=int(np.random.default_rng().integers(1000))):
        opened = item.open()
        mask = opened.masks.regions[0].mask
        drawn = Image.fromarray(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255)
        preprocessing = Preprocessing.of_fields(
            size=96, interpolation="nearest", crop_pct=0.9, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3
        )
        pixels, geometry = preprocessing(load_image(drawn))
        assert np.array_equal(pixels[0].numpy() > 0, mask_to_input(mask, geometry))
