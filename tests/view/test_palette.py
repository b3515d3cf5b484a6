import numpy as np
import pytest
import torch

from vitscope.errors import VitscopeError
from vitscope.view import colour
from vitscope.view.palette import OUTSIDE


def test_zero_is_neutral_and_in_the_middle_of_a_signed_palette():
    minus, zero, plus = colour(torch.tensor([[-1.0, 0.0, 1.0]]), signed=True)[0].astype(int)
    assert np.ptp(zero) <= 2
    assert zero.min() > 230
    assert plus[0] > plus[2] + 50
    assert minus[2] > minus[0] + 50


def test_lightness_grows_with_an_unsigned_value():
    picture = colour(torch.linspace(0, 1, 100)[None], signed=False)[0].astype(float)
    luma = picture @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > -1).all()
    assert luma[-1] - luma[0] > 180


def test_form_clipping_and_nan():
    picture = colour(np.array([[-3.0, 0.0], [np.nan, 7.0]], dtype=np.float32), signed=False)
    assert picture.shape == (2, 2, 3)
    assert picture.dtype == np.uint8
    assert (picture[0, 0] == picture[0, 1]).all()
    assert tuple(picture[1, 0]) == OUTSIDE
    assert (picture[1, 1] == colour(np.ones((1, 1)), signed=False)[0, 0]).all()


def test_a_palette_by_name_and_a_wrong_name():
    ones = torch.ones(1, 1)
    assert (colour(ones, False, "viridis") != colour(ones, False)).any()
    with pytest.raises(VitscopeError, match="viridis"):
        colour(ones, False, "virids")
