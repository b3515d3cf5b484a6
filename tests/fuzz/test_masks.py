"""Broken masks: carried to the input, or refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tools.fuzz.subjects.folders import SOURCES, Folders, read_all

from tests.fuzz.held import FEW, MANY, holds
from vitscope.datasets.files import read_levels
from vitscope.errors import DatasetError


@pytest.mark.parametrize("cases", [FEW, MANY])
def test_broken_masks_are_read_or_refused_in_one_line(cases, tmp_path):
    counts = holds("masks", cases, tmp_path)
    assert min(counts.values()) > cases / 10


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_the_fuzzers_data_sets_are_whole_before_they_are_broken(kind, tmp_path):
    read_all(Folders(tmp_path).folder, kind)


def test_a_mask_of_fractions_is_refused(tmp_path):
    Image.fromarray(np.full((3, 4), 0.5, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match="holds fractions, so it is no mask"):
        read_levels(tmp_path / "a.tif", (3, 4))
