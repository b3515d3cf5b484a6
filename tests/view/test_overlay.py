import matplotlib
import numpy as np
import pytest
import torch

from tests.view.scenes import cropped, photo, pixels, smooth
from vitscope.errors import ImageError, VitscopeError
from vitscope.images import Geometry
from vitscope.view import at_size, blend, fit, overlay


@pytest.mark.parametrize("size", [(32, 32), (32, 200), (333, 47), (1, 1), (1600, 1200)])
@pytest.mark.parametrize("signed", [False, True])
def test_the_overlay_has_exactly_the_photographs_size(size, signed):
    width, height = size
    result = overlay(photo(width, height), cropped(smooth(width, height, signed), width // 5, width // 5), signed)
    assert result.size == size
    assert result.mode == "RGB"


@pytest.mark.parametrize("signed", [False, True])
def test_no_evidence_leaves_the_photograph_and_differs_from_outside(signed):
    picture = photo()
    values = torch.zeros(90, 120)
    values[40, 60] = 1.0
    seen = pixels(overlay(picture, values, signed))
    unseen = pixels(overlay(picture, cropped(values), signed))
    luma = np.asarray(picture.convert("L")).astype(int)
    calm = np.ones((90, 120), dtype=bool)
    calm[40, 60] = False
    assert np.corrcoef(seen[calm].mean(-1), luma[calm])[0, 1] > 0.95
    assert abs(seen[calm].mean() - pixels(picture)[calm].mean()) < 5
    hidden = unseen[:, :15]
    assert hidden.mean() < 0.7 * seen[:, :15].mean()  # dimmed
    assert np.ptp(hidden, axis=-1).max() == 0  # without colour
    assert np.corrcoef(hidden.mean(-1).ravel(), luma[:, :15].ravel())[0, 1] > 0.3  # yet the photograph is seen


def test_zero_in_a_signed_map_is_neutral_and_the_signs_have_their_colours():
    grey = photo().convert("L").convert("RGB")
    values = torch.zeros(90, 120)
    values[:, :40], values[:, 80:] = -1.0, 1.0
    result = pixels(overlay(grey, values, signed=True))
    assert np.ptp(result[:, 45:75], axis=-1).max() == 0
    assert (result[:, 45:75] == pixels(grey)[:, 45:75]).all()
    assert (result[:, :40, 2] > result[:, :40, 0]).all()
    assert (result[:, 80:, 0] > result[:, 80:, 2]).all()


def test_a_signed_map_is_centred_whatever_its_range():
    grey = photo().convert("L").convert("RGB")
    values = torch.full((90, 120), 0.0)
    values[:10], values[80:] = 5.0, -0.5
    result = pixels(overlay(grey, values, signed=True))
    assert (result[20:70] == pixels(grey)[20:70]).all()


def test_opacity_grows_with_the_value():
    picture = photo()
    ramp = torch.linspace(0, 1, 120).expand(90, 120)
    white = np.abs(pixels(overlay(picture, ramp, False)) - pixels(overlay(picture, ramp, False, opacity=0.0)))
    moved = white.mean((0, 2))
    assert moved[0] == 0
    assert moved[-10:].mean() > moved[20:30].mean() > 0


def test_the_border_is_a_bright_line_outside_the_crop():
    result = pixels(overlay(photo(), cropped(smooth()), False))
    assert (result[:, 19] == 245).all()
    assert (result[:, 100] == 245).all()
    assert (result[:, 20] != 245).any()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [0.0, 3.0, torch.nan])
def test_flat_and_empty_maps_give_a_picture(signed, value):
    assert overlay(photo(), torch.full((90, 120), value), signed).size == (120, 90)


def test_half_precision_and_gradients_are_taken():
    overlay(photo(), smooth().half().requires_grad_(), False)


def test_a_map_of_another_size_is_an_error_that_says_what_to_do():
    with pytest.raises(ImageError, match="to_pixels"):
        overlay(photo(), torch.zeros(14, 14), False)
    with pytest.raises(VitscopeError, match="opacity"):
        blend(photo(), smooth(), False, opacity=2.0)


def test_fit_keeps_values_beside_the_outside():
    shares = cropped(torch.full((90, 120), 0.5))
    for size in ((30, 40), (180, 240), (45, 200)):
        small = fit(shares, size)
        assert small.shape == size
        assert 0.3 < np.isnan(small).mean() < 0.37
        assert np.allclose(small[~np.isnan(small)], 0.5)


@pytest.mark.parametrize("longest", [30, 120, 480])
def test_photograph_and_maps_are_brought_to_one_size(longest):
    picture = photo()  # 120 x 90, its middle 90 x 90 seen by a model of 3 x 3 patches
    geometry = Geometry(original=(90, 120), resized=(90, 120), crop=(0, 15, 90, 90))
    grid = torch.arange(9.0).view(1, 3, 3)
    view, maps = at_size(picture, geometry, torch.cat([grid, -grid]), longest)
    assert view.size == (longest, longest * 3 // 4)
    assert maps.shape == (2, view.height, view.width)
    assert np.array_equal(np.isnan(maps[0]), np.isnan(maps[1]))
    outside = np.isnan(maps[0]).mean()
    assert abs(float(outside) - 0.25) < 0.04
    at = (view.height // 2, view.width // 2)
    assert abs(float(maps[0][at]) - 4) < 0.4


def literal(picture, shares, signed):
    """The overlay in float64, formula by formula: a muted photograph, and the palette as far as the value covers it."""
    base = np.asarray(picture.convert("RGB"), dtype=np.float64)
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    quiet = base + 0.55 * (grey - base)
    known = np.nan_to_num(shares)
    cover = 0.65 * np.clip(np.abs(known), 0, 1) ** (0.85 if signed else 0.6)
    colours = matplotlib.colormaps["RdBu_r" if signed else "inferno"].resampled(257)
    place = (known + 1) / 2 if signed else known
    painted = 255 * colours(np.rint(np.clip(place, 0, 1) * 256).astype(int))[..., :3]
    return quiet + cover[..., None] * (painted - quiet)


@pytest.mark.parametrize("signed", [False, True])
def test_the_overlay_is_the_formula_in_float64_up_to_rounding(signed):
    picture = photo(300, 200)
    values = cropped(smooth(300, 200, signed), 40, 60).double().numpy()
    low, high = np.nanmin(values), np.nanmax(values)
    shares = values / max(-low, high) if signed else (values - low) / (high - low)
    inside = ~np.isnan(values)
    found = pixels(overlay(picture, torch.from_numpy(values), signed))
    apart = np.abs(found - literal(picture, shares, signed))[inside]
    assert apart.max() <= 4  # the palette's neighbouring colour
    assert (apart > 1.5).mean() < 0.002  # rounded thrice on its way


@pytest.mark.parametrize("size", [(45, 60), (30, 24), (180, 250)])
def test_fit_is_the_mean_of_what_a_pixel_covers_and_bilinear_when_growing(size):
    values = smooth(signed=True).double()
    mode = "area" if size[0] < 90 else "bilinear"
    expected = torch.nn.functional.interpolate(values[None, None], size, mode=mode)[0, 0].numpy()
    assert np.abs(fit(values, size) - expected).max() < 1e-5


def test_the_hatching_and_the_border_are_the_formula():
    picture = photo(700, 600)
    line = 2
    values = torch.full((600, 700), 0.5)
    values[:, :100], values[:50] = torch.nan, torch.nan
    found = pixels(overlay(picture, values, False))
    rows, cols = np.mgrid[0:600, 0:700]
    distance = np.abs((rows + cols) % (7.0 * line + 2) - (7.0 * line + 2) / 2)
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    hatched = np.minimum(0.42 * grey + 62 * np.clip(line * 0.6 + 0.5 - distance, 0, 1), 255)
    border = (rows >= 48) & (cols >= 98) & ((rows < 50) | (cols < 100))
    outside = (rows < 50) | (cols < 100)
    assert np.abs(found - hatched[..., None])[outside & ~border].max() <= 1
    assert (found[border] == 245).all()
    assert not (found[~border] == 245).all(-1).any()
