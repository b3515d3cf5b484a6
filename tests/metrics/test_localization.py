"""Localization measures, against plain loops over pixels."""

import numpy as np
import pytest
import torch

from vitscope.errors import VitscopeError
from vitscope.metrics import THRESHOLDS, energy_in_mask, iou_curve


def by_hand(values, mask, threshold):
    finite = values[~np.isnan(values)]
    span = finite.max() - finite.min()
    hit = union = 0
    for at in np.ndindex(values.shape):
        scaled = 0.0 if np.isnan(values[at]) or span == 0 else (values[at] - finite.min()) / span
        predicted = scaled >= threshold
        hit += predicted and mask[at]
        union += predicted or mask[at]
    return hit / union


def draw(rng, outside=False):
    values = rng.normal(size=(3, 9, 7))
    masks = rng.random((3, 9, 7)) < 0.3
    masks[:, 4, 3] = True
    if outside:
        values[:, :, :2] = np.nan
    return values, masks


@pytest.mark.parametrize("outside", [False, True])
def test_iou_curve_is_that_of_a_loop_over_pixels(outside):
    values, masks = draw(np.random.default_rng(), outside)
    thresholds = torch.tensor([0.0, 0.2, 0.5, 0.77, 1.0], dtype=torch.float64)
    curve = iou_curve(torch.tensor(values), torch.tensor(masks), thresholds)
    assert curve.shape == (3, 5)
    for image in range(3):
        expected = [by_hand(values[image], masks[image], float(t)) for t in thresholds]
        np.testing.assert_allclose(curve[image], expected, atol=1e-6)


@pytest.mark.parametrize("outside", [False, True])
def test_energy_is_the_share_of_positive_mass(outside):
    values, masks = draw(np.random.default_rng(), outside)
    positive = np.nan_to_num(values).clip(min=0)
    expected = (positive * masks).sum(axis=(1, 2)) / positive.sum(axis=(1, 2))
    np.testing.assert_allclose(energy_in_mask(torch.tensor(values), torch.tensor(masks)), expected, atol=1e-6)


def test_the_mask_itself_is_perfect_and_a_flat_map_is_the_whole_frame():
    _, masks = draw(np.random.default_rng())
    truth = torch.tensor(masks)
    assert (iou_curve(truth.float(), truth)[:, 1:] == 1).all()
    assert (energy_in_mask(truth.float(), truth) == 1).all()
    flat = torch.full(truth.shape, 3.0)
    share = truth.float().mean(dim=(1, 2))
    torch.testing.assert_close(iou_curve(flat, truth)[:, 0], share)
    assert (iou_curve(flat, truth)[:, 1:] == 0).all()
    torch.testing.assert_close(energy_in_mask(flat, truth), share)
    assert (energy_in_mask(-flat, truth) == 0).all()
    assert len(THRESHOLDS) == 101


def test_scale_and_shift_do_not_change_the_curve():
    values, masks = (torch.tensor(part) for part in draw(np.random.default_rng()))
    torch.testing.assert_close(iou_curve(values * 1e-12 - 4e-12, masks), iou_curve(values, masks))


@pytest.mark.parametrize(
    ("values", "masks", "words"),
    [
        (torch.ones(2, 3, 3), torch.ones(2, 3, 4, dtype=torch.bool), "differ"),
        (torch.ones(3, 3), torch.ones(3, 3, dtype=torch.bool), "differ"),
        (torch.ones(1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.bool), "mask is empty"),
        (torch.full((1, 3, 3), torch.inf), torch.ones(1, 3, 3, dtype=torch.bool), "infinite"),
    ],
)
@pytest.mark.parametrize("measure", [iou_curve, energy_in_mask])
def test_what_cannot_be_measured_is_refused(measure, values, masks, words):
    with pytest.raises(VitscopeError, match=words):
        measure(values, masks)
