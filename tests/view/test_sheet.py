import numpy as np
import pytest
import torch

from tests.view.scenes import cropped, photo, pixels, smooth
from vitscope.errors import ImageError
from vitscope.view import Panel, colour_bar, contact, sheet
from vitscope.view.sheet import TILE
from vitscope.view.text import font, number, wrap

LONG = "sulphur-crested cockatoo, Kakatoe galerita, Cacatua galerita, and all its other names (89) · p = 0.93"


def panels(count):
    return [Panel(f"method {n}", cropped(smooth(signed=n % 2 == 1)), n % 2 == 1, "a note") for n in range(count)]


@pytest.mark.parametrize(("count", "columns"), [(0, 2), (1, 2), (5, 6), (6, 4), (9, 5), (11, 6), (12, 5)])
def test_panels_go_on_evenly_filled_lines(count, columns):
    result = sheet(photo(), panels(count), "file.jpg", "fox (1) · p = 0.5")
    assert result.mode == "RGB"
    assert TILE * columns < result.width < (TILE + 30) * columns + 30


def test_more_text_makes_the_sheet_higher_and_never_wider():
    short = sheet(photo(), panels(1), "file.jpg", "fox")
    long = sheet(photo(), panels(1), "a_very_long_file_name" * 6, LONG * 2)
    assert long.width == short.width
    assert long.height > short.height
    assert (pixels(long)[:, -15:] == 255).all()  # nothing runs into the margin


def test_a_long_method_name_wraps_and_keeps_pictures_level():
    named = [Panel("integrated_gradients:steps=50,baseline=zero,path=full", smooth(), False), *panels(2)]
    assert sheet(photo(), named, "x").height > sheet(photo(), panels(3), "x").height


def test_a_missing_panel_is_blank_with_its_reason():
    missing = sheet(photo(), [Panel("chefer_lrp", None, False, "not defined for this model; use chefer")], "x")
    tile = pixels(missing)[60:250, -TILE:]
    assert (tile == (240, 241, 243)).all(-1).mean() > 0.5
    assert (tile.sum(-1) < 200).any()  # the text
    long = sheet(photo(300, 20), [Panel("m", None, False, "a long reason " * 20)], "x")
    assert long.height > 150


@pytest.mark.parametrize("value", [0.0, 0.25, torch.nan])
@pytest.mark.parametrize("signed", [False, True])
def test_flat_and_empty_maps_are_shown_as_such(value, signed):
    sheet(photo(), [Panel("flat", torch.full((90, 120), value), signed)], "x")


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (900, 40), (40, 900)])
def test_tiny_and_oblong_photographs(size):
    result = sheet(photo(*size), [Panel("m", smooth(*size), False)], "x")
    assert result.height < 3 * TILE


def test_contact_stacks_every_row():
    one = contact([(photo(), panels(2), "a")])
    rows = [
        (photo(), panels(2), "a"),
        (photo(60, 120), [Panel("m", smooth(60, 120), False)], "b"),
        (photo(), panels(7), "c"),
    ]
    many = contact(rows)
    assert many.width > one.width
    assert many.height > 3 * one.height
    with pytest.raises(ImageError, match="at least one"):
        contact([])


def test_a_wrong_size_names_the_method():
    with pytest.raises(ImageError, match=r"daam.*to_pixels"):
        sheet(photo(), [Panel("daam", torch.zeros(14, 14), False)], "x")


def test_the_colour_bar_runs_from_low_to_high():
    bar = np.asarray(colour_bar((101, 9), signed=True)).astype(int)
    assert bar.shape == (9, 101, 3)
    assert np.ptp(bar[0, 50]) <= 2
    assert bar[0, 0, 2] > bar[0, 0, 0]
    assert bar[0, -1, 0] > bar[0, -1, 2]


def test_wrapping_fits_loses_nothing_and_ends_with_an_ellipsis_where_it_must():
    face = font(14)
    lines = wrap(LONG, face, 160, 20)
    assert all(face.getlength(line) <= 160 for line in lines)
    assert " ".join(lines) == LONG
    assert "".join(wrap("x" * 200, face, 100, 99)) == "x" * 200
    assert len(wrap(LONG, face, 160, 2)) == 2
    assert wrap(LONG, face, 160, 2)[-1].endswith("…")
    assert wrap("", face, 100, 2) == []
    assert wrap("wide", face, 1, 99) == list("wide")


def test_numbers_carry_a_true_minus():
    assert number(-0.01234) == "−0.0123"
