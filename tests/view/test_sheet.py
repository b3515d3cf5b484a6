import numpy as np
import pytest
import torch

from tests.view.scenes import cropped, photo, pixels, smooth
from vitscope.errors import ImageError
from vitscope.methods import FAMILIES
from vitscope.view import Panel, colour_bar, contact, sheet
from vitscope.view.sheet import TILE, _lines, _without_many
from vitscope.view.text import font, number, wrap
from vitscope.view.tiles import panel_cell, photo_cell, small_ground

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


def of_families(*counts):
    """So many panels of each family, all with maps."""
    return [
        Panel(f"{family} {n}", smooth(), False, "1 forward", family)
        for family, count in zip(FAMILIES, counts, strict=False)
        for n in range(count)
    ]


def bands(line):
    return [(block.heading, [cell.title for cell in block.cells]) for block in line]


def lines_of(panels, tile=220):
    ground = small_ground(photo(), tile)
    cells = [photo_cell(photo(), ground), *(panel_cell(photo(), ground, p, tile) for p in panels)]
    return [bands(line) for line in _lines(cells, tile)]


def test_one_line_keeps_its_order_and_has_no_headings():
    mixed = [Panel(str(n), smooth(), False, "", family) for n, family in enumerate(["cam", "papers", "cam"])]
    assert lines_of(mixed) == [[("", ["photograph", "0", "1", "2"])]]
    assert all(heading == "" for line in lines_of(of_families(9)) for heading, _ in line)


def test_more_lines_go_family_by_family_in_the_order_of_listings():
    names = list(FAMILIES)
    first, second = (["papers 0", "papers 1", "papers 2"], ["attention 0", "attention 1", "attention 2"])
    found = lines_of(list(reversed(of_families(3, 3, 4))))
    assert found[0] == [("", ["photograph"]), ("papers", first[::-1]), ("attention", second[::-1])]
    assert [heading for heading, _ in found[1]] == [names[2]]
    strange = [*of_families(5), Panel("mine", smooth(), False, "", "my own")]
    assert lines_of(strange)[-1][-1] == ("my own", ["mine"])


@pytest.mark.parametrize("tile", [220, 300])
@pytest.mark.parametrize("counts", [(5, 2, 2, 7, 0, 0, 0, 3), (5, 4, 10, 8, 9, 5, 5, 3), (6, 1), (40, 30)])
def test_every_panel_is_set_once_and_no_line_is_too_wide(counts, tile):
    wanted = of_families(*counts)
    found = lines_of(wanted, tile)
    assert [title for line in found for _, titles in line for title in titles] == [
        "photograph",
        *(panel.title for panel in wanted),
    ]
    assert max(sum(len(titles) for _, titles in line) for line in found) * (tile + 18) <= 1918
    continued = [heading for line in found for heading, _ in line if heading.endswith(", continued")]
    assert all(heading.removesuffix(", continued") in FAMILIES for heading in continued)
    page = contact([(photo(), wanted, "x")])
    assert page.width < 1930


def test_many_that_lack_a_map_for_one_reason_are_named_in_one_line():
    there = of_families(2)
    missing = [Panel(f"m{n}", None, False, "is not defined here; use daam") for n in range(5)]
    kept, below = _without_many([*there, *missing, Panel("odd", None, False, "is flat")])
    assert [panel.title for panel in kept] == ["papers 0", "papers 1", "odd"]
    assert below == ["left out: m0, m1, m2, m3, m4; each is not defined here; use daam"]
    assert _without_many([*there, *missing[:2]]) == ([*there, *missing[:2]], [])
    page = sheet(photo(), [*there, *missing], "x")
    assert page.width == sheet(photo(), there, "x").width
    assert page.height > sheet(photo(), there, "x").height


def test_the_foot_stands_below_everything_once():
    plain = contact([(photo(), panels(1), "a"), (photo(), panels(1), "b")])
    footed = contact([(photo(), panels(1), "a"), (photo(), panels(1), "b")], "how to read the colours")
    assert 0 < footed.height - plain.height < 50
    assert (pixels(footed)[: plain.height] == pixels(plain)).all()
    assert (pixels(footed)[plain.height - 18 :] < 128).any()
