"""Class sensitivity, compactness, and the class that a metric asks for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

import vitscope
from vitscope.metrics import ClassSensitivity, Compactness, GridMaps, Pictures, Truth, TwoObjects, asked_class


def test_compactness_is_a_count():
    rng = np.random.default_rng()
    values = torch.tensor(rng.normal(size=(3, 6, 7)) ** 5)
    for below in (0.05, 0.3):
        found = Compactness(below)(GridMaps(values, (24, 28)), Truth()).values["share"]
        for image in range(3):
            flat = values[image].flatten().tolist()
            limit = below * max(abs(value) for value in flat)
            assert found[image].item() == pytest.approx(sum(abs(value) <= limit for value in flat) / 42)
    for scale in (1e-9, -40):
        again = Compactness()(GridMaps(values * scale, (24, 28)), Truth()).values["share"]
        torch.testing.assert_close(again, Compactness()(GridMaps(values, (24, 28)), Truth()).values["share"])
    one = torch.zeros(1, 4, 4)
    assert Compactness()(GridMaps(one, (4, 4)), Truth()).values["share"].item() == 1
    one[0, 0, 0] = -3
    assert Compactness()(GridMaps(one, (4, 4)), Truth()).values["share"].item() == pytest.approx(15 / 16)
    assert Compactness()(GridMaps(torch.ones(1, 4, 4), (4, 4)), Truth()).values["share"].item() == 0


def test_class_sensitivity_is_a_correlation_and_1_for_a_deaf_map():
    first, second = (torch.randn(3, 5, 6) for _ in range(2))
    maps = [GridMaps(values, (20, 24)) for values in (first, second)]
    found = ClassSensitivity()(*maps, Truth()).values
    for image in range(3):
        pair = first[image].flatten().numpy(), second[image].flatten().numpy()
        assert found["pearson"][image].item() == pytest.approx(scipy.stats.pearsonr(*pair).statistic, abs=1e-6)
        assert found["spearman"][image].item() == pytest.approx(scipy.stats.spearmanr(*pair).statistic, abs=1e-6)
    deaf = ClassSensitivity()(maps[0], maps[0], Truth()).values
    assert torch.allclose(deaf["pearson"], torch.ones(3, dtype=torch.float64))


def test_two_objects_by_hand():
    size = (4, 4)
    left, right = torch.zeros(2, 1, *size, dtype=torch.bool).unbind()
    left[..., :1], right[..., 3:] = True, True
    truth = Truth(masks=left, others=right)
    of_left = torch.zeros(1, *size)
    of_left[..., 0], of_left[..., 3], of_left[..., 1] = 2.0, 1.0, 1.0  # half, a quarter, a quarter of the mass
    of_right = torch.zeros(1, *size)
    of_right[..., 3], of_right[..., 2] = 3.0, 1.0
    found = TwoObjects()(GridMaps(of_left, size), GridMaps(of_right, size), truth).values
    by_hand = {"asked": (0.5 + 0.75) / 2, "other": (0.25 + 0) / 2, "preference": 0.625 / 0.75, "shift": 0.5}
    assert {name: column.item() for name, column in found.items()} == pytest.approx(by_hand)
    deaf = TwoObjects()(GridMaps(of_left, size), GridMaps(of_left, size), truth).values
    assert deaf["preference"].item() == pytest.approx(0.5)
    assert deaf["shift"].item() == pytest.approx(0)
    perfect = TwoObjects()(GridMaps(left.float(), size), GridMaps(right.float(), size), truth).values
    assert {name: column.item() for name, column in perfect.items()} == {
        "asked": 1,
        "other": 0,
        "preference": 1,
        "shift": 1,
    }
    nowhere = TwoObjects()(GridMaps(torch.zeros(1, *size), size), GridMaps(torch.zeros(1, *size), size), truth)
    assert nowhere.values["preference"].isnan().all()


def test_the_class_that_is_asked():
    logits = torch.randn(40, 5)
    keys = tuple(range(100, 140))
    pictures = Pictures(
        torch.zeros(40, 3, 4, 4),
        (2, 2),
        (0.5,) * 3,
        (0.5,) * 3,
        torch.full((40,), 4),
        torch.full((40,), 3),
        keys,
    )
    order = logits.argsort(dim=1, descending=True)
    assert torch.equal(asked_class("predicted", logits, pictures), order[:, 0])
    assert torch.equal(asked_class("second", logits, pictures), order[:, 1])
    assert (asked_class("explained", logits, pictures) == 4).all()
    assert (asked_class("label", logits, pictures) == 3).all()
    drawn = asked_class("random", logits, pictures)
    assert (drawn != order[:, 0]).all()
    assert len(drawn.unique()) > 2
    turned = Pictures(pictures.tensor, (2, 2), (0.5,) * 3, (0.5,) * 3, pictures.explained, pictures.labels, keys[::-1])
    assert torch.equal(asked_class("random", logits.flip(0), turned), drawn.flip(0))
    for which, values, words in (("object", logits, "only the dataset"), ("second", logits[:, :1], "one output")):
        with pytest.raises(vitscope.MetricError, match=words):
            asked_class(which, values, pictures)
