"""Correlations and SSIM, against scipy, scikit-image where it is there, and the formula with scipy's own filters."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

import vitscope
from vitscope.metrics import pearson, spearman, ssim


def draw(rng, shape=(4, 17, 19)):
    return torch.tensor(rng.normal(size=shape)), torch.tensor(rng.normal(size=shape))


def test_correlations_are_scipys_with_ties():
    rng = np.random.default_rng()
    a, b = draw(rng)
    b = (a + b).round()
    for ours, theirs in ((pearson, scipy.stats.pearsonr), (spearman, scipy.stats.spearmanr)):
        expected = [theirs(x.numpy().ravel(), y.numpy().ravel()).statistic for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(ours(a, b), expected, atol=1e-12)


def scaled(values):
    return (values - values.min()) / (values.max() - values.min())


def test_ssim_is_the_formula_in_a_window_around_every_pixel():
    rng = np.random.default_rng()
    a, b = draw(rng)
    b = a + 0.5 * b
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(weights, weights) / weights.sum() ** 2

    def mean(values):
        around = np.lib.stride_tricks.sliding_window_view(np.pad(values, 5, mode="symmetric"), window.shape)
        return (around * window).sum(axis=(2, 3))

    for index, found in enumerate(ssim(a, b)):
        x, y = scaled(a[index].numpy()), scaled(b[index].numpy())
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        local = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        assert found.item() == pytest.approx(local.mean(), abs=1e-10)


def test_ssim_is_scikit_images_but_for_its_edges():
    """scikit-image leaves the window's radius out at the edges; so compare where both have it: its full picture."""
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    rng = np.random.default_rng()
    a, b = draw(rng)
    for index, found in enumerate(ssim(a, b)):
        _, full = skimage.structural_similarity(
            scaled(a[index].numpy()),
            scaled(b[index].numpy()),
            data_range=1,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        assert found.item() == pytest.approx(full.mean(), abs=1e-10)


@pytest.mark.parametrize("alike", [pearson, spearman, ssim])
def test_itself_is_1_and_units_do_not_matter(alike):
    a, b = draw(np.random.default_rng())
    assert torch.allclose(alike(a, a), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(alike(a * 7 - 2, b), alike(a, b))
    torch.testing.assert_close(alike(b, a), alike(a, b))


def test_the_opposite_and_the_constant():
    a, _ = draw(np.random.default_rng())
    for alike in (pearson, spearman):
        assert torch.allclose(alike(a, -a), -torch.ones(4, dtype=torch.float64))
        assert alike(a, torch.full_like(a, 0.1)).isnan().all()
        assert alike(torch.full_like(a, 0.1).float(), a.float()).isnan().all()
    assert (ssim(a, -a) < 0.1).all()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(vitscope.MetricError, match="differ"):
        spearman(torch.ones(1, 3, 3), torch.ones(1, 3, 4))
    with pytest.raises(vitscope.MetricError, match="more than 5 rows"):
        ssim(torch.rand(1, 4, 9), torch.rand(1, 4, 9))
