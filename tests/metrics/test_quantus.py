"""Metrics against Quantus itself, where both have one; skipped where it is not installed.

Where Quantus defines a metric in another way, and what is done about it:

- PixelFlipping and RegionPerturbation start after the first replacement and give curves, not areas; features are
  channels of pixels, so a step of three features is a pixel. RegionPerturbation gives the drop, f(x) - f(altered).
- PointingGame hits where ANY of several highest pixels does; ours is the share. Compared where one is highest.
- RelevanceMassAccuracy adds up negative values too; compared on maps without.
- Infidelity replaces blocks one after the other without putting them back, and its baseline is of whole blocks;
  sensitivity-max and SSIM take their norms and ranges over other axes: Captum and scikit-image are compared instead.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import build, pictures
from vitscope.metrics import (
    SRG,
    EnergyPointing,
    Forwards,
    GridMaps,
    InsertionDeletion,
    ModelScorer,
    Pictures,
    PointingGame,
    RelevanceMass,
    Truth,
    evaluate,
    spearman,
)

quantus = pytest.importorskip("quantus", reason="Quantus is not installed (pip install quantus)")
QUIET = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}


@pytest.fixture
def world():
    seed = int(torch.randint(2**31, ()))
    model = build("vit", seed=seed)
    tensor = pictures(model, 3, seed=seed + 1)
    labels = torch.randint(7, (3,))
    return model, Pictures(tensor, (8, 8), (0.5,) * 3, (0.5,) * 3, labels, labels, (1, 2, 3))


def arguments(model, given, maps):
    return {
        "model": model,
        "x_batch": given.tensor.numpy(),
        "y_batch": given.explained.numpy(),
        "a_batch": maps[:, None].float().numpy(),
        "device": "cpu",
    }


@pytest.mark.parametrize(("order", "ours"), [("morf", "morf"), ("lerf", "lerf")])
def test_patches_occluded_in_order(world, order, ours):
    model, given = world
    maps = GridMaps(torch.randn(3, 4, 4), (32, 32))
    theirs = quantus.RegionPerturbation(
        patch_size=8, regions_evaluation=16, order=order, perturb_baseline=0.0, **QUIET
    )(**arguments(model, given, maps.nearest), softmax=False)
    (found,) = evaluate([(SRG(steps=16), maps)], Forwards(ModelScorer(model), given))
    curve = found.curves[ours].y
    np.testing.assert_allclose(curve[:, :1] - curve[:, 1:], np.array(theirs), atol=1e-4)


def test_pixels_deleted_in_order():
    model = build("dynamic", seed=int(torch.randint(2**31, ())))
    labels = torch.randint(7, (3,))
    given = Pictures(pictures(model, 3), (8, 8), (0.5,) * 3, (0.5,) * 3, labels)
    pixels = GridMaps(torch.randn(3, 24, 40), (24, 40))  # Quantus wants a step that divides the pixels: 960 / 192
    theirs = quantus.PixelFlipping(features_in_step=3 * 64, perturb_baseline=0.0, **QUIET)(
        **arguments(model, given, pixels.values), softmax=True
    )
    (found,) = evaluate([(InsertionDeletion(steps=15), pixels)], Forwards(ModelScorer(model), given))
    np.testing.assert_allclose(found.curves["deletion"].y[:, 1:], np.array(theirs), atol=1e-5)


def test_where_the_mass_lies(world):
    model, given = world
    masks = torch.rand(3, 32, 32) < 0.3
    signed, positive = torch.randn(3, 32, 32), torch.rand(3, 32, 32)
    truth = Truth(masks=masks)
    for maps, metric, name, theirs in (
        (signed, PointingGame(0), "hit", quantus.PointingGame(**QUIET)),
        (positive, RelevanceMass(), "mass", quantus.RelevanceMassAccuracy(**QUIET)),
        (signed, EnergyPointing(), "share", quantus.AttributionLocalisation(positive_attributions=True, **QUIET)),
    ):
        expected = theirs(**arguments(model, given, maps), s_batch=masks[:, None].numpy())
        found = metric(GridMaps(maps, (32, 32)), truth).values[name]
        np.testing.assert_allclose(found, np.array(expected, dtype=float).ravel(), atol=1e-5)


def test_rank_correlation():
    a, b = torch.randn(4, 6, 7), torch.randn(4, 6, 7)
    theirs = [
        quantus.similarity_func.correlation_spearman(x.ravel(), y.ravel())
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    np.testing.assert_allclose(spearman(a, b), theirs, atol=1e-9)
