"""A model that runs a part of itself without a graph, as a linear probe does: what needs the graph says so by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vitscope
from tests.conftest import TINY, build, perturbed, pictures

NEEDS_IT = [
    "daam",
    "chefer",
    "agcam:path=full",
    "input_x_gradient",
    "integrated_gradients:steps=2",
    "smoothgrad:samples=2",
    "libra_fullgrad",
    "cplrp",
    "attcat",
    "chefer_lrp",
]
CLOSED = ["cdam", "agcam", "attention", "gradcam", "btt:steps=2", "rollout"]
SAYS = "no gradient leads from the model's output to its input"
PREPARED = {"size": 32}


class Probe(nn.Module):
    """A backbone that is not trained, and a head on its features."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = build(seed=5)
        self.backbone.reset_classifier(0)
        self.head = nn.Linear(TINY["embed_dim"], 5)

    def forward(self, x):
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


@pytest.fixture(scope="module")
def probe():
    return perturbed(Probe(), torch.Generator().manual_seed(6))


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("label", NEEDS_IT)
def test_a_linear_probe_is_refused_where_a_gradient_passes_its_blocks(probe, images, label):
    explainer = vitscope.Explainer(probe, preprocessing=PREPARED)
    with pytest.raises(vitscope.MethodError, match=SAYS):
        explainer(images, label)
    found = explainer(images, [label, "cdam"], strict=False)
    assert SAYS in found.failures[label]
    assert list(found.attributions) == ["cdam"]


def test_what_is_closed_goes_on(probe, images):
    """The same maps as where the backbone has a graph."""
    explainer = vitscope.Explainer(probe, preprocessing=PREPARED)
    whole = nn.Sequential(probe.backbone, probe.head)
    other = vitscope.Explainer(whole, preprocessing=PREPARED)
    for label in CLOSED:
        found, wanted = explainer(images, label)[label].values, other(images, label)[label].values
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-7)


def test_the_description_lists_them_with_the_reason(probe):
    methods = vitscope.describe(vitscope.Explainer(probe, preprocessing=PREPARED)).methods
    for label in NEEDS_IT:
        if label != "agcam:path=full":
            assert SAYS in methods[label.split(":")[0]]
    assert not any(methods[label.split(":")[0]] for label in CLOSED)


def test_a_model_whose_first_blocks_have_no_graph_is_refused():
    """Their gradients are missing, and must not be taken for those of other blocks."""
    model = build(seed=8)
    for block in model.blocks[:2]:
        block.forward = torch.no_grad()(block.forward)
    explainer, images = vitscope.Explainer(model), pictures(model)
    for label in ("daam", "chefer", "input_x_gradient", "attnlrp"):
        with pytest.raises(vitscope.MethodError, match=SAYS):
            explainer(images, label)
        needs = vitscope.methods.as_method(label).needs
        with pytest.raises(vitscope.MethodError, match=SAYS):  # also by the pass itself
            vitscope.trace.record(explainer.anatomy, images, needs, [vitscope.targets.Class(1)])


def test_patches_embedded_without_a_graph_stop_the_gradient_at_the_pictures_alone():
    model = build(seed=9)
    images = pictures(model)
    wanted = vitscope.Explainer(model)(images, "daam,chefer")
    model.patch_embed.forward = torch.no_grad()(model.patch_embed.forward)
    model.pos_embed.requires_grad_(False)
    model.cls_token.requires_grad_(False)
    explainer = vitscope.Explainer(model)
    found = explainer(images, "daam,chefer")
    for label in ("daam", "chefer"):
        assert torch.allclose(found[label].values, wanted[label].values, rtol=1e-4, atol=1e-7)
    with pytest.raises(vitscope.MethodError, match=SAYS):
        explainer(images, "input_x_gradient")
