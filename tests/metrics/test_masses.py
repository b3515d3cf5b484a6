"""Localization by masks, against loops over pixels and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vitscope
from vitscope.metrics import (
    BestOnOthers,
    Curve,
    EnergyPointing,
    GridMaps,
    GridPointing,
    ImageNetSegmentation,
    PointingGame,
    RelevanceMass,
    Result,
    ThresholdCurve,
    Truth,
    average_precision,
    mosaics,
    pointing,
)


def draw(rng, count=4, grid=(5, 6), size=(20, 24)):
    maps = GridMaps(torch.tensor(rng.normal(size=(count, *grid))), size)
    masks = torch.tensor(rng.random((count, *size)) < 0.3)
    masks[:, 3, 3] = True
    return maps, masks


@pytest.mark.parametrize("tolerance", [0, 3])
def test_pointing_is_a_walk_over_the_mask(tolerance):
    rng = np.random.default_rng()
    _, masks = draw(rng, 8)
    masks &= torch.rand(masks.shape) < 0.05
    masks[:, 3, 3] = True
    noise = torch.tensor(rng.random(masks.shape))
    hits = pointing(noise, masks, tolerance)
    for image, (values, mask) in enumerate(zip(noise.numpy(), masks.numpy(), strict=True)):
        top = np.unravel_index(values.argmax(), values.shape)
        near = any(np.hypot(top[0] - y, top[1] - x) <= tolerance for y, x in zip(*np.nonzero(mask), strict=True))
        assert hits[image].item() == near


def test_several_highest_pixels_count_as_their_share():
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    assert pointing(torch.full((1, 4, 4), 7.0), masks).item() == pytest.approx(2 / 16)
    hit = PointingGame(0, "nearest")(GridMaps(torch.eye(2)[None], (4, 4)), Truth(masks=masks)).values["hit"]
    assert hit.item() == pytest.approx(2 / 8)


def test_average_precision_is_scikit_learns_with_ties():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng()
    for levels in (3, 10, 10**6):
        scores, truth = rng.integers(0, levels, (5, 80)), rng.random((5, 80)) < 0.4
        truth[:, 0] = True
        expected = [sklearn.average_precision_score(t, s) for s, t in zip(scores, truth, strict=True)]
        found = average_precision(torch.tensor(scores).double(), torch.tensor(truth))
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("ring", [False, True])
def test_segmentation_is_counted_pixel_by_pixel_over_the_set(ring):
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng()
    maps, masks = draw(rng)
    ignored = torch.tensor(rng.random(masks.shape) < 0.2) if ring else None
    metric = ImageNetSegmentation()
    found = metric(maps, Truth(masks=masks, ignored=ignored))
    shared, joined, hits, count = np.zeros(2), np.zeros(2), 0, 0
    for image, values in enumerate(maps.bilinear.double().numpy()):
        scaled = (values - values.min()) / (values.max() - values.min())
        keep = np.ones(values.shape, dtype=bool) if ignored is None else ~ignored[image].numpy()
        predicted, real = (scaled > scaled.mean())[keep], masks[image].numpy()[keep]
        for label in (0, 1):
            shared[label] += ((predicted == label) & (real == label)).sum()
            joined[label] += ((predicted == label) | (real == label)).sum()
        hits, count = hits + (predicted == real).sum(), count + keep.sum()
        assert found.values["pixel_accuracy"][image].item() == pytest.approx((predicted == real).mean())
        both = np.stack([1 - scaled[keep], scaled[keep]])
        ap = sklearn.average_precision_score(np.stack([~real, real]).ravel(), both.ravel())
        assert found.values["ap"][image].item() == pytest.approx(ap, abs=1e-9)
    state = metric.state()
    for part in (slice(0, 3), slice(3, 4)):
        other = metric.state()
        cut = Truth(masks=masks[part], ignored=None if ignored is None else ignored[part])
        other.update(metric(GridMaps(maps.values[part], maps.size), cut))
        state.merge(other)
    assert state.compute() == pytest.approx({"miou": (shared / joined).mean(), "set_pixel_accuracy": hits / count})


def test_the_mask_itself_is_perfect_and_its_inverse_the_worst():
    rng = np.random.default_rng()
    _, masks = draw(rng)
    truth, size = Truth(masks=masks), tuple(masks.shape[1:])
    perfect, inverse = GridMaps(masks.double(), size), GridMaps(1 - masks.double(), size)
    for metric, name in (
        (ImageNetSegmentation(), "pixel_accuracy"),
        (ImageNetSegmentation(), "ap"),
        (EnergyPointing(), "share"),
        (RelevanceMass(), "mass"),
        (PointingGame(0), "hit"),
        (ThresholdCurve(), "oracle"),
    ):
        assert (metric(perfect, truth).values[name] == 1).all()
        worst = metric(inverse, truth).values[name]
        assert (worst < 1).all()
        if name == "ap":  # two levels only: what is wrong comes first, then all the rest at once
            continue
        random = metric(GridMaps(torch.tensor(rng.random(masks.shape)), size), truth).values[name]
        assert (worst <= random + 1e-9).all()
    assert (EnergyPointing()(inverse, truth).values["share"] == 0).all()
    state = ImageNetSegmentation().state()
    state.update(ImageNetSegmentation()(perfect, truth))
    assert state.compute()["miou"] == 1


def test_a_constant_map_is_worth_the_masks_share():
    rng = np.random.default_rng()
    _, masks = draw(rng)
    truth, share = Truth(masks=masks), masks.double().mean(dim=(1, 2))
    flat = GridMaps(torch.full((4, 5, 6), 2.5), (20, 24))
    for metric, name in ((EnergyPointing(), "share"), (RelevanceMass(), "mass"), (PointingGame(0), "hit")):
        torch.testing.assert_close(metric(flat, truth).values[name], share, atol=1e-6, rtol=0)


def test_signs_of_the_relevance_mass():
    values = torch.tensor([[[1.0, -2.0], [3.0, -4.0]]])
    masks = torch.tensor([[[True, True], [False, False]]])
    for signs, share in (("positive", 1 / 4), ("absolute", 3 / 10)):
        found = RelevanceMass(signs)(GridMaps(values, (2, 2)), Truth(masks=masks)).values["mass"]
        assert found.item() == pytest.approx(share)


def test_units_do_not_matter():
    rng = np.random.default_rng()
    maps, masks = draw(rng)
    maps = GridMaps((maps.values * 64).round(), maps.size)  # exact in float32, enlarged by 4 as well
    truth = Truth(masks=masks)
    for metric, moved in (
        (ImageNetSegmentation(), maps.values * 3 - 5),
        (PointingGame(), maps.values * 3 - 5),
        (ThresholdCurve(positive=False), maps.values * 3 - 5),
        (EnergyPointing(), maps.values * 3),
        (ThresholdCurve(), maps.values * 3),
    ):
        there = metric(GridMaps(moved, maps.size), truth).values
        for name, value in metric(maps, truth).values.items():
            torch.testing.assert_close(there[name], value, atol=1e-6, rtol=0)


def best_on_others(curves, folds):
    """Each picture's value at the threshold that is best on average in the other folds, and which that is."""
    taken = [curves[folds != fold].mean(axis=0).argmax() for fold in folds]
    return curves[np.arange(len(curves)), taken], np.array(taken)


def test_the_best_threshold_is_chosen_on_the_other_pictures():
    rng = np.random.default_rng()
    maps, masks = draw(rng, 10)
    metric, keys = ThresholdCurve(steps=21), rng.integers(0, 10**9, 10).tolist()
    whole = metric(maps, Truth(masks=masks))
    values, places = best_on_others(whole.curves["iou"].y.numpy(), np.array(keys) % 2)
    states = [metric.state(), metric.state()]
    for start in range(0, 10, 5):
        part = slice(start, start + 5)
        result = metric(GridMaps(maps.values[part], maps.size), Truth(masks=masks[part]))
        states[start // 5].update(result, keys[part])
    states[0].merge(states[1])
    found = states[0].compute()
    assert found["best"] == pytest.approx(values.mean().item())
    assert found["threshold"] == pytest.approx((places / 20).mean())
    torch.testing.assert_close(
        whole.values["area"], torch.tensor(np.trapezoid(whole.curves["iou"].y.numpy(), dx=1 / 20, axis=1))
    )


def test_a_fold_is_not_measured_at_its_own_best_threshold():
    x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    curves = torch.tensor([[0.0, 0.2, 1.0], [0.0, 0.2, 1.0], [0.3, 0.2, 0.0]], dtype=torch.float64)
    state = BestOnOthers("iou")
    state.update(Result(curves={"iou": Curve(x, curves)}), keys=(0, 2, 1))
    # The even keys' best is threshold 1, taken for the odd one (0.0); the odd one's is 0, taken for the even (0.0).
    assert state.compute() == pytest.approx({"best": 0.0, "threshold": 1 / 3})
    with pytest.raises(vitscope.MetricError, match="a key a picture"):
        state.update(Result(curves={"iou": Curve(x, curves)}))


def test_mosaics_show_each_picture_in_its_cell():
    pictures = torch.randn(8, 3, 16, 12)
    made = mosaics(pictures, [1, 2, 3, 4, 4, 3, 2, 1], size=(32, 24))
    assert made.tensor.shape == (8, 3, 32, 24)
    assert made.labels.tolist() == [1, 2, 3, 4, 4, 3, 2, 1]
    for index in range(8):
        cell = made.tensor[index][:, made.cells[index]].view(3, 16, 12)
        torch.testing.assert_close(cell, pictures[index])
        assert made.cells[index].double().mean() == 0.25
    small = mosaics(pictures[:4], [5, 6, 7, 8])
    assert small.tensor.shape == (4, 3, 16, 12)
    share = GridPointing()(GridMaps(small.cells.float(), (16, 12)), Truth(masks=small.cells)).values["share"]
    assert (share == 1).all()
    flat = GridPointing()(GridMaps(torch.ones(4, 4, 4), (16, 12)), Truth(masks=small.cells)).values["share"]
    assert (flat == 0.25).all()


@pytest.mark.parametrize(
    ("count", "labels", "words"), [(3, [1, 2, 3], "no fours"), (4, [1, 2, 2, 3], "of one class"), (0, [], "no fours")]
)
def test_what_makes_no_mosaic_is_refused(count, labels, words):
    with pytest.raises(vitscope.MetricError, match=words):
        mosaics(torch.randn(count, 3, 8, 8), labels)
