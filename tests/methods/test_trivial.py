"""The maps that know nothing."""

from __future__ import annotations

import timm
import torch

import vitscope
from tests.conftest import build, perturbed, pictures
from vitscope.methods import list_methods


def test_they_are_of_the_grid_and_repeat():
    model = build("non_square")
    explainer, images = vitscope.Explainer(model), pictures(model, 3)
    ex = explainer(images, "random,center,frame,random:seed=1")
    assert all(attribution.values.shape == (3, 4, 6) for attribution in ex.attributions.values())
    noise = ex["random"].values
    assert torch.equal(explainer(images[1], "random")["random"].values[0], noise[1])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, ex["random:seed=1"].values)
    assert ((noise >= 0) & (noise < 1)).all()
    center = ex["center"].values[0]
    assert torch.allclose(center, center.flip(0, 1))
    assert center[1:3, 2:4].min() > center.amin()
    assert torch.equal(ex["frame"].values, torch.ones(3, 4, 6))


def test_they_are_known_as_trivial_and_no_refusal_recommends_them():
    assert {facts.name for facts in list_methods() if facts.trivial} == {"random", "center", "frame"}
    model = perturbed(timm.create_model("levit_128s", num_classes=7), by=0.1)
    explainer = vitscope.Explainer(model)
    ex = explainer(torch.randn(1, 3, 224, 224), "attention,legrad,center", strict=False)
    *_, ways_out = ex.failures["legrad"].partition("; use ")
    assert ways_out == "attention, input_x_gradient, integrated_gradients, smoothgrad, rise"
    assert ex["center"].values.shape == ex["attention"].values.shape
