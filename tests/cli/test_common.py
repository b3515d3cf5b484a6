"""The options that several commands share, in the form that the library takes."""

from __future__ import annotations

import pytest

from vitscope.cli.common import preprocessing_fields
from vitscope.errors import VitscopeError

NONE = {"size": None, "crop_pct": None, "crop_mode": None, "interpolation": None, "mean": None, "std": None}


@pytest.mark.parametrize(("text", "size"), [("256x384", (256, 384)), ("256X384", (256, 384)), ("384", (384, 384))])
def test_a_size_is_height_by_width(text, size):
    assert preprocessing_fields(**NONE | {"size": text}) == {"size": size}


def test_only_what_was_given_is_changed():
    given = {"crop_pct": 0.9, "crop_mode": "border", "mean": "0.1,0.2,0.3", "std": "1,2,3"}
    assert preprocessing_fields(**NONE | given) == {
        "crop_pct": 0.9,
        "crop_mode": "border",
        "mean": (0.1, 0.2, 0.3),
        "std": (1.0, 2.0, 3.0),
    }


@pytest.mark.parametrize(
    ("option", "text"), [("size", "1x2x3"), ("size", "wide"), ("size", ""), ("mean", "0.5"), ("std", "1,2,x")]
)
def test_other_numbers_are_refused_by_the_options_name(option, text):
    with pytest.raises(VitscopeError, match=f"--{option} {text}: give .* numbers separated by"):
        preprocessing_fields(**NONE | {option: text})
