import numpy as np
import pytest
import torch

from vitscope.errors import FlatMapError
from vitscope.view import clipped, daam_display, daam_frames, global_max, limits, minmax, symmetric


def with_nan(values):
    m = np.array(values, dtype=np.float32)
    m[0, 0] = np.nan
    return m


def test_minmax_spans_zero_to_one_and_keeps_nan():
    m = minmax(with_nan([[9.0, 2.0], [4.0, 6.0]]))
    assert np.isnan(m[0, 0])
    assert m[0, 1] == 0
    assert m[1, 0] == 0.5
    assert m[1, 1] == 1


def test_clipping_cuts_the_peaks_of_either_sign_at_the_scales_quantile():
    scale = torch.linspace(-1, 0.5, 101)
    maps = torch.tensor([[-7.0, 0.2], [-0.3, 9.0]])
    end = float(scale.abs().quantile(0.98))
    np.testing.assert_allclose(clipped(maps, scale), [[-end, 0.2], [-0.3, end]], rtol=1e-6)
    assert np.array_equal(clipped(maps, torch.zeros(5)), maps)


def test_symmetric_keeps_zero_and_signs():
    m = symmetric(with_nan([[9.0, 0.0], [-4.0, 1.0]]))
    assert np.isnan(m[0, 0])
    assert m[0, 1] == 0
    assert m[1, 0] == -1
    assert m[1, 1] == 0.25


def test_global_max_divides_by_the_last_frames_maximum():
    frames = torch.tensor([[[1.0, 8.0]], [[2.0, 4.0]]])
    assert np.array_equal(global_max(frames), frames / 4)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_a_flat_map_gives_zeros(value):
    flat = torch.full((3, 4), value)
    assert not minmax(flat).any()
    assert not np.isnan(symmetric(flat)).any()
    assert not symmetric(torch.zeros(3, 4)).any()
    assert not global_max(torch.zeros(2, 3, 4)).any()
    assert not daam_display(flat[None].clamp(min=0)).any()
    assert daam_frames(flat[None], (8, 8)).sum() == 0


def test_an_empty_inside_stays_nan():
    void = torch.full((3, 4), torch.nan)
    assert limits(void) == (0.0, 0.0)
    for scaled in (minmax(void), symmetric(void), global_max(void[None]), daam_display(void[None])):
        assert np.isnan(scaled).all()


def test_infinity_is_an_error_that_names_itself():
    m = torch.tensor([[1.0, torch.inf]])
    for scale in (minmax, symmetric):
        with pytest.raises(FlatMapError, match="infinite"):
            scale(m)
    with pytest.raises(FlatMapError, match="not finite"):
        daam_frames(torch.full((1, 2, 2), torch.nan), (4, 4))


def test_arguments_are_left_alone():
    m = with_nan([[9.0, 2.0], [-4.0, 6.0]])
    before = m.copy()
    minmax(m), symmetric(m), global_max(m[None])
    assert np.array_equal(m, before, equal_nan=True)


def test_daam_display_stretches_every_frame():
    display = daam_display(torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(0)).cumsum(0))
    assert (display.max((1, 2)) == 1).all()
    assert (display.min((1, 2)) == 0).all()


def test_daam_frames_have_the_size_asked_for():
    frames = daam_frames(torch.rand(3, 7, 5), (31, 50))
    assert frames.shape == (3, 31, 50)
    assert frames.dtype == np.uint8


def test_daam_frames_equal_the_official_ones(golden):
    flow = torch.from_numpy(golden["daam_blocks"][0, 0]).cumsum(0)
    official = golden["daam_frames_uint8_first"].astype(int)
    difference = np.abs(daam_frames(flow, (224, 224)).astype(int) - official)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # in fact all but a handful of grey levels are the same
