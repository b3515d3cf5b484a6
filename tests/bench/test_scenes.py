"""The scenes bench: its tables are the means of what one would compute scene by scene."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch

from vitscope import Explainer
from vitscope.bench import Estimate, TwoObjectMass, localization, two_object_mass
from vitscope.bench.scenes import trivial_maps
from vitscope.datasets import Scenes
from vitscope.demo import sensitivity_table
from vitscope.errors import MethodError, VitscopeError
from vitscope.methods import CDAM, Facts, Maps
from vitscope.trace import Needs


@pytest.fixture(scope="module")
def explainer():
    return Explainer("scenes")


@dataclass(frozen=True)
class Blind:
    """A method that has no map of bright pictures."""

    limit: float
    facts = Facts("blind", "Blind", "attention", "none", 2026, False, True, "1", "a test's")

    @property
    def needs(self):
        return Needs()

    def __call__(self, trace):
        values = torch.rand(len(trace.logits), 1, *trace.grid)
        values[trace.logits[:, 0] > self.limit] = 1.0
        return Maps(values)


@pytest.mark.integration
def test_localization_agrees_with_one_scene_at_a_time(explainer):
    scenes, tuning = Scenes(4, seed=71), Scenes(3, seed=72)
    rows = {row.method: row for row in localization(explainer, "cdam,attention", scenes, tuning)}
    assert list(rows) == ["cdam", "attention", "random", "center", "frame"]

    def iou(scene, values, threshold):
        values = values.clip(0)
        low, high = values.min(), values.max()
        predicted = (values - low) / (high - low) >= threshold
        return (predicted & scene.mask()).sum() / (predicted | scene.mask()).sum()

    def maps(which, name):
        return [explainer([scene.image], name)[name].to_pixels()[0].double().numpy() for scene in which]

    for name in ("cdam", "attention"):
        grid, measured, chosen = np.linspace(0, 1, 101), maps(scenes, name), maps(tuning, name)
        tuned = [np.mean([iou(s, m, t) for s, m in zip(tuning, chosen, strict=True)]) for t in grid]
        assert rows[name].threshold == pytest.approx(grid[int(np.argmax(tuned))])
        expected = np.mean([iou(s, m, rows[name].threshold) for s, m in zip(scenes, measured, strict=True)])
        assert rows[name].iou.mean == pytest.approx(expected, abs=2e-3)
        energy = [m.clip(0)[s.mask()].sum() / m.clip(0).sum() for s, m in zip(scenes, measured, strict=True)]
        assert rows[name].energy.mean == pytest.approx(np.mean(energy), rel=1e-3)
        assert rows[name].iou.low <= rows[name].iou.mean <= rows[name].iou.high
        assert rows[name].iou.n == 4
    share = np.mean([scene.mask().mean() for scene in scenes])
    assert rows["frame"].energy.mean == pytest.approx(share)
    assert rows["frame"].iou.mean == pytest.approx(share)
    assert rows["frame"].threshold == 0


def test_a_question_is_answered_on_its_own_object(explainer):
    scenes = Scenes(12, "two", seed=73)
    seen = []
    rows = {row.method: row for row in two_object_mass(explainer, "cdam,attention", scenes, seen.append)}
    assert sum(seen) == 12
    shares = []
    for scene in scenes:
        for label in scene.labels:
            values = explainer([scene.image], "cdam", label)["cdam"].to_pixels()[0].clamp(min=0)
            shares.append(float(values[torch.from_numpy(scene.mask(label))].sum() / values.sum()))
    assert rows["cdam"].asked.mean == pytest.approx(np.mean(shares), rel=1e-3)
    assert rows["cdam"].asked.n == 24
    for deaf in ("attention", "random", "center", "frame"):
        assert rows[deaf].preference.mean == pytest.approx(0.5)
        assert rows[deaf].asked.mean == pytest.approx(rows[deaf].other.mean)
    assert rows["cdam"].preference.mean > 0.8


@pytest.mark.integration
def test_a_flat_map_is_counted_and_the_others_are_kept(explainer):
    scenes = Scenes(9, seed=74)
    logits = explainer([scene.image for scene in scenes], "attention").logits[:, 0]
    limit = float(logits.sort().values[5:7].mean())  # between two, where no rounding decides
    rows = {row.method: row for row in localization(explainer, [Blind(limit), CDAM()], scenes, scenes)}
    flat = rows[f"blind:limit={limit}"]
    assert flat.failures == 3
    assert flat.iou.n == 6
    assert rows["cdam"].failures == 0
    assert rows["cdam"].iou.n == 9
    with pytest.raises(VitscopeError, match="no map of any scene"):
        localization(explainer, [Blind(-1e9)], scenes, scenes)
    with pytest.raises(VitscopeError, match="no map of any scene"):
        two_object_mass(explainer, [Blind(-1e9)], Scenes(3, "two", seed=74))


def test_a_method_that_the_model_has_not_is_refused():
    windowed = timm.create_model("swin_tiny_patch4_window7_224", img_size=96, window_size=3, num_classes=12)
    with pytest.raises(MethodError, match="not defined"):
        localization(Explainer(windowed), "legrad", Scenes(1), Scenes(1))


def test_trivial_maps_know_nothing_and_repeat():
    scenes = list(Scenes(3, seed=75))
    maps, again = trivial_maps(scenes), trivial_maps(scenes[1:])
    assert torch.equal(maps["random"][1:], again["random"])
    assert not torch.equal(maps["random"][0], maps["random"][1])
    assert maps["center"][0].argmax() in (47 * 96 + 47, 47 * 96 + 48, 48 * 96 + 47, 48 * 96 + 48)
    torch.testing.assert_close(maps["center"][0], maps["center"][0].T)
    assert (maps["frame"] == 1).all()


def test_an_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        estimate = Estimate.of(rng.normal(2, 1, size=60).tolist())
        hits += estimate.low <= 2 <= estimate.high
    assert 178 <= hits <= 199
    assert Estimate.of([3.0]) == Estimate(3.0, 3.0, 3.0, 1)
    assert Estimate.of([1.0, 1.0]).high == 1.0


def test_a_mean_over_none_is_no_number_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Estimate.of([])
    assert found.n == 0
    assert np.isnan([found.mean, found.low, found.high]).all()
    some = Estimate.of([0.5])
    (line,) = sensitivity_table([TwoObjectMass("cdam", some, some, found, 0)]).lines
    assert [cell.text for cell in line] == ["cdam", "0.50", "0.50", "–"]
