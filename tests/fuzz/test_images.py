"""Broken pictures: read, or refused in one line."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tools.fuzz.subjects.images import CROPS, PLAIN, valid_pictures

from tests.fuzz.held import FEW, MANY, holds, line_of
from vitscope.errors import ImageError
from vitscope.images import load_image, prepare


@pytest.mark.parametrize("cases", [FEW, MANY])
def test_broken_pictures_are_read_or_refused_in_one_line(cases, tmp_path):
    counts = holds("images", cases, tmp_path)
    assert min(counts.values()) > cases / 10


@pytest.mark.parametrize("name", sorted(valid_pictures()))
def test_the_fuzzers_pictures_are_read_before_they_are_broken(name, tmp_path):
    (tmp_path / "a").write_bytes(valid_pictures()[name])
    assert prepare(tmp_path / "a", PLAIN).tensor.shape == (1, 3, 32, 32)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70_000), st.integers(1, 3), st.booleans(), st.sampled_from(sorted(CROPS)))
def test_long_and_narrow_pictures_are_prepared_or_refused(long, short, upright, crop):
    picture = Image.new("RGB", (short, long) if upright else (long, short))
    if line := line_of(lambda: prepare(picture, CROPS[crop])):
        assert line.endswith("too long and narrow to be resized; cut it first")
        assert crop != "squash"
        assert long > 500 * short or crop == "border"


def test_a_name_that_is_too_long_is_no_crash(tmp_path):
    with pytest.raises(ImageError, match="File name too long"):
        load_image(tmp_path / ("a" * 5000))


def test_a_picture_that_memory_does_not_hold_is_told_so(tmp_path, monkeypatch):
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    (tmp_path / "a.png").write_bytes(out.getvalue())

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", full)
    with pytest.raises(ImageError, match="does not fit into memory; scale it down first"):
        load_image(tmp_path / "a.png")
