"""The evidence of every class on a page, in whichever form is smaller, is the evidence that was computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import build, pictures
from vitscope import Explainer
from vitscope.report import gather, lens_of
from vitscope.report import lens as lens_module
from vitscope.report.packing import LEVELS, unpacked


def read(record, weight):
    """The maps of a record's classes, (k n), as the page makes them."""
    if record["form"] == "factors":
        return unpacked(weight) @ unpacked(record["effects"]).T
    return unpacked(record["maps"])


@pytest.mark.parametrize(("classes", "form"), [(7, "maps"), (400, "factors")])
def test_the_smaller_form_is_taken_and_is_right(classes, form):
    model = build(num_classes=classes, img_size=64)
    explainer = Explainer(model)
    x = pictures(model, 3)
    lens, evidence = lens_of(explainer, x), explainer.evidence(x)
    weight = lens.weight(3)
    assert (weight is not None) == (form == "factors")
    for image in range(3):
        record = lens.record(image, 3)
        assert record["form"] == form
        assert record["grid"] == [8, 8]
        expected = evidence.all()[image].flatten(1).numpy()
        found = read(record, weight)
        assert found.shape == expected.shape
        most = np.abs(expected).max(axis=1, keepdims=True)
        room = 2 * LEVELS**-1 * (most if form == "maps" else _room(evidence, image))
        assert (np.abs(found - expected) <= room).all()


def _room(evidence, image):
    """What half a level of both factors can come to."""
    effects, weight = evidence.effects[image].flatten(0, 1).abs(), evidence.weight.abs()
    return (weight.amax(1, keepdim=True) @ effects.amax(1, keepdim=True).T * effects.shape[1]).numpy()


def test_more_pictures_share_the_classifier():
    model = build(num_classes=30, img_size=64)
    lens = lens_of(Explainer(model), pictures(model, 1))
    assert lens.record(0, 1)["form"] == "maps"
    assert lens.record(0, 50)["form"] == "factors"


def test_where_all_would_be_too_much_the_first_classes_are_taken(monkeypatch):
    monkeypatch.setattr(lens_module, "MOST", 4_000)
    model = build(num_classes=400, img_size=64)
    explainer = Explainer(model)
    x = pictures(model, 2)
    lens, evidence = lens_of(explainer, x), explainer.evidence(x)
    record = lens.record(1, 2)
    count = len(record["classes"])
    assert 10 < count < 40
    assert len(str(record["maps"]["data"])) + len(record["maps"]["scale"]) < 4_000
    classes, maps = evidence.top(count)
    assert record["classes"] == classes[1].tolist()
    assert np.allclose(unpacked(record["maps"]), maps[1].flatten(1), atol=float(maps.abs().max()) / LEVELS)
    assert lens.weight(2) is None


@pytest.mark.parametrize("layout", ["mean", "mean_no_class_token"])
def test_without_a_closed_form_cdam_is_asked_for_the_first_classes(layout, monkeypatch):
    monkeypatch.setattr(gather, "ASKED", 3)
    model = build(layout, num_classes=9)
    explainer = Explainer(model)
    x = pictures(model, 2)
    record = lens_of(explainer, x).record(1)
    logits = model(x).detach()
    assert record["classes"] == logits[1].topk(3).indices.tolist()
    for place, index in enumerate(record["classes"]):
        values = explainer(x, "cdam", index)["cdam"].values[1].flatten()
        assert np.allclose(unpacked(record["maps"])[place], values, atol=float(values.abs().max()) / LEVELS + 1e-6)


def test_without_a_classifier_there_is_none_and_the_page_says_so():
    model = build(num_classes=0)
    lens = lens_of(Explainer(model), torch.randn(1, 3, 32, 32))
    assert lens.record(0) == {"form": "none", "reason": "the model has no classifier"}
    assert lens.weight() is None
