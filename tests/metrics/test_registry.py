"""The registry, and what every metric must keep: a newcomer is tested before anyone writes a test for it."""

from __future__ import annotations

import math

import pytest
import torch

import vitscope
from tests.conftest import build, pictures
from vitscope import metrics
from vitscope.images import Preprocessing
from vitscope.metrics import (
    PRESETS,
    PUBLISHED,
    Forwards,
    GridMaps,
    ModelScorer,
    Pictures,
    Truth,
    as_metrics,
    as_presets,
    computations,
    default_names,
    evaluate,
    list_metrics,
    name_of,
    options_of,
    over_alterations,
    possible,
    published,
    register_metric,
    result_of,
    rows_of,
)
from vitscope.metrics.base import described
from vitscope.metrics.presets import WHOLE
from vitscope.metrics.regions import painted
from vitscope.metrics.registry import whole_of

SIZE = (32, 48)
METRICS = list(computations(as_metrics(PRESETS["all"].metrics)))


def kind_of(metric):
    return metric.facts[0].kind


class World:
    def __init__(self, count=3):
        seed = int(torch.randint(2**31, ()))
        self.model = build("non_square", seed=seed)
        g = torch.Generator().manual_seed(seed)
        labels = torch.randint(7, (count,), generator=g)
        tensor = pictures(self.model, count, seed=seed)
        self.pictures = Pictures(tensor, (8, 8), (0.5,) * 3, (0.5,) * 3, labels, labels, tuple(range(50, 50 + count)))
        self.values = torch.randn(2, count, 4, 6, generator=g)
        boxes = [torch.tensor([[2, 3, 20 + i, 18], [30, 4, 40, 9 + i]]) for i in range(count)]
        masks = torch.stack([painted(one, SIZE) for one in boxes])
        self.truth = Truth(masks, boxes, torch.rand(count, *SIZE, generator=g) < 0.2, labels)

    def measure(self, metric, images):
        """Of the first method's maps of some images, the second's as those of another class."""
        index = torch.tensor(images)
        first, second = (GridMaps(values[index], SIZE) for values in self.values)
        t, p = self.truth, self.pictures
        truth = Truth(t.masks[index], [t.boxes[i] for i in images], t.others[index], t.labels[index])
        some = Pictures(
            p.tensor[index],
            p.patch,
            p.mean,
            p.std,
            p.explained[index],
            p.labels[index],
            tuple(p.keys[i] for i in images),
        )
        if kind_of(metric) == "map":
            return metric(first, truth)
        if kind_of(metric) == "pair":
            return metric(first, second, truth)
        if kind_of(metric) == "forward":
            return evaluate([(metric, first)], Forwards(ModelScorer(self.model), some))[0]
        if hasattr(metric, "steps"):
            return metric.compare(first, [second, first])

        def explains(images, at):
            return {"toy": images.unflatten(-1, (6, 8)).unflatten(-3, (4, 8)).mean(dim=(1, 3, 5)) + first.values[at]}

        return over_alterations(metric, some, {"toy": explains(some.tensor, torch.arange(len(some)))["toy"]}, explains)[
            "toy"
        ]


def light(metric):
    """The same with fewer steps, where it has many."""
    names = options_of(metrics.registry.group_of(metric))
    fewer = {key: 4 for key in ("squares", "samples") if key in names}
    if kind_of(metric) == "forward" and "steps" in names:
        fewer["steps"] = 4
    return type(metric)(**{name: getattr(metric, name) for name in names} | fewer)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_values_are_those_of_the_facts_in_range_and_a_picture_each(metric):
    metric = light(metric)
    result = World().measure(metric, [0, 1, 2])
    facts = {one.name.split("/")[1]: one for one in metric.facts}
    assert set(result.values) == {name for name, one in facts.items() if not one.over_set}
    assert len(result) == 3
    for name, column in result.values.items():
        assert column.shape == (3,)
        assert column.dtype == torch.float64
        low, high = facts[name].range
        assert (column.isnan() | ((column >= low - 1e-9) & (column <= high + 1e-9))).all(), name
    for curve in result.curves.values():
        assert curve.y.shape == (3, len(curve.x))
        assert curve.y.dtype == curve.x.dtype == torch.float64


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_batch_equals_loop_and_permuting_permutes(metric):
    metric, world = light(metric), World()
    together = rows_of(metric, world.measure(metric, [0, 1, 2]))
    turned = rows_of(metric, world.measure(metric, [2, 0, 1]))
    alone = [rows_of(metric, world.measure(metric, [index])) for index in range(3)]
    for name, column in together.items():
        torch.testing.assert_close(turned[name], column[[2, 0, 1]], atol=1e-4, rtol=1e-4, equal_nan=True)
        loop = torch.cat([one[name] for one in alone])
        torch.testing.assert_close(loop, column, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_rows_become_the_result_again(metric):
    metric = light(metric)
    result = World().measure(metric, [0, 1])
    other = {"agcam/iou@0.5:corner=x": torch.zeros(2), f"{metrics.registry.group_of(metric)}/x@9:y=1": torch.zeros(2)}
    again = result_of(metric, rows_of(metric, result) | other)
    assert set(again.values) == set(result.values)
    assert set(again.parts) == set(result.parts)
    for name, curve in result.curves.items():
        assert torch.allclose(again.curves[name].x, curve.x, atol=1e-5)
        assert torch.equal(again.curves[name].y, curve.y)
    if hasattr(metric, "state"):
        states = metric.state(), metric.state()
        for state, one in zip(states, (result, again), strict=True):
            state.update(one, keys=(1, 2))
        # A curve's x comes back from its row's name: the same hundredth, another last bit.
        assert states[0].compute() == pytest.approx(states[1].compute(), abs=1e-12)
        over_set = {facts.name.split("/")[1] for facts in metric.facts if facts.over_set}
        assert set(states[0].compute()) == over_set


@pytest.mark.parametrize("facts", list_metrics(), ids=lambda facts: facts.name)
def test_facts_are_whole(facts):
    group, name = facts.name.split("/")
    assert group.replace("_", "").isalnum()
    assert name
    assert facts.title
    assert facts.paper
    assert facts.range[0] < facts.range[1]
    assert facts.needs_model == (facts.kind in ("forward", "explain"))


def test_what_is_measured_a_part_at_a_time_is_declared():
    assert {name.split("/")[0] for name, one in as_metrics(METRICS).items() if whole_of(one.metric) == "sanity"} == {
        "sanity"
    }
    assert [type(metric).__name__ for metric in METRICS if whole_of(metric) == "mosaics"] == ["GridPointing"]

    class Strange:
        facts = described("strange", "map", "none", "a test's", {"value": ("Strange", True)})
        parameter = ""
        whole = "mosaic"

    with pytest.raises(ValueError, match="strange is measured by 'mosaic'; there is sanity, mosaics"):
        register_metric(Strange)


@pytest.mark.parametrize("name", default_names())
def test_a_full_name_names_itself(name):
    ((found, chosen),) = as_metrics(name).items()
    assert found == name
    assert name_of(chosen.metric, chosen.facts.name) == name


def test_names_and_options():
    assert list(as_metrics("agcam/iou@0.3")) == ["agcam/iou@0.3"]
    assert list(as_metrics("daam@0.2")) == ["daam/iou@0.2", "daam/accuracy@0.2"]
    assert list(as_metrics("abpc/abpc:steps=20,map_of=predicted, compactness")) == [
        "abpc/abpc:steps=20,map_of=predicted",
        "compactness/share@0.05",
    ]
    assert list(as_metrics("agcam/iou:threshold=0.3")) == ["agcam/iou@0.3"]
    assert as_metrics("chefer@label")["chefer/positive@label"].metric.asks == ("label",)
    chosen = as_metrics("agcam,agcam/iou@0.25")
    assert {metric.threshold: len(names) for metric, names in computations(chosen).items()} == {0.5: 5, 0.25: 1}
    assert list(as_metrics([metrics.SRG(steps=7)])) == ["srg/srg:steps=7", "srg/morf:steps=7", "srg/lerf:steps=7"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("agcm", "unknown metric 'agcm'; did you mean agcam"),
        ("zzzz", "unknown metric 'zzzz'; known: agcam"),
        ("agcam/io", "unknown metric 'agcam/io'; agcam gives agcam/pixel_accuracy"),
        ("srg:step=3", "srg has no option 'step'; it takes area, fill, steps"),
        ("srg:fill=red", "srg:fill=red is not understood; it takes zero | black | mean | blur"),
        ("srg@3", "srg takes no parameter"),
        ("energy:x=1", "energy has no option 'x'; it takes no options"),
        ("agcam,agcam/iou", "agcam/iou@0.5 is named twice"),
        ("", "no metric is named; known"),
    ],
)
def test_wrong_words_are_answered(words, says):
    with pytest.raises(vitscope.MetricError, match=says):
        as_metrics(words)


def test_presets_bring_their_papers_protocol():
    agcam = PRESETS["agcam"]
    assert list(agcam.chosen()) == [f"agcam/{n}@0.5" for n in ("pixel_accuracy", "iou", "dice", "precision", "recall")]
    assert (agcam.target, agcam.images, dict(agcam.preprocessing)) == ("predicted", "correct", WHOLE)
    own = Preprocessing((224, 224), "bicubic", 0.9, "center", (0.5,) * 3, (0.5,) * 3)
    whole = own.replaced(**agcam.preprocessing)
    assert (whole.interpolation, whole.crop_pct, whole.crop_mode, whole.mean) == ("bilinear", 1.0, "squash", own.mean)
    for preset in PRESETS.values():
        assert preset.chosen()
        assert preset.describe()["name"] == preset.name
        own.replaced(**preset.preprocessing)
    groups = {facts.name.split("/")[0] for facts in list_metrics()}
    assert {name.split("/")[0] for name in PRESETS["all"].chosen()} == groups


def test_the_whole_photograph_is_resized_as_by_pillow():
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng()
    photo = Image.fromarray(rng.integers(0, 256, (75, 113, 3), dtype=np.uint8))
    own = Preprocessing((48, 32), "bicubic", 0.9, "center", (0.5,) * 3, (0.5,) * 3)
    tensor, geometry = own.replaced(**WHOLE)(photo)
    by_hand = np.asarray(photo.resize((32, 48), Image.Resampling.BILINEAR)) / 255 * 2 - 1
    np.testing.assert_allclose(tensor.permute(1, 2, 0), by_hand, atol=1e-6)
    assert geometry.crop == (0, 0, 48, 32)


def test_words_become_presets():
    assert [preset.name for preset in as_presets("agcam,srg")] == ["agcam", "srg"]
    (mixed, asked) = as_presets("compactness,agcam,agcam@0.3")
    assert (mixed.name, asked.name) == ("agcam", "asked")
    assert asked.metrics == ("compactness", "agcam@0.3")
    for words, says in (("sanit", "did you mean sanity"), ("", "presets: agcam"), ("zzzz", "presets: agcam")):
        with pytest.raises(vitscope.MetricError, match=says):
            as_presets(words)


def test_what_a_dataset_cannot_answer_is_said():
    chosen = PRESETS["all"].chosen()
    can, cannot = possible(chosen, ["mask", "label"])
    assert set(can) | set(cannot) == set(chosen)
    assert (
        cannot["two_objects/shift"] == "two_objects/shift needs masks of two things, which this dataset does not have"
    )
    assert "maxbox/v2" in cannot
    assert "agcam/iou@0.5" in can
    assert all(chosen[name].facts.truth == "none" for name in possible(chosen, [])[0])


def test_published_numbers_belong_to_metrics_that_exist():
    names = default_names()
    assert {one.metric for one in PUBLISHED} <= set(names)
    for one in PUBLISHED:
        low, high = names[one.metric].range
        assert low <= one.value <= high
        assert math.isfinite(one.value)
    (iou,) = (one for one in published("agcam/iou@0.5", "agcam") if one.dataset.startswith("ILSVRC"))
    assert iou.value == 0.5212
    (abpc,) = published("abpc/abpc", "agcam")
    (morf,), (lerf,) = published("abpc/morf", "agcam"), published("abpc/lerf", "agcam")
    assert abpc.value == pytest.approx(lerf.value - morf.value)
    assert len({(one.metric, one.method, one.dataset) for one in PUBLISHED}) == len(PUBLISHED)


def test_maps_that_are_none_are_refused():
    for values, words in (
        (torch.rand(3, 3), "are none"),
        (torch.full((1, 3, 3), torch.inf), "infinite"),
        (torch.full((1, 3, 3), torch.nan), "NaN"),
    ):
        with pytest.raises(vitscope.MetricError, match=words):
            GridMaps(values, (9, 9))
    assert GridMaps(torch.full((1, 9, 9), torch.nan), (9, 9)).bilinear.isnan().all()
    assert (GridMaps(torch.full((2, 5, 7), 0.1), (224, 224)).bilinear == torch.tensor(0.1)).all()
